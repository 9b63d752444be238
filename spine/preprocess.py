"""A film into the network: scaled so that its longer side fits, padded to whole strides, in three equal channels.

The network is trained by ultralytics on bytes, so this computes what its letterbox computes of the same bytes, to the
last bit but for rounding in one of some thousand pixels: any other interpolation would be a film it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from shared.types import Boxes, PictureArray

STRIDE_PX = 32
PADDING = 114  # the grey that ultralytics pads with
_WEIGHT_BITS = 11  # of OpenCV's linear interpolation of bytes (imgproc, resize.cpp)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a film of ``width_px`` by ``height_px`` lies on the network's input.

    ``inner_*`` is the film's size there, ``left_px`` and ``top_px`` the padding before it, ``input_*`` the whole.
    """

    width_px: int
    height_px: int
    inner_width_px: int
    inner_height_px: int
    left_px: int
    top_px: int
    input_width_px: int
    input_height_px: int

    @classmethod
    def of(cls, width_px: int, height_px: int, size_px: int) -> Letterbox:
        """Fit a film into ``size_px``, and pad each side to the next multiple of 32, half of it before the film."""
        scale = min(size_px / height_px, size_px / width_px)
        inner_width, inner_height = max(round(width_px * scale), 1), max(round(height_px * scale), 1)
        pad_x, pad_y = -inner_width % STRIDE_PX, -inner_height % STRIDE_PX
        return cls(
            width_px, height_px, inner_width, inner_height, pad_x // 2, pad_y // 2,
            inner_width + pad_x, inner_height + pad_y,
        )  # fmt: skip

    @property
    def gain(self) -> tuple[float, float]:
        """Pixels of the input for a pixel of the film, across and down; the two differ by rounding alone."""
        return self.inner_width_px / self.width_px, self.inner_height_px / self.height_px

    def to_film(self, boxes_px: Float[np.ndarray, "n 4"]) -> Boxes:
        """Bring boxes from pixels of the input to pixels of the film, cut at its edges."""
        offset = np.array([self.left_px, self.top_px] * 2, np.float32)
        edge = np.array([self.width_px, self.height_px] * 2, np.float32)
        film: Boxes = np.clip((boxes_px - offset) / np.array(self.gain * 2, np.float32), 0, edge).astype(np.float32)
        return film


def as_bytes(picture: PictureArray) -> UInt8[np.ndarray, "y x"]:
    """Round a picture in 0..1 to 256 greys."""
    return np.rint(picture * np.float32(255)).astype(np.uint8)


def preprocess(picture: PictureArray, size_px: int) -> tuple[Float32[np.ndarray, "1 3 y x"], Letterbox]:
    """Make the network's input of a film.

    Args:
        picture: grey in 0..1, bone bright, as ``read_radiograph`` gives it.
        size_px: the longer side of the film on the input, a multiple of 32.
    """
    box = Letterbox.of(picture.shape[1], picture.shape[0], size_px)
    grey = np.full((box.input_height_px, box.input_width_px), PADDING, np.uint8)
    inner = resize_linear(as_bytes(picture), box.inner_width_px, box.inner_height_px)
    grey[box.top_px : box.top_px + box.inner_height_px, box.left_px : box.left_px + box.inner_width_px] = inner
    image = np.empty((1, 3, *grey.shape), np.float32)
    np.divide(grey, np.float32(255), out=image[0, 0])
    image[0, 1:] = image[0, 0]
    return image, box


def resize_linear(grey: UInt8[np.ndarray, "y x"], width_px: int, height_px: int) -> UInt8[np.ndarray, "row column"]:
    """Resize bytes by linear interpolation between the four nearest pixels, as OpenCV's INTER_LINEAR does.

    In whole numbers with weights of 11 bits, columns first; the low bits that it drops on the way are dropped here.
    """
    height, width = grey.shape
    if (width, height) == (width_px, height_px):
        return grey
    left, right, left_weight, right_weight = _neighbours(width_px, width)
    above, below, above_weight, below_weight = _neighbours(height_px, height)
    used, place = np.unique(np.concatenate([above, below]), return_inverse=True)
    rows = grey[used].astype(np.int32)
    across = (np.take(rows, left, axis=1) * left_weight + np.take(rows, right, axis=1) * right_weight) >> 4
    upper = (across[place[:height_px]] * above_weight[:, None]) >> 16
    lower = (across[place[height_px:]] * below_weight[:, None]) >> 16
    resized: UInt8[np.ndarray, "row column"] = ((upper + lower + 2) >> 2).astype(np.uint8)
    return resized


def _neighbours(count: int, of: int) -> tuple[Int64[np.ndarray, " n"], ...]:
    """For each of ``count`` new pixels: its two old neighbours among ``of``, and their weights in 2^-11."""
    place = ((np.arange(count) + 0.5) * (of / count) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = np.where((first < 0) | (first >= of - 1), 0, place - first.astype(np.float32)).astype(np.float32)
    first = first.clip(0, of - 1)
    one = 1 << _WEIGHT_BITS
    weights = (np.rint((1 - share) * one).astype(np.int32), np.rint(share * one).astype(np.int32))
    return first, np.minimum(first + 1, of - 1), *weights
