"""Scores of films by hand, masks against faster-coco-eval, and evaluations on disk."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core.mask import encode
from spine_factory import HEIGHT_PX, SPINE_BOXES, SPINE_LEVELS, WIDTH_PX, finds, tiny_model, write_film

from shared.errors import SetupError
from shared.metrics.detection import Compared, Matched, coco_scores
from shared.report import Report
from shared.types import Detections
from spine.cases import Film
from spine.config import LEVELS
from spine.evaluate import evaluate, evaluate_films, films_of
from spine.masks import Mask, mask_of, mask_overlaps
from spine.predict import Predictor
from spine.scoring import (
    NOWHERE,
    Named,
    calibration_error,
    compare_names,
    confidence_curves,
    confusion,
    pair,
    scores_at,
    shift_of,
)
from spine.sources import shifts_from_table

TRUTH = Named(SPINE_BOXES, np.array(SPINE_LEVELS))


def called(levels, boxes=SPINE_BOXES):
    return Named(np.asarray(boxes, np.float32).reshape(-1, 4), np.array(levels, np.int64))


def test_all_right():
    naming = compare_names(TRUTH, TRUTH)
    assert naming == (6, 6, 6, 0, 0, 0, 0)
    assert naming.every_name_right
    assert naming.no_name_wrong


def test_a_shift_by_one_is_six_found_and_none_right():
    naming = compare_names(called(np.array(SPINE_LEVELS) + 1), TRUTH)
    assert (naming.found, naming.right, naming.off_by_one, naming.swaps) == (6, 0, 6, 0)


def test_a_missed_one_an_extra_one_a_swap_and_a_duplicate():
    boxes = [*SPINE_BOXES[:5], [0, 0, 20, 20]]  # the last is missed, and there is one in the corner
    levels = [SPINE_LEVELS[0], SPINE_LEVELS[2], SPINE_LEVELS[1], SPINE_LEVELS[3], SPINE_LEVELS[3], 0]
    naming = compare_names(called(levels, boxes), TRUTH)
    assert naming == (6, 5, 2, 3, 1, 2, 1)  # T12 above T11 does not follow, nor L1 on L1
    assert not naming.every_name_right


@pytest.mark.parametrize("by", [-2, 0, 1])
def test_a_film_named_off_throughout_is_told_apart(by):
    levels = np.array(SPINE_LEVELS)
    assert shift_of(called(levels + by), TRUTH) == by
    one_more = levels + by
    one_more[0] -= 1
    assert shift_of(called(one_more), TRUTH) == by  # five of six
    two_more = one_more.copy()
    two_more[1] -= 1
    assert shift_of(called(two_more), TRUTH) == 0
    assert shift_of(called([], []), TRUTH) == 0
    few = called(levels[:3] + by, SPINE_BOXES[:3])
    assert shift_of(few, TRUTH) == 0
    assert shift_of(called(levels[:4] + by, SPINE_BOXES[:4]), TRUTH) == by


def test_pairs_are_by_overlap_alone_and_one_to_one():
    near = SPINE_BOXES[:1] + np.array([0, 5, 0, 5])
    assert pair(np.concatenate([near, SPINE_BOXES[:1]]), SPINE_BOXES[:2]).tolist() == [1, -1]
    assert pair(SPINE_BOXES[:0], SPINE_BOXES[:2]).tolist() == [-1, -1]
    assert pair(SPINE_BOXES[:1] + np.array([0, 21, 0, 21]), SPINE_BOXES[:1]).tolist() == [-1]  # IoU 1/3


def test_confusion_counts_everything_once():
    boxes = [*SPINE_BOXES[:5], [0, 0, 20, 20]]
    levels = [*SPINE_LEVELS[:4], SPINE_LEVELS[5], 0]
    counts = confusion([(called(levels, boxes), TRUTH), (called([], []), TRUTH)])
    assert counts.sum() == 13
    assert counts[SPINE_LEVELS[0], SPINE_LEVELS[0]] == 1
    assert counts[SPINE_LEVELS[4], SPINE_LEVELS[5]] == 1
    assert counts[SPINE_LEVELS[5], NOWHERE] == 2
    assert counts[NOWHERE, 0] == 1


def matched(scores, hits, truths):
    count = len(scores)
    return Matched(
        np.array(scores, float), np.zeros(count, np.int64), np.array(hits, float), np.zeros(truths, np.int64)
    )


def test_curves_are_counts_at_each_confidence():
    films = [matched([0.9, 0.5, 0.3], [1, 0, 1], 2), matched([0.7], [1], 2)]
    for confidence, precision, recall in [(0.8, 1, 0.25), (0.6, 1, 0.5), (0.4, 2 / 3, 0.5), (0.2, 3 / 4, 3 / 4)]:
        found = scores_at(films, confidence)
        assert (found["precision"], found["recall"]) == pytest.approx((precision, recall))
        curves = confidence_curves(films)
        at = int(np.argmin(np.abs(curves.confidence - confidence)))
        assert (curves.precision[0, at], curves.recall[0, at]) == pytest.approx((precision, recall))
    best, confidence = confidence_curves(films).best
    assert best == pytest.approx(0.75)
    assert confidence <= 0.3
    assert scores_at(films, 0.95) == {"precision": 1, "recall": 0, "f1": 0}


def blob(rng, near=None):
    """A mask that is no box: a disc, by itself or near another."""
    radius = rng.integers(6, 16)
    centre = rng.uniform(20, 80, 2) if near is None else near + rng.normal(0, 3, 2)
    low = np.floor(np.clip(centre - radius, 0, 99)).astype(int)
    high = np.ceil(np.clip(centre + radius, 1, 100)).astype(int)
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    return Mask(int(low[0]), int(low[1]), np.hypot(x - centre[0], y - centre[1]) < radius), centre


def full(mask):
    picture = np.zeros((100, 100), np.uint8)
    mask.paint(picture, 1)
    return picture


def test_overlaps_of_masks_are_those_of_painted_pixels():
    rng = np.random.default_rng(0)
    found, truth = [blob(rng)[0] for _ in range(12)], [blob(rng)[0] for _ in range(9)]
    overlaps = mask_overlaps(found, truth)
    assert (overlaps > 0).sum() > 8
    for (row, column), value in np.ndenumerate(overlaps):
        one, other = full(found[row]) > 0, full(truth[column]) > 0
        assert value == pytest.approx((one & other).sum() / (one | other).sum())


def test_average_precision_of_masks_is_cocos():
    rng = np.random.default_rng(1)
    gold, found, compared, overlaps = [], [], [], []
    for image in range(8):
        truths = [blob(rng) for _ in range(4)]
        masks = [blob(rng, centre)[0] for _, centre in truths[:3]] + [blob(rng)[0]]
        labels, called_labels = rng.integers(0, 2, 4), rng.integers(0, 2, 4)
        scores = rng.random(4).round(3)
        for number, ((mask, _), label) in enumerate(zip(truths, labels, strict=True)):
            code = encode(np.asfortranarray(full(mask)))
            gold.append({"id": len(gold) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0,
                         "segmentation": code, "area": int(full(mask).sum()), "bbox": [0, 0, 1, 1]})  # fmt: skip
            found.append({"image_id": image, "category_id": int(called_labels[number]), "score": float(scores[number]),
                          "segmentation": encode(np.asfortranarray(full(masks[number])))})  # fmt: skip
        nowhere = np.zeros((4, 4), np.float32)
        detections = Detections(nowhere, scores.astype(np.float32), called_labels, {0: "a", 1: "b"}, 100, 100)
        compared.append(Compared(detections, nowhere, labels))
        overlaps.append(mask_overlaps(masks, [mask for mask, _ in truths]))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "info": {}, "images": [{"id": k, "width": 100, "height": 100} for k in range(8)],
            "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}], "annotations": gold,
        }  # fmt: skip
        data.createIndex()
        judge = COCOeval_faster(data, data.loadRes(found), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    ours = coco_scores(compared, overlaps)
    assert 0.05 < ours["ap50"] < 0.95
    assert [ours["ap50_95"], ours["ap50"], ours["ap75"]] == pytest.approx(judge.stats[:3], abs=1e-6)


def test_a_polygons_mask_is_the_pixels_whose_centres_it_holds():
    square = np.array([[10, 20], [30, 20], [30, 40], [10, 40]], np.float32)
    mask = mask_of(square, 100, 100)
    assert (mask.left_px, mask.top_px, mask.inside.sum()) == (10, 20, 400)
    beyond = mask_of(square + np.array([80, 0]), 100, 100)
    assert beyond.inside.sum() == 200


def write_labels(path, boxes=SPINE_BOXES, levels=SPINE_LEVELS):
    lines = []
    for (x1, y1, x2, y2), level in zip(boxes, levels, strict=True):
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x = ((x1 + x2) + np.cos(angles) * (x2 - x1)) / 2 / WIDTH_PX
        y = ((y1 + y2) + np.sin(angles) * (y2 - y1)) / 2 / HEIGHT_PX
        lines.append(f"{level} " + " ".join(f"{v:.6f}" for v in np.stack([x, y], 1).ravel()))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def films(tmp_path):
    made = []
    for k in range(3):
        image = write_film(tmp_path / f"{k}.png")
        made.append(Film(image, write_labels(tmp_path / f"{k}.txt"), "val", f"patient {k}"))
    return made


def test_a_perfect_model_scores_one_everywhere(films):
    scores = evaluate(finds(Predictor(tiny_model(), "cpu")), films)
    for stage in ("before", "after"):
        assert scores.average_precision(stage, "box") == {"ap50": 1, "ap75": 1, "ap50_95": pytest.approx(1)}
        assert scores.average_precision(stage, "mask")["ap75"] == 1
        rates = scores.rates(stage)
        assert rates["identification"] == {"value": 1, "interval_95": [1, 1]}
        assert rates["films_every_name_right"]["value"] == 1
        assert rates["films_every_name_right"]["interval_95"][0] < 0.5  # three films say little
        assert rates["counts"]["vertebrae"] == 18
    assert scores.gate() > 0.8
    assert scores.means()["identification"] == 1


def test_ordering_repairs_names_and_both_are_told(films):
    scores24 = np.full((6, 24), 0.01)
    scores24[range(6), SPINE_LEVELS] = 0.9
    scores24[2, SPINE_LEVELS[2]], scores24[2, SPINE_LEVELS[1]] = 0.3, 0.4
    scores = evaluate(finds(Predictor(tiny_model(), "cpu"), scores=scores24), films)
    before, after = scores.rates("before"), scores.rates("after")
    assert before["identification"]["value"] == pytest.approx(5 / 6)
    assert before["off_by_one_of_found"]["value"] == pytest.approx(1 / 6)
    assert before["counts"]["swaps"] == before["counts"]["duplicates"] == 3
    assert after["identification"]["value"] == 1
    assert after["counts"]["swaps"] == after["counts"]["duplicates"] == 0
    every_level, one_each = (len(scores.films[0].compared[stage].found) for stage in ("before", "after"))
    assert (every_level, one_each) == (6 * 24, 6)  # before, a candidate counts for each level that it may be


def test_films_off_throughout_are_listed_for_merge(films, tmp_path):
    scores24 = np.full((6, 24), 0.01)
    scores24[range(6), np.array(SPINE_LEVELS) + 1] = 0.9
    report = Report("spine", "evaluate", {"split": "validation"})
    scores = evaluate_films(finds(Predictor(tiny_model(), "cpu"), scores=scores24), films, tmp_path / "scores", report)
    assert shifts_from_table(tmp_path / "scores/shifts.csv") == {"0": 1, "1": 1, "2": 1}
    assert scores.rates("after")["films_shifted"]["value"] == 1


def test_how_sure_names_are_is_laid_beside_how_many_are_right(films):
    scores = evaluate(finds(Predictor(tiny_model(), "cpu")), films)
    sure = float(np.mean([scored.result.scores for scored in scores.films]))
    assert scores.calibration() == {"confidence": pytest.approx(sure), "right": 1, "error": pytest.approx(1 - sure)}


def test_calibration_error_by_hand():
    right = np.array([True, False, True, True])
    assert calibration_error(np.array([0.72, 0.78, 0.95, 1.0]), right) == pytest.approx((0.5 + 0.05) / 4)
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_the_gate_asks_for_names_as_well(films):
    """Every name is a neighbour's; the right one has a score too, which is enough for some average precision."""
    scores24 = np.full((6, 24), 0.01)
    scores24[range(6), SPINE_LEVELS], scores24[range(6), np.array(SPINE_LEVELS) + 1] = 0.3, 0.9
    scores = evaluate(finds(Predictor(tiny_model(), "cpu"), scores=scores24), films)
    precision = np.mean([scores.average_precision("before", kind)["ap50_95"] for kind in ("box", "mask")])
    assert scores.rates("after")["identification"]["value"] == 0
    assert 0.2 < precision < 0.9
    assert scores.gate() == pytest.approx(precision / 2)


def test_an_evaluation_on_disk_goes_on_after_a_broken_film(films, tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "worst-of-another-run.png").write_bytes(b"old")
    films[1].image.write_bytes(b"broken")
    (films[2].label).write_text(f"{LEVELS.index('T10')} 0.1 0.1")
    out = tmp_path / "scores"
    report = Report("spine", "evaluate", {"split": "validation"})
    scores = evaluate_films(finds(Predictor(tiny_model(), "cpu")), films, out, report)
    assert len(scores.films) == 1
    assert report.exit_status == 1
    assert [str(films[1].image) in scores.failures[0], str(films[2].label) in scores.failures[1]] == [True, True]
    content = json.loads((out / "scores.json").read_text())
    assert content["scores"]["names"]["after"]["identification"] == {"value": 1, "interval_95": [None, None]}
    assert content["scores"]["box"]["best_f1"]["f1"] == 1
    with (out / "films.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["film"], row["right_after"], row["swaps_after"]) == ("0.png", "6", "0")
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"curves.png", "confusion.png", "labels.png", "names.png", "worst-0.png"}


def test_a_part_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SetupError, match="--split nonsense: no such part"):
        films_of(tmp_path, "nonsense")
    with pytest.raises(SetupError, match=r"holds no manifest\.csv"):
        films_of(tmp_path, "validation")
