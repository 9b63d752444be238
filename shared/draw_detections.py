"""Pictures of detections: boxes and outlines over the radiograph, each with its score beside it.

Pillow draws everything and brings its own font. A line has a dark rim on both sides, so that it is seen on bright bone
and on dark air alike, and it is thin, so that what it encloses is seen too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.draw import DISCLAIMER, FAINT, INK, PAGE, PALETTE, Colour, wrapped
from shared.types import Boxes, Detections, PictureArray

Rectangle: TypeAlias = tuple[float, float, float, float]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

MIN_SIDE_PX, MAX_SIDE_PX = 900, 1600  # of the picture's longer side: words are read, files stay small
RIM: Colour = (0, 0, 0)
TRUE: Colour = (255, 64, 64)


def draw_detections(
    picture: PictureArray,
    detections: Detections,
    *,
    title: str = "",
    caption: str = "",
    colours: Mapping[str, Colour] | None = None,
    truth_px: Boxes | None = None,
) -> Image.Image:
    """Draw what was found on a picture, and below it the title, the caption and the detections' findings.

    Args:
        picture: ``y x`` in 0..1; small ones are shown larger and large ones smaller.
        detections: in pixels of the picture.
        title: the file's name, say.
        caption: a line such as the operating point.
        colours: a label's name to RGB; the palette in the order of the labels where a name is missing.
        truth_px: true boxes, drawn in red below the others.
    """
    scale = _scale(picture)
    canvas = _as_image(picture, scale)
    draw = ImageDraw.Draw(canvas)
    line_px = max(2, round(max(canvas.size) / 550))
    font = _font(canvas.size, 1.5)
    palette = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(detections.names.values())}
    palette |= colours or {}
    order = np.argsort(-detections.scores, kind="stable")
    named = len(detections.names) > 1
    taken: list[Rectangle] = []
    for box in () if truth_px is None else truth_px:
        _draw_box(draw, _rectangle(box * scale), TRUE, line_px, canvas.size)
    for index in order[::-1]:  # the best on top
        colour = palette[detections.names[int(detections.labels[index])]]
        polygon = None if detections.polygons_px is None else detections.polygons_px[index]
        if polygon is not None and len(polygon) >= 3:
            _draw_outline(draw, polygon * scale, colour, line_px)
        else:
            _draw_box(draw, _rectangle(detections.boxes_px[index] * scale), colour, line_px, canvas.size)
    boxes = [_rectangle(box * scale) for box in detections.boxes_px]
    for index in order:
        name = detections.names[int(detections.labels[index])]
        text = f"{name} {detections.scores[index]:.2f}" if named else f"{detections.scores[index]:.2f}"
        place = _place(draw, text, boxes[index], [*taken, *boxes], font, canvas.size, line_px)
        _draw_label(draw, text, place, palette[name], font)
        taken.append(place)
    return _with_words(canvas, title, [line for line in (caption, *detections.findings) if line])


def _scale(picture: PictureArray) -> float:
    longest: int = max(picture.shape)
    return min(MAX_SIDE_PX, max(MIN_SIDE_PX, longest)) / longest


def _as_image(picture: PictureArray, scale: float) -> Image.Image:
    grey = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return (grey if size == grey.size else grey.resize(size, Image.Resampling.BICUBIC)).convert("RGB")


def _font(size: tuple[int, int], relative: float) -> Font:
    return ImageFont.load_default(max(12, relative * max(size) / 100))


def _rectangle(box: np.ndarray) -> Rectangle:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def _draw_box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: Colour, line_px: int, size: tuple[int, int]) -> None:
    """Draw a rectangle around a box, the line outside of it where there is room, so that nothing within is covered."""
    for away, line, width in ((line_px + 2, RIM, line_px + 2), (line_px + 1, colour, line_px)):
        room = away - line_px - 1  # the rim may be lost at the picture's edge, the line not
        x1, y1 = (max(value - away, -room) for value in box[:2])
        x2, y2 = (min(value + away, side - 1 + room) for value, side in zip(box[2:], size, strict=True))
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=line, width=width)


def _draw_outline(draw: ImageDraw.ImageDraw, polygon: np.ndarray, colour: Colour, line_px: int) -> None:
    corners = [(float(x), float(y)) for x, y in [*polygon, polygon[0]]]
    draw.line(corners, RIM, line_px + 2, joint="curve")
    draw.line(corners, colour, line_px, joint="curve")


def _place(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Rectangle,
    taken: Sequence[Rectangle],
    font: Font,
    size: tuple[int, int],
    line_px: int,
) -> Rectangle:
    """Find a place for a label beside its box, within the picture, that covers as little as may be."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    pad = max(2, round((bottom - top) / 4))
    width, height, away = right - left + 2 * pad, bottom - top + 2 * pad, line_px + 3
    x1, y1, x2, y2 = box
    corners = [
        (x1 - line_px, y1 - away - height), (x1 - line_px, y2 + away), (x2 + away, y1), (x1 - away - width, y1),
        (x2 - width, y1 - away - height), (x2 - width, y2 + away), (x2 + away, y2 - height),
        (x1 - away - width, y2 - height),
    ]  # fmt: skip
    places = []
    for x, y in corners:
        x, y = min(max(x, 0.0), size[0] - width), min(max(y, 0.0), size[1] - height)
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(_shared(place, other) for other in taken))


def _shared(one: Rectangle, other: Rectangle) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def _draw_label(draw: ImageDraw.ImageDraw, text: str, place: Rectangle, colour: Colour, font: Font) -> None:
    x1, y1, x2, y2 = place
    draw.rounded_rectangle(place, radius=(y2 - y1) / 4, fill=PAGE, outline=colour)
    draw.text(((x1 + x2) / 2, (y1 + y2) / 2), text, colour, font, anchor="mm")


def _with_words(canvas: Image.Image, title: str, lines: Sequence[str]) -> Image.Image:
    """Put a strip of words below the picture."""
    font, gap = _font(canvas.size, 1.4), max(6, max(canvas.size) // 110)
    line_px = round(font.getbbox("Ag")[3] * 1.35)
    words = [title] if title else []
    words += [piece for line in lines for piece in wrapped(line, font, canvas.width - 2 * gap)]
    beside = words and font.getlength(words[-1]) + font.getlength(DISCLAIMER) + 3 * gap <= canvas.width
    rows = len(words) + (0 if beside else 1)
    page = Image.new("RGB", (canvas.width, canvas.height + 2 * gap + rows * line_px), PAGE)
    page.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(page)
    for number, text in enumerate(words):
        draw.text((gap, canvas.height + gap + number * line_px), text, INK if number == 0 else FAINT, font)
    last = canvas.height + gap + (rows - 1) * line_px
    for piece in wrapped(DISCLAIMER, font, canvas.width - 2 * gap)[:1]:
        draw.text((canvas.width - gap, last), piece, FAINT, font, anchor="ra")
    return page
