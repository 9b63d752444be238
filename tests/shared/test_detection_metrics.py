"""Detection scores against hand-made cases, a brute-force definition, and pycocotools where it is installed."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from shared.boxes import iou_matrix
from shared.metrics.bootstrap import wilson_interval
from shared.metrics.detection import (
    COCO_IOUS,
    Compared,
    average_precision,
    coco_scores,
    froc,
    match,
    matched_ious,
    picture_rates,
    precision_recall,
    score_interval,
)
from shared.types import Detections

NAMES = {1: "fracture", 2: "implant"}


def detections(boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int] = ()) -> Detections:
    given_labels = np.array(labels or [1] * len(scores), np.int64)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(corners, np.array(scores, np.float32), given_labels, NAMES, 100, 100)


def picture(
    truth: Sequence[Sequence[float]],
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    labels: Sequence[int] = (),
    truth_labels: Sequence[int] = (),
) -> Compared:
    true = np.array(truth_labels or [1] * len(truth), np.int64)
    return Compared(detections(boxes, scores, labels), np.array(truth, np.float32).reshape(-1, 4), true)


A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]
HALF = [0, 0, 10, 5]  # IoU with A: exactly 0.5


def drawn(data: np.random.Generator, count: int = 12) -> list[Compared]:
    """Pictures with true boxes, near hits, misses and false alarms of two labels; some without a true box."""
    pictures = []
    for _ in range(count):
        truth = data.uniform(0, 60, (data.integers(0, 4), 2))
        truth = np.concatenate([truth, truth + data.uniform(5, 40, truth.shape)], 1)
        near = truth[data.random(len(truth)) < 0.8]
        near = near + data.normal(0, 3, near.shape)
        alarms = data.uniform(0, 60, (data.integers(0, 4), 2))
        boxes = np.concatenate([near, np.concatenate([alarms, alarms + data.uniform(5, 40, alarms.shape)], 1)])
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        scores = np.round(data.random(len(boxes)), 2)  # ties happen
        labels = data.integers(1, 3, len(boxes))
        pictures.append(
            picture(truth.tolist(), boxes.tolist(), scores, labels.tolist(), data.integers(1, 3, len(truth)).tolist())
        )
    return pictures  # fmt: skip


def brute_ap(pictures: Sequence[Compared], iou: float, label: int) -> float:
    """Average precision from its definition: the best precision at each recall or a higher one, no cumulative sums."""
    hits: list[tuple[float, bool]] = []
    truths = 0
    for found, boxes, labels in pictures:
        true = boxes[labels == label]
        truths += len(true)
        taken: set[int] = set()
        mine = [k for k in np.argsort(-found.scores, kind="stable") if found.labels[k] == label]
        for k in mine:
            overlaps = iou_matrix(found.boxes_px[k : k + 1], true)[0]
            free = [(overlaps[j], j) for j in range(len(true)) if j not in taken and overlaps[j] >= iou]
            if free:
                taken.add(max(free)[1])
            hits.append((float(found.scores[k]), bool(free)))
    if not truths:
        return math.nan
    hits.sort(key=lambda item: -item[0])
    points = [
        (sum(hit for _, hit in hits[:k]) / truths, sum(hit for _, hit in hits[:k]) / k) for k in range(1, len(hits) + 1)
    ]
    return float(
        np.mean([max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)])
    )


def test_perfect_and_empty() -> None:
    perfect = [picture([A, B], [B, A], [0.9, 0.8]), picture([], [], [])]
    assert coco_scores(perfect) == {"ap50": 1, "ap75": 1, "ap50_95": 1}
    assert average_precision(match([picture([A], [], [])])) == 0
    assert math.isnan(average_precision(match([picture([], [A], [0.9])])))
    assert math.isnan(average_precision([]))


def test_by_hand() -> None:
    """Hit, false alarm, hit of two: precision 1 up to recall 0.5, then 2/3: (51 + 50 * 2/3) / 101."""
    matched = match([picture([A, B], [A, C, B], [0.9, 0.8, 0.7])])
    assert average_precision(matched) == pytest.approx((51 + 50 * 2 / 3) / 101)
    curve = precision_recall(matched)
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.precision.tolist() == pytest.approx([1, 0.5, 2 / 3])


def test_a_false_alarm_on_a_normal_picture_lowers_precision() -> None:
    fractured = picture([A], [A], [0.5])
    assert average_precision(match([fractured, picture([], [], [])])) == 1
    assert average_precision(match([fractured, picture([], [B], [0.9])])) == pytest.approx(0.5)
    assert average_precision(match([fractured, picture([], [B], [0.4])])) == 1


def test_a_box_is_found_once_and_an_iou_of_just_the_threshold_counts() -> None:
    doubled = match([picture([A], [A, A, A], [0.9, 0.8, 0.7])])
    assert doubled[0].ious.tolist() == [1, 0, 0]
    assert match([picture([A], [HALF], [0.9])], 0.5)[0].ious.tolist() == [0.5]
    assert match([picture([A], [HALF], [0.9])], 0.51)[0].ious.tolist() == [0]


def test_the_best_overlap_wins_and_labels_are_kept_apart() -> None:
    near, shifted = [1, 0, 11, 10], [4, 0, 14, 10]
    found = match([picture([shifted, A], [near], [0.9])])[0]
    assert found.ious[0] == pytest.approx(iou_matrix(np.array([near]), np.array([A]))[0, 0])
    other = match([picture([A], [A], [0.9], labels=[2])])
    assert other[0].ious.tolist() == [0]
    assert average_precision(other) == 0


def test_the_mean_iou_is_that_of_matched_boxes() -> None:
    matched = match([picture([A, B], [HALF, B, C], [0.9, 0.3, 0.8]), picture([], [C], [0.9])], 0.5)
    assert sorted(matched_ious(matched)) == [0.5, 1]
    assert matched_ious(matched, threshold=0.5).tolist() == [0.5]
    assert matched_ious([]).size == 0


def test_froc_by_hand() -> None:
    """Four pictures, four true boxes; scores: hit .9, alarm .8, hit .7, alarm .6, alarm .6, hit .6, hit .1."""
    pictures = [
        picture([A, B], [A, C, B], [0.9, 0.8, 0.7]),
        picture([A, B], [C, [70, 70, 80, 80], B, A], [0.6, 0.6, 0.6, 0.1]),
        picture([], [], []),
        picture([], [], []),
    ]
    points = froc(match(pictures), rates=(0.1, 0.25, 0.5, 0.75, 8))
    assert [point.sensitivity for point in points] == [0.25, 0.5, 0.5, 1, 1]
    assert [point.threshold for point in points] == pytest.approx([0.9, 0.7, 0.7, 0.1, 0.1])
    assert [point.false_positives_per_picture for point in points] == [0, 0.25, 0.25, 0.75, 0.75]
    alarms = froc(match([picture([A], [B, C], [0.9, 0.9])]), rates=(1, 2))
    assert [(point.sensitivity, point.threshold) for point in alarms] == [(0, math.inf), (0, pytest.approx(0.9))]
    assert math.isnan(froc(match([picture([], [A], [0.5])]))[0].sensitivity)


@limits(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_froc_thresholds_give_what_they_promise(seed: int) -> None:
    pictures = drawn(np.random.default_rng(seed))
    matched = match(pictures)
    truths = sum(len(p.truth_labels) for p in matched)
    for rate, point in zip((0.25, 1, 4), froc(matched, (0.25, 1, 4)), strict=True):
        above = [p.ious[p.scores >= point.threshold] for p in matched]
        false = sum(int((ious == 0).sum()) for ious in above) / len(matched)
        assert false == pytest.approx(point.false_positives_per_picture)
        assert false <= rate
        if truths:
            assert point.sensitivity == pytest.approx(sum(int((ious > 0).sum()) for ious in above) / truths)


def test_rates_per_picture() -> None:
    pictures = [picture([A], [C], [0.6]), picture([A], [A], [0.4]), picture([], [B], [0.7]), picture([], [], [])]
    rates = picture_rates(match(pictures), threshold=0.5)
    assert (rates.found, rates.positives, rates.cleared, rates.negatives) == (1, 2, 1, 2)
    assert rates.sensitivity == wilson_interval(1, 2)
    lower = picture_rates(match(pictures), threshold=0.4)
    assert (lower.sensitivity.estimate, lower.specificity.estimate) == (1, 0.5)
    none = picture_rates(match(pictures[:2]), threshold=0.4).specificity
    assert math.isnan(none.estimate)
    assert none[1:] == (0, 1)


def test_wilson_is_scipys() -> None:
    from scipy.stats import binomtest

    for found, count in ((0, 5), (5, 5), (4, 5), (81, 88)):
        expected = binomtest(found, count).proportion_ci(0.9, method="wilson")
        assert wilson_interval(found, count, level=0.9)[1:] == pytest.approx(tuple(expected))
        assert wilson_interval(found, count).estimate == found / count
    with pytest.raises(ValueError, match="6 of 5"):
        wilson_interval(6, 5)


@limits(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_average_precision_is_its_definition(seed: int) -> None:
    pictures = drawn(np.random.default_rng(seed))
    for iou in (0.3, 0.5, 0.75, 0.9):
        each = [ap for label in (1, 2) if not math.isnan(ap := brute_ap(pictures, iou, label))]
        expected = float(np.mean(each)) if each else math.nan
        assert average_precision(match(pictures, iou)) == pytest.approx(expected, nan_ok=True)


def test_the_interval_draws_patients_not_pictures() -> None:
    rng = np.random.default_rng(1)
    pictures = drawn(rng, 30)
    matched = match(pictures)
    alone = score_interval(matched, n=199)
    assert alone.estimate == average_precision(matched)
    assert alone.low < alone.estimate < alone.high
    copies = [p for p in matched for _ in range(4)]
    patients = [k for k in range(30) for _ in range(4)]
    together = score_interval(copies, groups=patients, n=199)
    believed = score_interval(copies, n=199)
    assert together.high - together.low > 1.5 * (believed.high - believed.low)
    assert together == score_interval(copies, groups=patients, n=199)
    with pytest.raises(ValueError, match="zip"):
        score_interval(matched, groups=[1, 2], n=9)


@pytest.mark.parametrize("package", ["faster_coco_eval", "pycocotools"])
def test_scores_are_those_of_the_coco_packages(package: str) -> None:
    """Runs where one of them is installed; neither is needed otherwise."""
    pytest.importorskip(package)
    if package == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    pictures = drawn(np.random.default_rng(5), 60)
    truth, found = [], []
    for number, (hits, boxes, labels) in enumerate(pictures, start=1):
        for box, label in zip(boxes.astype(float), labels, strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            truth.append({"id": len(truth) + 1, "image_id": number, "category_id": int(label), "iscrowd": 0,
                          "bbox": [x, y, w, h], "area": w * h})  # fmt: skip
        for box, score, label in zip(hits.boxes_px.astype(float), hits.scores, hits.labels, strict=True):
            corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append({"image_id": number, "category_id": int(label), "bbox": corner, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "info": {},
            "images": [{"id": k} for k in range(1, len(pictures) + 1)],
            "annotations": truth,
            "categories": [{"id": label, "name": name} for label, name in NAMES.items()],
        }
        gold.createIndex()
        judge = COCOeval(gold, gold.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    ours = coco_scores(pictures)
    assert [ours["ap50_95"], ours["ap50"], ours["ap75"]] == pytest.approx(list(judge.stats[:3]), abs=1e-9)
    assert len(COCO_IOUS) == 10
