"""The way of a picture into the networks, and of boxes back: the same in training and in prediction.

A network sees a square of one grey channel, 0..1 as `read_radiograph` gives it; the sides are scaled each by its own
factor, as torchvision's SSD does with its ``fixed_size``. Nothing is normalised here: that is part of the network.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from shared.types import Boxes, PictureArray


def fit(picture: PictureArray, size_px: int) -> PictureArray:
    """Resize a picture ``y x`` to ``size_px`` squared, bilinear with antialiasing; float32 in 0..1 stays in 0..1."""
    image = Image.fromarray(np.ascontiguousarray(picture, np.float32))
    fitted: PictureArray = np.array(image.resize((size_px, size_px), Image.Resampling.BILINEAR))
    return fitted


def boxes_to_picture(boxes_px: Boxes, size_px: int, width_px: int, height_px: int) -> Boxes:
    """Bring boxes from the square of ``size_px`` back to the picture of ``width_px`` by ``height_px``, cut to it."""
    return _scaled(boxes_px, width_px / size_px, height_px / size_px).clip(0, _corners(width_px, height_px))


def boxes_to_square(boxes_px: Boxes, size_px: int, width_px: int, height_px: int) -> Boxes:
    """Bring boxes of a picture of ``width_px`` by ``height_px`` to the square of ``size_px`` that `fit` makes of it."""
    return _scaled(boxes_px, size_px / width_px, size_px / height_px)


def _scaled(boxes_px: Boxes, across: float, down: float) -> Boxes:
    return np.asarray(boxes_px * np.array([across, down, across, down]), np.float32)


def _corners(width_px: int, height_px: int) -> Boxes:
    corners: Boxes = np.array([[width_px, height_px, width_px, height_px]], np.float32)
    return corners
