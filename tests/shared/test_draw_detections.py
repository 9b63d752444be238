"""The overlay: boxes where they belong, visible on dark and bright, nothing within covered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.draw import PALETTE
from shared.draw_detections import draw_detections
from shared.types import Detections


def found(boxes, width, height, polygons=None, **more):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.linspace(0.9, 0.3, count, dtype=np.float32),
        np.ones(count, np.int64), {1: "fracture"}, width, height, polygons, **more,
    )  # fmt: skip


def where(image, colour):
    return np.argwhere((np.asarray(image) == colour).all(axis=2))


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_a_box_is_drawn_around_its_pixels_and_seen_on_any_grey(grey):
    picture = np.full((1000, 1200), grey, np.float32)
    image = np.asarray(draw_detections(picture, found([[300, 400, 500, 700]], 1200, 1000)))[:1000]
    line = where(image, PALETTE[0])
    line = line[(line[:, 0] >= 390)]  # below the label
    assert 300 - 4 <= line[:, 1].min() < 300
    assert 500 <= line[:, 1].max() < 500 + 4
    assert 700 <= line[:, 0].max() < 700 + 4
    assert (image[400:700, 300:500] == round(grey * 255)).all()  # nothing within is covered
    row = image[550, 290:300].astype(int)  # across the left side: rim, line, rim
    assert (row == PALETTE[0]).all(axis=1).any()
    assert (row == 0).all(axis=1).any()


@given(
    st.integers(16, 400), st.integers(16, 400), st.integers(0, 2**31), st.integers(0, 6), st.booleans()
)  # fmt: skip
def test_anything_is_drawn(width, height, seed, count, drawn):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, width, (2, count)), 0), np.sort(rng.uniform(0, height, (2, count)), 0)
    boxes = np.stack([x[0], y[0], x[1], y[1]], 1)
    polygons = tuple(rng.uniform(0, 16, (n % 4, 2)).astype(np.float32) for n in range(count)) if drawn else None
    detections = found(boxes, width, height, polygons, findings=("a finding",))
    image = draw_detections(rng.random((height, width), np.float32), detections, title="name", caption="caption")
    assert image.mode == "RGB"
    assert image.height > image.width * height / width - 1  # words lie below the picture, not on it
    assert max(image.width, image.height) >= 900


def test_large_pictures_are_shown_smaller_and_words_are_below():
    picture = np.zeros((3000, 2400), np.float32)
    plain = draw_detections(picture, found([], 2400, 3000))
    worded = draw_detections(picture, found([], 2400, 3000, findings=("why nothing was found",)), title="a.png")
    assert plain.width == worded.width == 1280
    assert worded.height > plain.height > 1600
    np.testing.assert_array_equal(np.asarray(worded)[:1600], 0)
