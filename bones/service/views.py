"""What the pages show of a picture: itself, the bone that the gate marked, and the boxes of the detector.

Everything a page needs is in a `View`, pictures as data URIs, since the server keeps none. A worker makes it, the
server puts it into a template.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from bones.batch import result_json
from bones.gate import GateDecision
from bones.predict import OPERATING_POINTS, GatedDetections, OperatingPoint, Predictor
from bones.service.work import PNG_EFFORT, read
from shared.config import Config
from shared.io.detection_writers import DECIMALS_SCORE
from shared.types import Radiograph

SHOWN_SIDE_PX = 2400  # of the longer side on the page: fine lines are seen, and a page stays near a megabyte
SHOWN_QUALITY = 92  # of 100, JPEG: what it leaves out is below what a screen shows


class Shown(Config):
    """A picture for the page: ``uri`` may be smaller than the picture's own ``width_px`` by ``height_px``."""

    uri: str
    width_px: int
    height_px: int
    format: str
    notes: tuple[str, ...]


class Bone(Config):
    """What the gate says; ``mask_uri`` is its mask as a grey PNG, to be stretched over the picture."""

    passed: bool
    area_fraction: float
    confidence: float
    reason: str
    mask_uri: str


class Box(Config):
    """One box in pixels of the picture; ``points`` are the operating points at which it is reported."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    score: float
    points: tuple[OperatingPoint, ...]


class Fractures(Config):
    """What the detector says: every box down to the lowest operating point, best first.

    ``record`` is the answer of ``/v1/detect`` at that point; ``overlay_uri`` is a PNG with the boxes of ``point``.
    """

    boxes: tuple[Box, ...]
    thresholds: dict[OperatingPoint, float]
    point: OperatingPoint
    record: dict[str, Any]
    overlay_uri: str | None

    def count(self, point: OperatingPoint) -> int:
        """How many boxes an operating point reports."""
        return sum(point in box.points for box in self.boxes)


class View(Config):
    """A picture and what was said of it; ``bone`` is None without a gate, ``fractures`` before the detector."""

    picture: Shown
    bone: Bone | None
    fractures: Fractures | None = None

    @property
    def passed(self) -> bool:
        """Whether the detector may look at it."""
        return self.bone is None or self.bone.passed


def page_segment(predictor: Predictor, picture: bytes, *, max_pixels: int) -> dict[str, Any]:
    """Ask the gate alone; returns a `View` as JSON.

    Raises:
        InputError: the picture cannot be used.
    """
    radiograph = read(picture, max_pixels)
    assert predictor.gate is not None  # the service never runs without it
    return View(picture=_shown(radiograph), bone=_bone(predictor.gate(radiograph))).model_dump()


def page_detect(
    predictor: Predictor, picture: bytes, *, max_pixels: int, name: str, force: bool = False, overlay: bool = True
) -> dict[str, Any]:
    """Ask the gate and, if the picture passes, the detector; returns a `View` as JSON.

    Args:
        predictor: gate and detector.
        picture: the file.
        max_pixels: more are refused.
        name: what the record calls it.
        force: leave the gate out.
        overlay: draw the PNG, too; a browser with scripts draws it itself.

    Raises:
        InputError: the picture cannot be used.
    """
    radiograph = read(picture, max_pixels)
    points = predictor.file.operating_points
    lowest = min(points, key=lambda point: points[point])
    found = predictor(radiograph, threshold=points[lowest], gated=not force)
    view = View(picture=_shown(radiograph), bone=_bone(found.gate) if found.gate else None)
    if not view.passed:
        return view.model_dump()
    # Scores are rounded in the record; rounded alike, a box and its threshold keep their order.
    thresholds = {point: round(points[point], DECIMALS_SCORE) for point in OPERATING_POINTS}
    lowered = {"operating_point": lowest, "threshold": thresholds[lowest], "forced": force}
    record = result_json(name, found, predictor) | lowered
    fractures = Fractures(
        boxes=tuple(_box(entry, thresholds) for entry in record["detections"]),
        thresholds=thresholds,
        point=predictor.operating_point,
        record=record,
        overlay_uri=_overlay(radiograph, found, predictor, name) if overlay else None,
    )
    return view.model_copy(update={"fractures": fractures}).model_dump()


WORK: Mapping[str, Callable[..., dict[str, Any]]] = {"page_segment": page_segment, "page_detect": page_detect}


def _shown(radiograph: Radiograph) -> Shown:
    """Encode a picture as browsers know it, which DICOM and TIFF are not; nothing but pixels is in it."""
    image = Image.fromarray(np.rint(radiograph.array * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE_PX, SHOWN_SIDE_PX), Image.Resampling.BOX)
    return Shown(
        uri=_uri(image, "JPEG", quality=SHOWN_QUALITY),
        width_px=radiograph.width_px,
        height_px=radiograph.height_px,
        format=radiograph.source.format,
        notes=radiograph.source.notes,
    )


def _bone(decision: GateDecision) -> Bone:
    mask = Image.fromarray(decision.mask.astype(np.uint8) * 255)
    return Bone(
        passed=decision.passed,
        area_fraction=decision.area_fraction,
        confidence=decision.confidence,
        reason=decision.reason,
        mask_uri=_uri(mask, "PNG", compress_level=PNG_EFFORT),
    )


def _box(entry: dict[str, Any], thresholds: dict[OperatingPoint, float]) -> Box:
    x1, y1, x2, y2 = entry["box_xyxy_px"]
    points = tuple(point for point, threshold in thresholds.items() if entry["score"] >= threshold)
    return Box(x_px=x1, y_px=y1, width_px=x2 - x1, height_px=y2 - y1, score=entry["score"], points=points)


def _overlay(radiograph: Radiograph, found: GatedDetections, predictor: Predictor, name: str) -> str:
    """Draw the boxes of the predictor's operating point, as ``bones predict`` does."""
    from shared.draw_detections import draw_detections

    enough = found.scores >= predictor.threshold
    polygons = found.polygons_px and tuple(
        polygon for polygon, keep in zip(found.polygons_px, enough, strict=True) if keep
    )
    kept = GatedDetections(
        found.boxes_px[enough], found.scores[enough], found.labels[enough], found.names,
        found.width_px, found.height_px, polygons, found.findings, gate=found.gate,
    )  # fmt: skip
    caption = f"score of {predictor.threshold:.2f} or more ({predictor.operating_point})"
    image = draw_detections(radiograph.array, kept, title=name, caption=caption)
    return _uri(image, "PNG", compress_level=PNG_EFFORT)


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    """Encode an image as a data URI."""
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
