"""The way of a picture into the network, and of boxes back."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from bones.preprocess import boxes_to_picture, boxes_to_square, fit


@given(st.integers(16, 90), st.integers(16, 90), st.integers(8, 90))
def test_fit_is_torchs_antialiased_resize(width, height, size_px):
    picture = np.random.default_rng(width * height).random((height, width), np.float32)
    wanted = functional.interpolate(
        torch.from_numpy(picture)[None, None], (size_px, size_px), mode="bilinear", antialias=True
    )
    found = fit(picture, size_px)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0, 0].numpy(), atol=1e-5)


@given(st.integers(16, 3000), st.integers(16, 3000), st.integers(64, 1024), st.integers(0, 2**32 - 1))
def test_boxes_come_back_where_they_were(width, height, size_px, seed):
    x, y = np.sort(np.random.default_rng(seed).uniform(0, 1, (2, 5, 2)), axis=2) * [[[width]], [[height]]]
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32)
    square = boxes_to_square(boxes, size_px, width, height)
    assert (square >= 0).all()
    assert (square <= size_px * (1 + 1e-5)).all()
    np.testing.assert_allclose(boxes_to_picture(square, size_px, width, height), boxes, atol=0.01)


def test_a_bright_spot_is_where_its_box_says():
    picture = np.zeros((300, 500), np.float32)
    picture[120:180, 50:250] = 1
    rows, columns = np.nonzero(fit(picture, 100) > 0.5)
    spot = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(boxes_to_picture(spot, 100, 500, 300), [[50, 120, 250, 180]], atol=2.5)


def test_boxes_are_cut_to_the_picture():
    found = boxes_to_picture(np.array([[-10, -5, 700, 660]], np.float32), 640, 1000, 500)
    np.testing.assert_array_equal(found, [[0, 0, 1000, 500]])
