"""Pictures of volumes: a preview of a segmentation in three projections.

Pillow draws everything and brings its own font, so a preview looks alike on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Float64
from PIL import Image, ImageDraw, ImageFont

from shared.geometry import apply_affine, bounding_box
from shared.types import Affine, LabelArray, Segmentation, Volume

Colour: TypeAlias = tuple[int, int, int]
Points: TypeAlias = Float64[np.ndarray, "n 3"]
Panel: TypeAlias = Float32[np.ndarray, "row column"]

DISCLAIMER = "Research software, not a medical device"
PALETTE: tuple[Colour, ...] = ((255, 112, 67), (64, 196, 255), (255, 213, 79), (174, 213, 129), (186, 104, 200))
PAGE, INK, FAINT = (13, 16, 22), (236, 239, 244), (139, 148, 164)
MARGIN_MM = 14.0  # of scan shown around the labels
MAX_SAMPLES = 256  # along an axis; one of twice as many voxels is shown with every second
OPAQUE_MM, ROUND_MM = 0.7, 4.0  # of label that a ray crosses: to be seen in full, to be at its brightest
EDGE_VOXELS = 0.7
FILM = (150, 160, 178)  # the scan's brightest grey: labels stand out from it
SCALE_BAR_MM = 20


@dataclass(frozen=True)
class View:
    """A projection: the voxel axes that are columns, rows and depth, and the letters at left, right, top and bottom.

    Columns and rows run against their RAS axes (the patient's right, front and head come first); ``near_is_low``
    says which end of the depth axis faces the viewer.
    """

    name: str
    column: int
    row: int
    depth: int
    letters: str
    near_is_low: bool


# Radiological convention: from the feet, from the front, and from the patient's left.
VIEWS = (
    View("axial", 0, 1, 2, "RLAP", True),
    View("coronal", 0, 2, 1, "RLSI", False),
    View("sagittal", 1, 2, 0, "APSI", True),
)


def preview(
    volume: Volume,
    segmentation: Segmentation,
    *,
    title: str | None = None,
    lines: Sequence[tuple[Points, str]] = (),
    marks: Sequence[tuple[Sequence[float], str]] = (),
    colours: Mapping[str, Colour] | None = None,
    window_hu: tuple[float, float] = (-150.0, 550.0),
    width_px: int = 1600,
) -> Image.Image:
    """Draw a segmentation in three projections over the scan around it.

    The scan is averaged along each ray like a radiograph (a maximum would show bone and chambers only); labels lie
    over it, brighter where they are nearer to the viewer. The patient's right is on the left of the picture. An empty
    segmentation shows the whole scan. The segmentation's findings are said below.

    Args:
        volume: HU.
        segmentation: on the volume's grid.
        title: the first line; the file's name where None.
        lines: centrelines, RAS mm, each with the name of the label whose colour it takes.
        marks: places worth a look, RAS mm, each ringed and with a short text.
        colours: a label's name to RGB; the palette in the order of the labels where a name is missing.
        window_hu: HU shown black and HU shown white.
        width_px: of the picture; its height follows from the scan.
    """
    labels, names = segmentation.labels, segmentation.names
    counts = np.bincount(labels[labels > 0], minlength=1)
    present = [int(label) for label in np.flatnonzero(counts)]
    name_of = {label: names.get(label, f"label {label}") for label in present}
    colour_of = {name: PALETTE[(label - 1) % len(PALETTE)] for label, name in (dict(names) | name_of).items()}
    colour_of |= colours or {}
    scene = _Scene.around(labels, volume.affine, width_px)
    shown = tuple(slice(*span) for span in scene.spans)
    grey = np.clip(volume.array[shown], *window_hu)
    grey -= window_hu[0]
    parts = {name_of[label]: labels[shown] == label for label in present}

    panels = []
    for view in VIEWS:
        picture = scene.resize(np.asarray(grey.mean(axis=view.depth)), view)
        picture = (picture / max(float(picture.max()), 1e-6))[..., None] * np.array(FILM, np.float32)
        for name in sorted(parts, key=lambda name: _nearness(parts[name], view)):
            picture = _lay_over(picture, parts[name], view, colour_of[name], scene)
        panel = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        for points_mm, name in lines:
            _draw_line(panel, scene.pixels(points_mm, view), colour_of.get(name, INK), scene)
        for point_mm, text in marks:
            _draw_mark(panel, scene.pixels(np.array([point_mm], float), view)[0], text, scene)
        _letter(panel, view, scene)
        panels.append(panel)

    voxel_ml = segmentation.grid.voxel_mm3 / 1000
    legend = [(f"{name_of[label]}  {counts[label] * voxel_ml:.2f} ml", colour_of[name_of[label]]) for label in present]
    if title is None:
        title = volume.source.path.name if volume.source.path else ""
    return _compose(panels, scene, title, legend, segmentation.findings)


@dataclass(frozen=True)
class _Scene:
    """The part of the scan that is shown, and how its mm become pixels."""

    spans: tuple[tuple[int, int, int], ...]  # along each axis: first voxel, last + 1, step
    spacing_mm: tuple[float, float, float]
    to_voxel: Affine
    px_per_mm: float
    width_px: int

    @classmethod
    def around(cls, labels: LabelArray, affine: Affine, width_px: int) -> _Scene:
        """The labels with a margin, or the whole scan where there are none; panels as equally high as the scan lets."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        x, y, z = (float(mm) for mm in spacing)
        box = bounding_box(labels, MARGIN_MM, (x, y, z)) if labels.any() else tuple(slice(0, n) for n in labels.shape)
        spans = [(side.start, side.stop) for side in box]
        rows = sorted({view.row for view in VIEWS}, key=lambda axis: (spans[axis][1] - spans[axis][0]) * spacing[axis])
        wanted_mm = (spans[rows[-1]][1] - spans[rows[-1]][0]) * spacing[rows[-1]]
        for axis in rows[:-1]:
            lower, upper = spans[axis]
            more = max(0, int((wanted_mm / spacing[axis] - (upper - lower)) / 2))
            spans[axis] = max(0, lower - more), min(labels.shape[axis], upper + more)
        across_mm = sum((spans[view.column][1] - spans[view.column][0]) * spacing[view.column] for view in VIEWS)
        stepped = tuple((lower, upper, max(1, (upper - lower) // MAX_SAMPLES)) for lower, upper in spans)
        down_mm = max((spans[axis][1] - spans[axis][0]) * spacing[axis] for axis in rows)
        # As wide as the page, but never higher than it is wide: a scan of a few voxels' width is shown small.
        px_per_mm = min((width_px - 4 * _gap(width_px)) / float(across_mm), width_px / float(down_mm))
        return cls(stepped, (x, y, z), np.linalg.inv(affine), px_per_mm, width_px)

    def size_px(self, view: View) -> tuple[int, int]:
        """Width and height of a view's panel."""
        width, height = (
            (self.spans[axis][1] - self.spans[axis][0]) * self.spacing_mm[axis] * self.px_per_mm
            for axis in (view.column, view.row)
        )
        return max(1, round(width)), max(1, round(height))

    def resize(self, projection: Panel, view: View) -> Panel:
        """Turn a projection (its two axes in voxel order) into the panel's rows and columns."""
        rows_first = projection.T if view.column < view.row else projection
        image = Image.fromarray(np.ascontiguousarray(rows_first[::-1, ::-1], dtype=np.float32))
        return np.asarray(image.resize(self.size_px(view), Image.Resampling.BICUBIC))

    def pixels(self, points_mm: Points, view: View) -> Float64[np.ndarray, "n 2"]:
        """Column and row on a view's panel of points in RAS mm."""
        voxel = apply_affine(self.to_voxel, points_mm)
        along = [
            (self.spans[axis][1] - 0.5 - voxel[:, axis]) * self.spacing_mm[axis] * self.px_per_mm
            for axis in (view.column, view.row)
        ]
        return np.stack(along, axis=1)


def _gap(width_px: int) -> int:
    return max(4, width_px // 100)


def _font(width_px: int, relative: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(9, relative * width_px / 100))


def _from_viewer(part: Bool[np.ndarray, "x y z"], view: View) -> Bool[np.ndarray, "x y z"]:
    """The same with the nearest voxel of each ray first."""
    return part if view.near_is_low else np.flip(part, view.depth)


def _nearness(part: Bool[np.ndarray, "x y z"], view: View) -> float:
    """How near to the viewer a part lies on average, 0 to 1."""
    counts = _from_viewer(part, view).sum(axis=tuple(a for a in range(3) if a != view.depth))
    return 1 - float(np.average(np.arange(len(counts)), weights=counts)) / len(counts) if counts.any() else 0.0


def _lay_over(
    picture: Float32[np.ndarray, "row column 3"],
    part: Bool[np.ndarray, "x y z"],
    view: View,
    colour: Colour,
    scene: _Scene,
) -> Float32[np.ndarray, "row column 3"]:
    """Lay one label over a picture: opaque where it is thick, bright where it is near, with a soft dark rim."""
    from scipy import ndimage

    if not part.any():
        return picture
    step_mm = scene.spans[view.depth][2] * scene.spacing_mm[view.depth]
    first = _from_viewer(part, view).argmax(axis=view.depth)
    # A little blur in voxels takes the stairs from the edges.
    seen = part.any(axis=view.depth).astype(np.float32)
    near = ndimage.gaussian_filter(seen * (1 - first / part.shape[view.depth]), EDGE_VOXELS)
    cover = ndimage.gaussian_filter(seen, EDGE_VOXELS)
    near = np.clip(scene.resize(near / np.maximum(cover, 1e-3), view), 0, 1)[..., None]
    thick_mm = ndimage.gaussian_filter(part.sum(axis=view.depth, dtype=np.float32) * step_mm, EDGE_VOXELS)
    thick_mm = np.clip(scene.resize(np.asarray(thick_mm), view), 0, None)[..., None]

    alpha = np.clip(thick_mm / OPAQUE_MM - 0.2, 0, 1)
    rim = ndimage.gaussian_filter(alpha[..., 0], 0.003 * scene.width_px)[..., None]
    round_off = np.clip(thick_mm / ROUND_MM, 0, 1) ** 0.5  # the middle of a tube catches the light
    body = np.array(colour, np.float32) * (0.5 + 0.5 * near) * (0.7 + 0.3 * round_off) + 60 * near * round_off**3
    laid: Float32[np.ndarray, "row column 3"] = picture * (1 - 0.55 * np.clip(rim, 0, 1)) * (1 - alpha) + body * alpha
    return laid


def _draw_line(panel: Image.Image, pixels: Float64[np.ndarray, "n 2"], colour: Colour, scene: _Scene) -> None:
    """A thin bright line, drawn large and shrunk so that it is smooth."""
    if len(pixels) < 2:
        return
    lower = np.clip(np.floor(pixels.min(0)) - 3, 0, panel.size).astype(int)
    upper = np.clip(np.ceil(pixels.max(0)) + 4, 0, panel.size).astype(int)
    width, height = (upper - lower).tolist()
    if width < 1 or height < 1:
        return
    mask = Image.new("L", (width * 3, height * 3))
    corners = [(float(x), float(y)) for x, y in (pixels - lower) * 3]
    ImageDraw.Draw(mask).line(corners, fill=215, width=max(3, round(3 * scene.width_px / 1300)), joint="curve")
    mask = mask.resize((width, height), Image.Resampling.BOX)
    light = tuple(round(255 - 0.3 * (255 - value)) for value in colour)
    panel.paste(Image.new("RGB", (width, height), light), (int(lower[0]), int(lower[1])), mask)


def _draw_mark(panel: Image.Image, pixel: Float64[np.ndarray, " 2"], text: str, scene: _Scene) -> None:
    """A ring with its text beside it, on the side where there is room."""
    draw, font, radius = ImageDraw.Draw(panel), _font(scene.width_px, 0.95), scene.width_px / 160
    x, y = (float(value) for value in pixel)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=INK, width=max(1, scene.width_px // 800))
    to_left = x + radius + draw.textlength(text, font) + 8 > panel.width
    at = (x - radius - 4, y) if to_left else (x + radius + 4, y)
    draw.text(at, text, INK, font, anchor="rm" if to_left else "lm", stroke_width=2, stroke_fill=PAGE)


def _letter(panel: Image.Image, view: View, scene: _Scene) -> None:
    """The patient's directions at the four edges, and the view's name."""
    draw, font, away = ImageDraw.Draw(panel), _font(scene.width_px, 1.15), _gap(scene.width_px) * 0.6
    width, height = panel.size
    at_sides = [(away, height / 2, "lm"), (width - away, height / 2, "rm")]
    places = [*at_sides, (width / 2, away, "ma"), (width / 2, height - away, "md")]
    for letter, (x, y, anchor) in zip(view.letters, places, strict=True):
        draw.text((x, y), letter, INK, font, anchor=anchor, stroke_width=2, stroke_fill=PAGE)
    draw.text((away, away), view.name, FAINT, _font(scene.width_px, 0.95), stroke_width=2, stroke_fill=PAGE)


def _compose(
    panels: Sequence[Image.Image],
    scene: _Scene,
    title: str,
    legend: Sequence[tuple[str, Colour]],
    findings: Sequence[str],
) -> Image.Image:
    """Put panels and words on one page: title above, legend, scale and findings below."""
    width, gap = scene.width_px, _gap(scene.width_px)
    large, small = _font(width, 1.6), _font(width, 1.2)
    line_px = round(1.9 * width / 100)
    panel_px = max(panel.height for panel in panels)
    top = gap + round(2.4 * width / 100)
    lines = [text for finding in findings for text in wrapped(finding, small, width - 2 * gap)]
    bottom = top + panel_px + gap
    page = Image.new("RGB", (width, bottom + line_px * (1 + len(lines)) + gap), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((gap, gap), title, INK, large)
    draw.text((width - gap, gap), DISCLAIMER, FAINT, small, anchor="ra")
    x = gap
    for panel in panels:
        draw.rectangle((x, top, x + panel.width - 1, top + panel_px - 1), fill=(0, 0, 0))
        page.paste(panel, (x, top + (panel_px - panel.height) // 2))
        x += panel.width + gap

    x, middle, square = gap, bottom + line_px // 2, round(0.9 * width / 100)
    for text, colour in legend:
        draw.rounded_rectangle((x, middle - square // 2, x + square, middle + square // 2), radius=3, fill=colour)
        draw.text((x + 1.6 * square, middle), text, INK, small, anchor="lm")
        x += round(1.6 * square + draw.textlength(text, small) + 2 * gap)
    bar = SCALE_BAR_MM * scene.px_per_mm
    draw.line((width - gap - bar, middle, width - gap, middle), fill=INK, width=max(2, width // 600))
    draw.text((width - gap - bar - gap, middle), f"{SCALE_BAR_MM} mm", INK, small, anchor="rm")
    for number, text in enumerate(lines):
        draw.text((gap, bottom + line_px * (1 + number)), text, FAINT, small)
    return page


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> list[str]:
    """Break a text into lines that fit."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
