"""Boxes, scores, masks and outlines against ultralytics' own of the same raw head."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from spine_factory import HEIGHT_PX, SPINE_BOXES, SPINE_LEVELS, WIDTH_PX, head_of

from spine.decode import BINS, STRIDES_PX, decode, with_mirrored
from spine.masks import MaskDecoder
from spine.offline import offline_ultralytics
from spine.preprocess import Letterbox

offline_ultralytics()
from ultralytics.nn.modules.head import Segment  # noqa: E402
from ultralytics.utils import nms, ops  # noqa: E402

# Tall, wide, of one size with the input, of odd sides, square, and smaller than the input.
SIZES = [(463, 1024), (720, 665), (288, 640), (501, 337), (640, 640), (90, 133)]


def raw_head(letterbox, seed, count=40):
    """Maps of a network that is sure of a few places, with smooth prototypes; and noise in between."""
    rng = np.random.default_rng(seed)
    height, width = letterbox.input_height_px, letterbox.input_width_px
    places = sum((height // s) * (width // s) for s in STRIDES_PX)
    distances = rng.normal(0, 1, (1, 4 * BINS, places))
    logits = rng.normal(-9, 1, (1, 24, places))
    for place in rng.choice(places, count, replace=False):
        level = rng.integers(24)
        logits[0, :, place] = rng.normal(-3, 1, 24)
        logits[0, level, place] = rng.normal(0, 1.5)
        for side in range(4):
            distances[0, side * BINS + rng.integers(1, 6), place] += 6
    coarse = torch.from_numpy(rng.normal(0, 1, (1, 32, 6, 6)))
    prototypes = torch.nn.functional.interpolate(coarse, (height // 4, width // 4), mode="bicubic").numpy()
    coefficients = rng.normal(0, 1, (1, 32, places))
    return [a.astype(np.float32) for a in (distances, logits, coefficients, prototypes)]


@cache
def ultralytics_head():
    head = Segment(nc=24, ch=(16, 16, 16)).eval()
    head.stride = torch.tensor(STRIDES_PX)
    return head


def ultralytics_result(outputs, letterbox, confidence, iou):
    """What ultralytics' predictor makes of these maps: agnostic NMS, then masks at the film's resolution."""
    distances, logits, coefficients, prototypes = (torch.from_numpy(output) for output in outputs)
    head = ultralytics_head()
    shape = letterbox.input_height_px, letterbox.input_width_px
    maps = [torch.zeros(1, 1, shape[0] // s, shape[1] // s) for s in STRIDES_PX]
    decoded = head._inference(
        {"boxes": distances, "scores": logits, "feats": maps, "mask_coefficient": coefficients}
    ).detach()
    found = nms.non_max_suppression(decoded, confidence, iou, agnostic=True, max_det=300, nc=24)[0]
    film = letterbox.height_px, letterbox.width_px
    found[:, :4] = ops.scale_boxes(shape, found[:, :4], film)
    masks = ops.process_mask_native(prototypes[0], found[:, 6:], found[:, :4], film)
    keep = masks.amax((-2, -1)) > 0 if len(masks) else torch.zeros(0, dtype=torch.bool)
    return found[keep].numpy(), masks[keep].numpy().astype(bool)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("confidence", [0.257, 0.05])
def test_candidates_are_ultralytics_own(width, height, confidence):
    letterbox = Letterbox.of(width, height, 640)
    outputs = raw_head(letterbox, seed=width)
    boxes, masks = ultralytics_result(outputs, letterbox, confidence, 0.55)
    ours = decode(outputs, letterbox, confidence, 0.55)
    assert len(ours) == len(boxes) > 5
    np.testing.assert_allclose(ours.boxes_px, boxes[:, :4], atol=2e-3)
    np.testing.assert_allclose(ours.confidences, boxes[:, 4], atol=1e-5)
    np.testing.assert_array_equal(ours.scores.argmax(axis=1), boxes[:, 5])
    for mask, wanted in zip(ours.masks, masks, strict=True):
        painted = np.zeros((height, width), np.uint8)
        mask.paint(painted, 1)
        assert (painted & wanted).sum() >= 0.998 * (painted | wanted).sum()


@settings(max_examples=15)
@given(
    st.integers(40, 700), st.integers(40, 700), st.integers(0, 2**31), st.sampled_from([0.3, 0.55, 0.7]),
    st.sampled_from([320, 640]),
)  # fmt: skip
def test_boxes_of_films_of_any_size_are_ultralytics_own(width, height, seed, iou, size_px):
    letterbox = Letterbox.of(width, height, size_px)
    # A narrow side that is rounded down to whole strides puts ultralytics' boxes off by pixels along the long one.
    theirs = min(letterbox.input_width_px / width, letterbox.input_height_px / height)
    assume(abs(theirs * max(width, height) / size_px - 1) * max(width, height) < 0.5)
    outputs = raw_head(letterbox, seed, count=12)
    boxes, _ = ultralytics_result(outputs, letterbox, 0.1, iou)
    ours = decode(outputs, letterbox, 0.1, iou)
    assert len(ours) == len(boxes)
    a_pixel = max(width, height) / size_px  # of the input, on the film: its gain is that of one side, ours of each
    np.testing.assert_allclose(ours.boxes_px, boxes[:, :4], atol=max(a_pixel, 0.51))
    assert (ours.boxes_px[:, 2:] <= [width, height]).all()
    assert (ours.boxes_px >= 0).all()


def test_nothing_found_is_no_candidate_and_the_limit_holds():
    letterbox = Letterbox.of(300, 500, 320)
    outputs = raw_head(letterbox, 0)
    assert len(decode(outputs, letterbox, 0.9999, 0.5)) == 0
    all_of_them = decode(outputs, letterbox, 0.0, 1.0, limit=7)
    assert 4 <= len(all_of_them) <= 7  # of seven boxes some may have no mask
    assert (np.diff(all_of_them.confidences) <= 0).all()


def painted(polygon, shape, finer=4):
    """The polygon as a mask, drawn finer than the film and brought back by its centre."""
    picture = Image.new("1", (shape[1] * finer, shape[0] * finer))
    ImageDraw.Draw(picture).polygon([(x * finer - 0.5, y * finer - 0.5) for x, y in polygon], fill=1)
    share = np.asarray(picture, np.float32).reshape(shape[0], finer, shape[1], finer).mean(axis=(1, 3))
    return share >= 0.5


def one_blob(centre, radius, cells=(80, 40)):
    """A single prototype: positive within ``radius`` cells of ``centre``, the height of a cone."""
    y, x = np.indices(cells, np.float32) + 0.5
    return (radius - np.hypot(y - centre[0], x - centre[1]))[None].astype(np.float32)


@pytest.mark.parametrize("box", [(30, 100, 420, 700), (100, 300, 222.4, 460.7), (0, 0, 463, 1024)])
def test_outlines_are_the_masks_edges(box):
    letterbox = Letterbox.of(463, 1024, 320)
    decoder = MaskDecoder(one_blob((30.3, 18.2), 11.0), letterbox)
    boxes, own = np.array([box], np.float32), np.ones((1, 1), np.float32)
    mask, polygon = decoder.masks(boxes, own)[0], decoder.outline(boxes[0], own[0])
    film = np.zeros((1024, 463), np.uint8)
    mask.paint(film, 1)
    drawn = painted(polygon, film.shape)
    assert (drawn & film).sum() > 0.985 * (drawn | film).sum()
    assert (polygon >= np.array(box[:2]) - 1e-3).all()
    assert (polygon <= np.array(box[2:]) + 1e-3).all()


def test_of_several_pieces_the_largest_is_outlined_and_its_hole_is_filled():
    letterbox = Letterbox.of(160, 320, 320)
    ring = np.minimum(one_blob((30, 20), 12), -one_blob((30, 20), 4))
    crumb = one_blob((60, 10), 3)
    decoder = MaskDecoder(np.maximum(ring, crumb), letterbox)
    whole_film, own = np.array([[0, 0, 160, 320]], np.float32), np.ones((1, 1), np.float32)
    polygon = decoder.outline(whole_film[0], own[0])
    distance = np.hypot(*(polygon / 4 - [20, 30]).T)
    assert np.abs(distance - 12).max() < 0.3
    assert decoder.masks(whole_film, own)[0].inside[30 * 4, 20 * 4] == False  # noqa: E712  the mask has the hole


def test_a_mask_that_is_nowhere_has_no_corners():
    decoder = MaskDecoder(-np.ones((1, 80, 40), np.float32), Letterbox.of(160, 320, 320))
    boxes, own = np.array([[10, 10, 50, 60]], np.float32), np.ones((1, 1), np.float32)
    assert decoder.outline(boxes[0], own[0]).shape == (0, 2)
    assert not decoder.masks(boxes, own)[0].inside.any()


@pytest.mark.parametrize("size_px", [320, 352])  # with odd padding, and with even
def test_what_both_views_see_is_where_it_is_and_what_one_sees_is_less_sure(size_px):
    letterbox = Letterbox.of(WIDTH_PX, HEIGHT_PX, size_px)
    behind = letterbox.input_width_px - letterbox.inner_width_px - letterbox.left_px
    mirrored_boxes = SPINE_BOXES[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [WIDTH_PX, 0, WIDTH_PX, 0]
    film = head_of(SPINE_BOXES, SPINE_LEVELS, letterbox)
    mirror = head_of(mirrored_boxes, SPINE_LEVELS, replace(letterbox, left_px=behind))
    both = decode(with_mirrored(film, mirror, letterbox), letterbox, 0.3, 0.55)
    by_height = np.argsort(both.boxes_px[:, 1])
    np.testing.assert_allclose(both.boxes_px[by_height], SPINE_BOXES, atol=0.1)
    assert both.scores[by_height].argmax(axis=1).tolist() == SPINE_LEVELS
    np.testing.assert_allclose(both.confidences, 0.9, atol=1e-3)
    assert len(decode(with_mirrored(film, film, letterbox), letterbox, 0.3, 0.55)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_mirror_of_the_mirror_is_the_film(size):
    letterbox = Letterbox.of(*size, 640)
    film, other = raw_head(letterbox, 0), raw_head(letterbox, 1)
    there, back = with_mirrored(film, other, letterbox), with_mirrored(other, film, letterbox)
    nothing = [np.zeros_like(output) for output in film]
    for one, other_way, turned in zip(there[:2], back[:2], with_mirrored(nothing, back, letterbox)[:2], strict=True):
        assert not np.array_equal(one, other_way)
        np.testing.assert_allclose(2 * turned, one, atol=1e-5)
