"""A film with its vertebrae: outlines in the colours of their region, names beside the spine, never on a vertebra.

Pillow draws everything and brings its own font, so that a picture looks alike on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw, ImageFont

from shared.draw import DISCLAIMER, FAINT, INK, PAGE, Colour, wrapped
from shared.types import PictureArray
from spine.config import LEVELS
from spine.predict import SpineResult, in_words

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

REGIONS: dict[str, tuple[Colour, Colour]] = {
    "cervical": ((255, 196, 84), (255, 154, 72)),
    "thoracic": ((92, 200, 250), (96, 150, 255)),
    "lumbar": ((150, 226, 140), (64, 200, 160)),
}
"""Two colours for each, taken in turn, so that neighbours are told apart."""
_REGION_OF = {"C": "cervical", "T": "thoracic", "L": "lumbar"}
COLOURS: dict[str, Colour] = {level: REGIONS[_REGION_OF[level[0]]][int(level[1:]) % 2] for level in LEVELS}

MISSING: Colour = (255, 110, 120)
WARNING: Colour = (255, 196, 84)
NOT_FOUND = "not found"
MIN_HEIGHT_PX, MAX_HEIGHT_PX = 1000, 1600  # of the film as shown: names are read, files stay small
MAX_WIDTH_PX = 1600
FILL, FINER = 0.22, 3  # opacity of a mask; outlines are drawn so many times larger and shrunk, to be smooth
SHARP_DEGREES = 10.0  # a bend less sharp shows no notch
AWAY_EM = 2.0  # of a name from the vertebrae
TIP = 0.2  # of a vertebra's width: its leader starts in the middle of what lies so far out


@dataclass(frozen=True, slots=True)
class _Name:
    """A name to be written, and where its leader starts."""

    text: str
    note: str
    colour: Colour
    anchor: tuple[float, float]


def draw_vertebrae(picture: PictureArray, found: SpineResult, *, title: str = "") -> Image.Image:
    """Draw what was found on a film, and below it what there is to say.

    Names stand in a column that follows the spine, on the side with more room; a name that ordering changed has the
    network's own behind it, and a missing level a ring where it ought to be.

    Args:
        picture: ``y x`` in 0..1; small films are shown larger and large ones smaller.
        found: the film's result.
        title: the file's name, say.
    """
    scale = _scale(picture)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    font = ImageFont.load_default(max(13.0, size[1] / 58))
    small = ImageFont.load_default(max(11.0, size[1] / 76))
    em = font.getbbox("Ag")[3]
    polygons = [polygon.astype(np.float64) * scale for polygon in found.polygons_px or ()]
    film = _outlined(_grey(picture, size), polygons, [COLOURS[level] for level in found.level_names])
    right = _room_on_the_right(polygons, size[0])
    names = _names(found, polygons, scale, right)
    for gone in found.missing:
        _ring(ImageDraw.Draw(film), (gone.centre[0] * scale, gone.centre[1] * scale), em * 0.55)
    page = _with_names(film, names, polygons, right, font, small) if names else film
    return _with_words(page, found, title, em)


def _scale(picture: PictureArray) -> float:
    height, width = picture.shape
    shown = min(MAX_HEIGHT_PX, max(MIN_HEIGHT_PX, height)) / height
    return float(min(shown, MAX_WIDTH_PX / width))


def _grey(picture: PictureArray, size: tuple[int, int]) -> Image.Image:
    grey = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return (grey if size == grey.size else grey.resize(size, Image.Resampling.BICUBIC)).convert("RGB")


def _outlined(film: Image.Image, polygons: Sequence[np.ndarray], colours: Sequence[Colour]) -> Image.Image:
    """Lay each vertebra's colour thinly over the film and draw its edge; each is drawn large and shrunk."""
    line = max(2.0, film.height / 620)
    for polygon, colour in zip(polygons, colours, strict=True):
        if len(polygon) < 3:
            continue
        low = np.maximum(np.floor(polygon.min(axis=0) - 3 * line), 0).astype(int)
        high = np.minimum(np.ceil(polygon.max(axis=0) + 3 * line), film.size).astype(int)
        size = high - low
        if (size < 1).any():
            continue
        corners = (polygon - low) * FINER
        closed = np.concatenate([corners, corners[:1]]).ravel().tolist()
        bends = corners[_bend_degrees(corners) > SHARP_DEGREES].tolist()
        for value, opacity in (((0, 0, 0), 0.55), (colour, 1.0)):
            cover = Image.new("L", tuple((size * FINER).tolist()))
            draw = ImageDraw.Draw(cover)
            rim = opacity < 1
            if not rim:
                draw.polygon(closed, fill=round(255 * FILL))
            width, ink = round((line + (2 if rim else 0)) * FINER), round(255 * opacity)
            draw.line(closed, fill=ink, width=width)
            for bend in bends:  # rounded here: Pillow's joint would draw several pieces at every corner, however slight
                draw.circle(bend, width / 2, fill=ink)
            cover = cover.resize(tuple(size.tolist()), Image.Resampling.BOX)
            film.paste(Image.new("RGB", cover.size, value), tuple(low.tolist()), cover)
    return film


def _bend_degrees(corners: Float64[np.ndarray, "corner 2"]) -> Float64[np.ndarray, " corner"]:
    """How far a closed line turns at each of its corners."""
    x, y = np.diff(corners, axis=0, append=corners[:1]).T
    turn = np.diff(np.arctan2(y, x), prepend=np.arctan2(y, x)[-1:])
    return np.asarray(np.abs(np.rad2deg((turn + np.pi) % (2 * np.pi) - np.pi)))


def _names(found: SpineResult, polygons: Sequence[np.ndarray], scale: float, right: bool) -> list[_Name]:
    """Everything that gets a name, from the top down."""
    names = []
    for k, level in enumerate(found.level_names):
        raw = found.raw_labels[k]
        note = f"{found.scores[k]:.2f}" if raw == level else f"{found.scores[k]:.2f}, was {raw}"
        points = polygons[k] if len(polygons[k]) else found.boxes_px[k].reshape(2, 2).astype(np.float64) * scale
        names.append(_Name(level, note, COLOURS[level], _tip(points, right)))
    for gone in found.missing:
        names.append(_Name(gone.label, NOT_FOUND, MISSING, (gone.centre[0] * scale, gone.centre[1] * scale)))
    return sorted(names, key=lambda name: name.anchor[1])


def _room_on_the_right(polygons: Sequence[np.ndarray], width: int) -> bool:
    """Say whether the film has more room on the right of the spine than on its left."""
    drawn = [polygon for polygon in polygons if len(polygon)]
    if not drawn:
        return True
    points = np.concatenate(drawn)
    return bool(width - points[:, 0].max() >= points[:, 0].min())


def _with_names(
    film: Image.Image, names: Sequence[_Name], polygons: Sequence[np.ndarray], right: bool, font: Font, small: Font
) -> Image.Image:
    """Write the names in a column beside the vertebrae, no two over one another, each with a leader to its own.

    The page is made wider than the film where the names need it.
    """
    em = font.getbbox("Ag")[3]
    side = 1 if right else -1
    heights = spread_apart(np.array([name.anchor[1] for name in names]), 1.2 * em, 0.7 * em, film.height - 0.7 * em)
    columns = _column(heights, names, polygons, right, AWAY_EM * em)
    ends = [
        float(column) + side * (font.getlength(name.text) + small.getlength(name.note) + 1.6 * em)
        for name, column in zip(names, columns, strict=True)
    ]
    gutter = max(0, round(max(ends) - film.width if right else -min(ends)))
    offset = 0 if right else gutter
    page = Image.new("RGB", (film.width + gutter, film.height), PAGE)
    page.paste(film, (offset, 0))
    draw = ImageDraw.Draw(page)
    for name, height, column in zip(names, heights, columns, strict=True):
        x, y = round(float(column)) + offset, round(float(height))
        start = (round(name.anchor[0]) + offset + side * 3, round(name.anchor[1]))
        for colour, width in ((PAGE, 3), (name.colour, 1)):
            draw.line([start, (x - side * round(0.9 * em), y), (x, y)], fill=colour, width=width)
        anchor = "lm" if right else "rm"
        x += side * round(0.35 * em)
        draw.text((x, y), name.text, name.colour, font, anchor=anchor, stroke_width=2, stroke_fill=PAGE)
        x += side * round(font.getlength(name.text) + 0.4 * em)
        ink = MISSING if name.note == NOT_FOUND else INK
        draw.text((x, y + 1), name.note, ink, small, anchor=anchor, stroke_width=2, stroke_fill=PAGE)
    return page


def _tip(polygon: Float64[np.ndarray, "corner 2"], right: bool) -> tuple[float, float]:
    """Where a vertebra's leader starts: in the middle of what it has farthest on that side."""
    x = polygon[:, 0] if right else -polygon[:, 0]
    outer = polygon[x >= x.max() - TIP * np.ptp(x)]
    return float(polygon[x.argmax(), 0]), float((outer[:, 1].min() + outer[:, 1].max()) / 2)


def _column(
    heights: Float64[np.ndarray, " n"], names: Sequence[_Name], polygons: Sequence[np.ndarray], right: bool, away: float
) -> Float64[np.ndarray, " n"]:
    """Where each name begins: beyond every vertebra near its height."""
    side = 1.0 if right else -1.0
    drawn = [polygon for polygon in polygons if len(polygon)]
    columns = []
    for height, name in zip(heights, names, strict=True):
        near = [
            float((polygon[:, 0] * side).max())
            for polygon in drawn
            if polygon[:, 1].min() - 2 * away <= height <= polygon[:, 1].max() + 2 * away
        ]
        columns.append(side * (max([side * name.anchor[0], *near]) + away))
    return np.array(columns)


def spread_apart(wanted: Float64[np.ndarray, " n"], least: float, low: float, high: float) -> Float64[np.ndarray, " n"]:
    """Move rising heights as little as possible (least squares) so that neighbours are ``least`` apart, within bounds.

    Less the room that those before it take, each may be anywhere but before the last one: isotonic regression, by
    pooling adjacent violators (Barlow et al. 1972). Where there is too little room they come closer.
    """
    count = len(wanted)
    least = min(least, (high - low) / max(count - 1, 1))
    room = np.arange(count) * least
    pools: list[tuple[float, int]] = []
    for value in np.asarray(wanted, np.float64) - room:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, size = (before * many + mean * size) / (many + size), many + size
        pools.append((mean, size))
    flat = np.concatenate([np.full(size, mean) for mean, size in pools] or [np.zeros(0)])
    heights: Float64[np.ndarray, " n"] = flat.clip(low, high - (room[-1] if count else 0)) + room
    return heights


def _ring(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float) -> None:
    """A dashed ring where a level ought to be."""
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    for start in range(0, 360, 45):
        draw.arc(box, start, start + 25, fill=MISSING, width=2)


def _with_words(page: Image.Image, found: SpineResult, title: str, em: float) -> Image.Image:
    """Put title, count, what stands beside the names, and findings below."""
    font, gap = ImageFont.load_default(max(12.0, 0.8 * em)), round(0.8 * em)
    line = round(1.25 * em)
    words = [(title, INK)] if title else []
    if len(found):
        count = in_words(len(found), found.level_names[0], found.level_names[-1])
        renamed = "; was: the network's own name" if found.raw_labels != found.level_names else ""
        words.append((f"{count}; beside a name: its probability{renamed}", FAINT))
    words += [*((finding, WARNING) for finding in found.findings), (DISCLAIMER, FAINT)]
    lines = [(piece, colour) for text, colour in words for piece in wrapped(text, font, page.width - 2 * gap)]
    whole = Image.new("RGB", (page.width, page.height + 2 * gap + line * len(lines)), PAGE)
    whole.paste(page, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(lines):
        draw.text((gap, page.height + gap + number * line), text, colour, font)
    return whole
