"""The network's input against ultralytics' letterbox."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.offline import offline_ultralytics
from spine.preprocess import Letterbox, as_bytes, preprocess, resize_linear

offline_ultralytics()
from ultralytics.data.augment import LetterBox  # noqa: E402

SIZES = [(463, 1024), (1024, 463), (720, 665), (640, 640), (288, 640), (300, 200), (755, 2125), (17, 640)]


def letterboxed(grey, size_px):
    """What ultralytics gives its network of a grey film in rectangular inference."""
    return LetterBox(size_px, auto=True, stride=32)(image=np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_input_is_ultralytics_letterbox(width, height):
    grey = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    wanted = letterboxed(grey, 640).transpose(2, 0, 1)[None]
    image, box = preprocess(grey / np.float32(255), 640)
    assert image.shape == wanted.shape
    assert image.dtype == np.float32
    got = np.rint(image * 255).astype(int)
    assert np.abs(got - wanted).max() <= 1
    assert (got != wanted).mean() < 1e-3
    assert (box.input_height_px, box.input_width_px) == image.shape[2:]


@given(st.integers(16, 3000), st.integers(16, 3000), st.sampled_from([320, 480, 640, 1024]))
def test_places_are_ultralytics_for_any_size(width, height, size_px):
    ours = Letterbox.of(width, height, size_px)
    theirs = LetterBox(size_px, auto=True, stride=32).get_params({"img": np.empty((height, width, 3), np.uint8)})
    assert (ours.inner_width_px, ours.inner_height_px) == theirs["new_unpad"]
    assert (ours.left_px, ours.top_px) == (theirs["left"], theirs["top"])
    assert ours.input_width_px == ours.inner_width_px + theirs["left"] + theirs["right"]
    assert ours.input_width_px % 32 == ours.input_height_px % 32 == 0


@given(st.integers(2, 90), st.integers(2, 90), st.integers(2, 90), st.integers(2, 90), st.integers(0, 99))
def test_resizing_is_opencvs(width, height, new_width, new_height, seed):
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    wanted = cv2.resize(grey, (new_width, new_height), interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(resize_linear(grey, new_width, new_height) - wanted).max() <= 1


@given(st.integers(30, 2000), st.integers(30, 2000), st.floats(0, 1), st.floats(0, 1))
def test_boxes_come_back_to_the_film(width, height, x, y):
    box = Letterbox.of(width, height, 640)
    film = np.array([[0.5 * x * width, 0.5 * y * height, width * (0.5 + 0.5 * x), height * (0.5 + 0.5 * y)]])
    across, down = box.gain
    there = film * [across, down, across, down] + [box.left_px, box.top_px, box.left_px, box.top_px]
    np.testing.assert_allclose(box.to_film(there), film, atol=0.01)
    beyond = box.to_film(np.array([[-50.0, -50, 5000, 5000]]))
    np.testing.assert_array_equal(beyond, [[0, 0, width, height]])


def test_greys_are_rounded_not_cut():
    np.testing.assert_array_equal(as_bytes(np.array([[0, 0.4 / 255, 0.6 / 255, 1]], np.float32)), [[0, 0, 1, 255]])
    every = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(as_bytes(every / np.float32(255)), every)
