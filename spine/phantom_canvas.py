"""A film to paint on: shapes in millimetres add to what the rays lose on their way."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

FINER = 3  # sub-pixels along each side
Points = Float64[np.ndarray, "point 2"]


class Canvas:
    """Sums of densities on a grid of pixels; what lies outside is not painted.

    Args:
        width_px: columns.
        height_px: rows.
        origin_mm: the top left corner.
        px_per_mm: pixels in a millimetre.
    """

    def __init__(self, width_px: int, height_px: int, origin_mm: Points, px_per_mm: float) -> None:
        self.density = np.zeros((height_px, width_px))
        self.origin_mm, self.px_per_mm = np.asarray(origin_mm, np.float64), px_per_mm

    def pixels(self, points_mm: Points) -> Points:
        """Return where points lie, in pixels."""
        placed: Points = (np.asarray(points_mm, np.float64) - self.origin_mm) * self.px_per_mm
        return placed

    def fill(self, outline_mm: Points, value: float, blur_mm: float = 0.4) -> None:
        """Add a value inside an outline."""
        self._paint([(self.pixels(outline_mm), None)], value, blur_mm)

    def line(self, points_mm: Points, width_mm: float, value: float, blur_mm: float = 0.4) -> None:
        """Add a value along a line."""
        self._paint([(self.pixels(points_mm), width_mm * self.px_per_mm)], value, blur_mm)

    def dome(self, outline_mm: Points, value: float, blur_mm: float = 0.4) -> None:
        """Add a value that falls from the outline's middle line to its sides, as a round body's thickness does."""
        for share, part in ((1.0, 0.45), (0.86, 0.3), (0.64, 0.25)):
            middle = outline_mm.mean(axis=0)
            self.fill((outline_mm - middle) * [share, 1.0] + middle, value * part, blur_mm)

    def blob(self, centre_mm: Points, radii_mm: tuple[float, float], value: float, angle_deg: float = 0.0) -> None:
        """Add a soft ellipse: a Gaussian whose standard deviations are half the radii."""
        x, y = self.pixels(np.asarray(centre_mm))
        reach = 2 * max(radii_mm) * self.px_per_mm  # four standard deviations
        limit = np.array(self.density.shape[::-1])
        low = np.clip([x - reach, y - reach], 0, limit).astype(int)
        high = np.clip([x + reach, y + reach], 0, limit).astype(int)
        rows, columns = np.ogrid[low[1] : high[1], low[0] : high[0]]
        cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        across = ((columns - x) * cos + (rows - y) * sin) / (radii_mm[0] * self.px_per_mm / 2)
        along = ((rows - y) * cos - (columns - x) * sin) / (radii_mm[1] * self.px_per_mm / 2)
        part = self.density[low[1] : high[1], low[0] : high[0]]
        part += value * np.exp(-0.5 * (across**2 + along**2))

    def _paint(self, shapes: list[tuple[Points, float | None]], value: float, blur_mm: float) -> None:
        """Draw outlines or lines on finer pixels of the part of the film that they touch."""
        sigma = blur_mm * self.px_per_mm
        margin = 3 * sigma + max((width or 0) for _, width in shapes) + 2
        points = np.concatenate([one for one, _ in shapes])
        limit = np.array(self.density.shape[::-1])
        low = np.clip(np.floor(points.min(axis=0) - margin), 0, limit).astype(int)
        high = np.clip(np.ceil(points.max(axis=0) + margin), 0, limit).astype(int)
        if (high <= low).any():
            return
        size = (high - low) * FINER
        image = Image.new("L", (int(size[0]), int(size[1])))
        pen = ImageDraw.Draw(image)
        for outline, width in shapes:
            drawn = [tuple(point) for point in (outline - low) * FINER]
            if width is None:
                pen.polygon(drawn, fill=255)
            else:
                pen.line(drawn, fill=255, width=max(round(width * FINER), 1), joint="curve")
        small = np.asarray(image.reduce(FINER), np.float64) / 255
        part = self.density[low[1] : high[1], low[0] : high[0]]
        part += value * (gaussian_filter(small, sigma) if sigma > 0.2 else small)


def xy(x: float, y: float) -> Points:
    """Return a step on the film, x to the right and y down."""
    return np.array([x, y], np.float64)


def ellipse(centre_mm: Points, radii_mm: tuple[float, float], angle_deg: float = 0.0, count: int = 40) -> Points:
    """Return an ellipse's outline."""
    around = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = radii_mm[0] * np.cos(around), radii_mm[1] * np.sin(around)
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    outline: Points = np.stack([x * cos - y * sin, x * sin + y * cos], axis=1) + np.asarray(centre_mm)
    return outline
