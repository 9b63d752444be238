"""From a film to named vertebrae, with a tiny network and with heads that say what is wanted."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from radiograph_factory import dicom_of
from spine_factory import (
    HEIGHT_PX,
    SPINE_BOXES,
    SPINE_LEVELS,
    WIDTH_PX,
    film_pixels,
    finds,
    head_of,
    tiny_model,
    write_film,
)

from shared.errors import InputError, SetupError
from shared.export import update_metadata
from shared.runtime import read_metadata
from spine.batch import made_with
from spine.config import LEVELS
from spine.model_file import OperatingPoint
from spine.order import Naming
from spine.predict import Predictor, _doubts, _findings, _left_out
from spine.preprocess import Letterbox

NAMES = ("T10", "T11", "T12", "L1", "L2", "L3")
UNSURE = np.full((6, 24), 0.01)
UNSURE[range(6), SPINE_LEVELS] = UNSURE[range(6), np.add(SPINE_LEVELS, 1)] = 0.3  # T10 to L3, or one down


@pytest.fixture
def predictor():
    return Predictor(tiny_model(), "cpu")


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "film.png")


def test_what_the_network_finds_is_named_from_the_head_down(predictor, film):
    found = finds(predictor, SPINE_BOXES[::-1], SPINE_LEVELS[::-1])(film)
    assert found.level_names == found.raw_labels == NAMES
    np.testing.assert_allclose(found.boxes_px, SPINE_BOXES, atol=0.05)
    assert (found.width_px, found.height_px) == (WIDTH_PX, HEIGHT_PX)
    assert not found.missing
    assert not found.changed
    assert found.findings == ()
    for box, polygon in zip(SPINE_BOXES, found.polygons_px, strict=True):
        np.testing.assert_allclose(polygon.min(axis=0), box[:2], atol=2.5)
        np.testing.assert_allclose(polygon.max(axis=0), box[2:], atol=2.5)


def test_a_wrong_name_is_put_right_and_told(predictor, film):
    scores = np.full((6, 24), 0.01)
    scores[range(6), SPINE_LEVELS] = 0.9
    scores[2, SPINE_LEVELS[2]], scores[2, SPINE_LEVELS[1]] = 0.3, 0.4  # T12 taken for a second T11
    found = finds(predictor, scores=scores)(film)
    assert found.level_names == NAMES
    assert found.raw_labels[2] == "T11"
    (change,) = found.changed
    assert (change.raw_label, change.label) == ("T11", "T12")
    np.testing.assert_allclose(change.box_px, SPINE_BOXES[2], atol=0.05)


def test_a_gap_is_a_missing_level_where_it_ought_to_be(predictor, film):
    kept = [0, 1, 3, 4, 5]
    found = finds(predictor, SPINE_BOXES[kept], [SPINE_LEVELS[k] for k in kept])(film)
    assert found.level_names == ("T10", "T11", "L1", "L2", "L3")
    (gone,) = found.missing
    assert gone.label == "T12"
    np.testing.assert_allclose(gone.centre, (SPINE_BOXES[2, :2] + SPINE_BOXES[2, 2:]) / 2, atol=3)
    assert found.findings == ("not found: T12",)


def test_few_vertebrae_are_a_finding(predictor, film):
    found = finds(predictor, SPINE_BOXES[:3], SPINE_LEVELS[:3])(film)
    assert found.findings == ("fewer than 4 vertebrae: their order says little, so the names are unsure",)


def test_unsure_names_are_a_finding(predictor, film):
    assert finds(predictor, scores=UNSURE)(film).findings == ()  # 0.58: rather right than wrong
    unsure, changed = finds(predictor, scores=np.full((6, 24), 0.3))(film).findings
    assert unsure == "names are unsure (0.17 to 0.17): all of them may be off together"
    assert changed.startswith("the network's own names of 6 of 6 vertebrae fit no order")


def test_names_that_are_mostly_not_the_networks_own_are_a_finding():
    labels, sure = np.arange(8, 14), np.full(6, 0.9, np.float32)
    centres = np.array([[0, 50 * k] for k in range(6)], np.float32)
    own = [LEVELS[label] for label in labels]
    assert _doubts(labels, ["L1", "L1", "L2", *own[3:]], sure, centres) == []
    (said,) = _doubts(labels, ["L1", "L1", "L2", "L2", *own[4:]], sure, centres)
    assert said == "the network's own names of 4 of 6 vertebrae fit no order: it may not know such a view"


def test_single_names_that_are_unsure_are_a_finding():
    labels, sure = np.arange(7, 13), np.array([0.46, *[0.9] * 5], np.float32)
    own, centres = [LEVELS[label] for label in labels], np.array([[0, 50 * k] for k in range(6)], np.float32)
    assert _doubts(labels, own, sure, centres) == ["names more likely wrong than right: T1 (0.46)"]
    assert _doubts(labels, own, np.full(6, 0.9, np.float32), centres) == []


def test_a_gap_between_neighbours_is_a_finding():
    labels, sure = np.arange(8, 14), np.full(6, 0.9, np.float32)

    def doubts(labels, centres):
        return _doubts(labels, [LEVELS[label] for label in labels], sure, centres)

    centres = np.array([[0, y] for y in (0, 50, 100, 150, 290, 340)], np.float32)
    assert doubts(labels, centres) == ["T5 and T6 lie 2.8 steps apart: levels between may be missing"]
    assert doubts(np.array([8, 9, 10, 11, 14, 15]), centres) == []  # two names left out for two vertebrae
    assert doubts(labels, np.array([[0, y * (50 + 4 * y)] for y in range(6)], np.float32)) == []


def test_a_wide_film_with_next_to_nothing_on_it_may_lie_on_its_side():
    naming = Naming(("T1",), np.ones(1), np.zeros((1, 24)), ("T1",), (), (), {}, np.array([0]))
    assert _findings(naming, lying=True)[0].endswith("a film that lies on its side must be turned first")
    assert "side" not in _findings(naming, lying=False)[0]


def test_levels_that_no_labelled_film_showed_are_a_finding(tmp_path, film):
    model = tmp_path / "spine.onnx"
    shutil.copy(tiny_model(), model)
    update_metadata(model, {"untrained": ["C1", "T11", "L3"]})
    (said,) = finds(Predictor(model, "cpu"))(film).findings
    assert said == "T11 L3: the model was not trained on labelled films of these levels"


def test_a_likely_vertebra_without_a_name_is_a_finding():
    posteriors = np.zeros((4, 24))
    posteriors[[0, 2, 3], [7, 8, 9]] = 1
    posteriors[1, 7] = 0.6
    naming = Naming(("T1", None, "T2", "T3"), np.ones(4), posteriors, ("T1",) * 4, (), (1,), {}, np.array([0, 1, 2, 3]))
    assert _left_out(naming) == ["one vertebra may lack its name, below T1 and above T2"]
    posteriors[1, 7] = 0.4
    assert _left_out(naming) == []


def test_nothing_found_is_a_finding(predictor, film):
    found = finds(predictor, SPINE_BOXES[:0], [])(film)
    assert len(found) == 0
    assert found.findings == ("no vertebra found",)


def test_operating_points_are_the_files_by_name_or_ones_own(film):
    assert Predictor(tiny_model(), "cpu").operating_point.iou == 0.55
    reference = finds(Predictor(tiny_model(), "cpu", operating_point="reference"), sure=0.6)
    assert len(reference(film)) == 0  # its confidence is 0.7
    assert len(finds(Predictor(tiny_model(), "cpu", operating_point="reference-f1"), sure=0.6)(film)) == 6
    own = OperatingPoint(confidence=0.5, iou=0.9)
    assert len(finds(Predictor(tiny_model(), "cpu", operating_point=own), sure=0.6)(film)) == 6
    with pytest.raises(SetupError, match="has no operating point 'best'; it has default, reference"):
        Predictor(tiny_model(), "cpu", operating_point="best")


def test_8_bits_16_bits_dicom_arrays_and_bytes_are_one_film(predictor, tmp_path):
    wide = write_film(tmp_path / "wide.png", np.uint16)
    inverted = dicom_of(65535 - film_pixels(np.uint16).astype(np.int64), bits=16, photometric="MONOCHROME1")
    narrow = write_film(tmp_path / "narrow.png")
    films = [narrow, wide, inverted, narrow.read_bytes(), np.asarray(Image.open(narrow))]
    first, *others = [predictor.candidates(film) for film in films]
    assert len(first)
    for other in others:
        np.testing.assert_allclose(other.boxes_px, first.boxes_px, atol=0.5)
        np.testing.assert_allclose(other.scores, first.scores, atol=2e-3)


def test_a_tall_film_is_not_cropped(predictor, tmp_path):
    tall = np.concatenate([film_pixels()] * 4)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    boxes = predictor.candidates(tmp_path / "tall.png", OperatingPoint(confidence=0.01, iou=0.7)).boxes_px
    assert boxes[:, 3].max() > 0.9 * len(tall)
    assert boxes[:, 1].min() < 0.1 * len(tall)


def test_a_broken_film_is_named(predictor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png: is no picture"):
        predictor(tmp_path / "broken.png")


def looking_twice(folder, **options):
    """A predictor whose file has a second look, and what its network was shown."""
    model = folder / "spine.onnx"
    shutil.copy(tiny_model(), model)
    taken = {"neighbour": 0.03, "score_weight": 0.5, "temperature": 2.0}
    update_metadata(model, {"second_look": {"below": 0.8, "confidence": 0.05, **taken}})
    return Predictor(model, "cpu", **options)


def shown(predictor, first, mirrored):
    """Let the network see one thing in a film and another in its mirror; returns the list of what it was shown."""
    seen = []

    def outputs(image):
        seen.append(image)
        return (first if len(seen) % 2 else mirrored)(Letterbox.of(WIDTH_PX, HEIGHT_PX, predictor.file.size_px))

    predictor.session.outputs = outputs
    return seen


def in_the_mirror(letterbox, sure=0.9):
    """The raw head of the spine, seen in the mirror."""
    boxes = SPINE_BOXES[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [WIDTH_PX, 0, WIDTH_PX, 0]
    behind = letterbox.input_width_px - letterbox.inner_width_px - letterbox.left_px
    return head_of(boxes, SPINE_LEVELS, replace(letterbox, left_px=behind), sure)


def test_an_unsure_film_is_looked_at_again_in_the_mirror_and_a_sure_one_is_not(tmp_path, film):
    predictor = looking_twice(tmp_path)
    seen = shown(predictor, lambda box: head_of(SPINE_BOXES, SPINE_LEVELS, box, scores=UNSURE), in_the_mirror)
    found = predictor(film)
    assert found.views == 2
    np.testing.assert_array_equal(seen[1], seen[0][..., ::-1])
    assert found.level_names == NAMES
    np.testing.assert_allclose(found.boxes_px, SPINE_BOXES, atol=0.1)

    seen = shown(predictor, lambda box: head_of(SPINE_BOXES, SPINE_LEVELS, box), in_the_mirror)
    assert predictor(film).views == 1
    assert len(seen) == 1


def test_films_are_looked_at_once_or_twice_as_asked(tmp_path, film):
    def unsure(box):
        return head_of(SPINE_BOXES, SPINE_LEVELS, box, scores=UNSURE)

    never = looking_twice(tmp_path, second_look="never")
    shown(never, unsure, in_the_mirror)
    assert never(film).views == 1
    always = looking_twice(tmp_path, second_look="always")
    shown(always, lambda box: head_of(SPINE_BOXES, SPINE_LEVELS, box), in_the_mirror)
    assert always(film).views == 2
    shown(always, unsure, in_the_mirror)
    found, (everything, _, result) = always(film), always.look(film, 0.02)
    np.testing.assert_array_equal(found.boxes_px, result.boxes_px)
    assert len(everything) >= len(result)
    with pytest.raises(SetupError, match="exported without a second look"):
        Predictor(tiny_model(), "cpu", second_look="always")


def test_the_second_look_has_a_confidence_of_its_own_unless_one_is_asked_for(tmp_path, film):
    def faint(box):
        return head_of(SPINE_BOXES, SPINE_LEVELS, box, sure=0.07)

    def faint_mirror(box):
        return in_the_mirror(box, sure=0.07)

    predictor = looking_twice(tmp_path, second_look="always")  # default 0.1, second look 0.05
    shown(predictor, faint, faint_mirror)
    assert len(predictor(film)) == 6
    assert predictor(film).candidates_above == made_with(predictor)["second_look_above"] == 0.05
    for asked in (0.09, 0.1):  # the second is what the default is: asked for all the same
        predictor.operating_point = predictor.file.operating_points["default"].but(confidence=asked)
        assert len(predictor(film)) == 0
        assert predictor(film).candidates_above == made_with(predictor)["second_look_above"] == asked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "bones"}, "a model for bones, not for spine"),
        ({"metadata_version": 99}, "metadata version 99; export it again"),
        ({"labels": list(LEVELS[::-1])}, "not C1 to L5 in anatomical order"),
        ({"operating_points": {}}, "its metadata is incomplete"),
    ],
)
def test_another_model_is_refused(tmp_path, changes, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model().read_bytes())
    update_metadata(path, changes)
    with pytest.raises(SetupError, match=said):
        Predictor(path, "cpu")


def test_precision_and_labels_are_what_the_file_says(predictor):
    assert predictor.precision == "fp32"
    assert read_metadata(tiny_model())["labels"] == list(LEVELS)
    with pytest.raises(SetupError, match="is fp32, not int8"):
        Predictor(tiny_model(), "cpu", precision="int8")


def test_a_point_with_another_confidence_or_overlap():
    point = OperatingPoint(confidence=0.2, iou=0.5)
    assert point.but() == point
    assert point.but(confidence=0.4) == OperatingPoint(confidence=0.4, iou=0.5)
    assert point.but(iou=0.7) == OperatingPoint(confidence=0.2, iou=0.7)
    with pytest.raises(ValueError, match="confidence"):
        point.but(confidence=2)
