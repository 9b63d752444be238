"""Results on disk: JSON with the agreed fields, mask, overlay, COCO, CSV."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from spine_factory import HEIGHT_PX, SPINE_BOXES, SPINE_LEVELS, WIDTH_PX, finds, tiny_model, write_film

from shared.cohort import run_cohort
from shared.errors import InputError, SetupError
from spine.batch import COCO, TABLE, label_picture, plan, predict_case, read_result, write_tables
from spine.overlay import COLOURS, draw_vertebrae, spread_apart
from spine.predict import Predictor, as_radiograph

NAMES = ["T10", "T11", "T12", "L1", "L2", "L3"]


@pytest.fixture
def predictor():
    return finds(Predictor(tiny_model(), "cpu"))


@pytest.fixture
def done(predictor, tmp_path):
    film = write_film(tmp_path / "films" / "film.png")
    items = plan([film], tmp_path / "out")
    result = run_cohort(items, lambda item: predict_case(item, predictor))
    assert result.exit_status == 0, result.records
    write_tables(items, tmp_path / "out")
    return tmp_path / "out"


def test_the_json_has_the_agreed_fields(done, predictor):
    content = json.loads((done / "film.json").read_text())
    assert list(content) == [
        "schema_version", "file", "width_px", "height_px", "engine", "model_sha256", "operating_point", "second_look",
        "second_look_above", "vertebrae", "missing", "changed", "findings", "views", "candidates_above", "possible",
    ]  # fmt: skip
    assert content["file"] == "film.png"
    assert (content["width_px"], content["height_px"]) == (WIDTH_PX, HEIGHT_PX)
    assert content["model_sha256"] == predictor.sha256
    assert content["engine"].startswith("OpenVINO")
    assert content["missing"] == content["changed"] == []
    assert [v["label"] for v in content["vertebrae"]] == [v["raw_label"] for v in content["vertebrae"]] == NAMES
    for vertebra, box in zip(content["vertebrae"], SPINE_BOXES, strict=True):
        assert list(vertebra) == ["label", "confidence", "box_xyxy_px", "polygon_px", "raw_label", "detector_score"]
        assert 0.5 < vertebra["confidence"] <= 1
        np.testing.assert_allclose(vertebra["box_xyxy_px"], box, atol=0.05)
        assert len(vertebra["polygon_px"]) > 8


def test_missing_and_changed_are_told(predictor, tmp_path):
    scores = np.full((5, 24), 0.01)
    kept = [0, 1, 3, 4, 5]
    scores[range(5), np.array(SPINE_LEVELS)[kept]] = 0.9
    scores[4, 22], scores[4, 21] = 0.5, 0.3  # L3 taken for L4, a little
    finds(predictor, SPINE_BOXES[kept], kept, scores=scores)
    items = plan([write_film(tmp_path / "film.png")], tmp_path / "out")
    run_cohort(items, lambda item: predict_case(item, predictor))
    content = json.loads((tmp_path / "out" / "film.json").read_text())
    (gone,) = content["missing"]
    assert gone["label"] == "T12"
    assert content["findings"] == ["not found: T12"]
    assert np.hypot(*np.subtract(gone["centre_px"], (SPINE_BOXES[2, :2] + SPINE_BOXES[2, 2:]) / 2)) < 4
    (change,) = content["changed"]
    assert (change["raw_label"], change["label"]) == ("L4", "L3")
    np.testing.assert_allclose(change["box_xyxy_px"], SPINE_BOXES[5], atol=0.05)


def test_the_mask_holds_levels(done):
    with Image.open(done / "film.mask.png") as image:
        assert image.mode == "P"
        palette = np.array(image.getpalette()).reshape(-1, 3)
        mask = np.asarray(image)
    assert mask.shape == (HEIGHT_PX, WIDTH_PX)
    for box, level, name in zip(SPINE_BOXES, SPINE_LEVELS, NAMES, strict=True):
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        assert mask[y, x] == level + 1
        assert tuple(palette[level + 1]) == COLOURS[name]
        area = np.pi / 4 * np.prod(box[2:] - box[:2])  # an ellipse
        assert abs((mask == level + 1).sum() - area) < 0.06 * area
    assert mask[0, 0] == 0


def test_where_two_masks_overlap_the_surer_one_shows(predictor, tmp_path):
    film = as_radiograph(write_film(tmp_path / "film.png"))
    boxes = SPINE_BOXES.copy()
    boxes[1, 1] -= 25  # T11 reaches up into T10
    scores = np.full((6, 24), 0.01)
    scores[range(6), SPINE_LEVELS] = 0.9
    found = finds(predictor, boxes, scores=scores)(film)
    shared = found.masks[0].inside.sum() + found.masks[1].inside.sum()
    painted = label_picture(found)
    counts = [int((painted == SPINE_LEVELS[k] + 1).sum()) for k in (0, 1)]
    assert sum(counts) < shared
    surer = int(found.scores[1] > found.scores[0])
    assert counts[surer] == found.masks[surer].inside.sum()


def test_coco_and_csv_hold_every_film(done):
    coco = json.loads((done / COCO).read_text())
    assert [image["file_name"] for image in coco["images"]] == ["film.png"]
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    assert [names[entry["category_id"]] for entry in sorted(coco["annotations"], key=lambda a: a["bbox"][1])] == NAMES
    assert all(len(entry["segmentation"][0]) >= 6 for entry in coco["annotations"])
    with (done / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == NAMES
    found = read_result(done / "film.json")
    assert [found.names[label] for label in found.labels] == NAMES


def test_a_result_of_something_else_is_named(done):
    (done / "film.json").write_text('{"detections": []}')
    with pytest.raises(InputError, match=r"film\.json: is no result of spine predict"):
        read_result(done / "film.json")


def test_a_film_may_not_be_named_like_the_runs_own_files(tmp_path):
    write_film(tmp_path / "films" / "report.png")
    with pytest.raises(SetupError, match=r"its result would be the run's own report\.json"):
        plan([tmp_path / "films"], tmp_path / "out")


def test_names_stand_beside_the_vertebrae(predictor, tmp_path):
    film = as_radiograph(write_film(tmp_path / "film.png"))
    found = predictor(film)
    plain = draw_vertebrae(film.array, finds(predictor, SPINE_BOXES[:0], [])(film))
    drawn = draw_vertebrae(film.array, found, title="film.png")
    scale = 1000 / HEIGHT_PX
    assert drawn.width >= plain.width == round(WIDTH_PX * scale)
    page, bare = np.asarray(drawn, int), np.asarray(plain, int)
    for k, name in enumerate(NAMES):  # inside a mask there is the film and the thin colour, no ink of a name
        x, y = ((SPINE_BOXES[k, :2] + SPINE_BOXES[k, 2:]) / 2 * scale).astype(int)
        part = np.s_[y - 20 : y + 20, x - 30 : x + 30]
        tinted = bare[part] * 0.78 + np.array(COLOURS[name]) * 0.22
        assert np.abs(page[part] - tinted).max() <= 3


def test_the_page_grows_where_names_need_room(predictor, tmp_path):
    film = as_radiograph(write_film(tmp_path / "film.png"))
    found = predictor(film)
    cut = replace(
        found,
        boxes_px=found.boxes_px - np.array([60, 0, 60, 0], np.float32),
        polygons_px=tuple(polygon - np.array([60, 0], np.float32) for polygon in found.polygons_px),
    )
    drawn = draw_vertebrae(film.array[:, 60:160], cut)
    assert drawn.width > round(100 * 1000 / HEIGHT_PX) + 50


@given(
    arrays(np.float64, st.integers(0, 24), elements=st.floats(-100, 1100)).map(np.sort),
    st.floats(1, 30),
)
def test_names_are_spread_apart_in_order_within_the_film(wanted, least):
    heights = spread_apart(wanted, least, 10, 1000)
    assert len(heights) == len(wanted)
    assert (np.diff(heights) >= least - 1e-6).all()
    assert ((heights >= 10 - 1e-6) & (heights <= 1000 + 1e-6)).all()
    if len(wanted) and (np.diff(wanted) >= least).all() and wanted[0] >= 10 and wanted[-1] <= 1000:
        np.testing.assert_allclose(heights, wanted, atol=1e-9)
