"""What a worker does with a picture: each function takes the predictor, the picture's bytes, and plain arguments.

What they return is JSON, since it goes through a pipe from a process that has just read a stranger's file.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from bones.batch import SCHEMA_VERSION, gate_entry, result_json
from bones.predict import Predictor
from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.types import Radiograph

PNG_EFFORT = 1  # of 9: masks are small anyway


def segment(predictor: Predictor, picture: bytes, *, max_pixels: int, name: str) -> dict[str, Any]:
    """Ask the gate alone: its decision, and its mask on the picture's own grid.

    Raises:
        InputError: the picture cannot be used.
    """
    radiograph = read(picture, max_pixels)
    gate = predictor.gate
    assert gate is not None  # the service never runs without it
    decision = gate(radiograph)
    return {
        "schema_version": SCHEMA_VERSION,
        "file": name,
        "width_px": radiograph.width_px,
        "height_px": radiograph.height_px,
        "engine": gate.session.engine,
        "model_sha256": None,
        "gate_sha256": gate.sha256,
        "operating_point": None,
        "threshold": None,
        "gate": gate_entry(decision),
        "detections": None,
        "mask_png": mask_png(decision.mask, radiograph.width_px, radiograph.height_px),
    }


def detect(predictor: Predictor, picture: bytes, *, max_pixels: int, name: str, force: bool = False) -> dict[str, Any]:
    """Ask the gate, then the detector; ``force`` leaves the gate out.

    Raises:
        InputError: the picture cannot be used.
    """
    found = predictor(read(picture, max_pixels), gated=not force)
    return result_json(name, found, predictor) | {"forced": force}


def read(picture: bytes, max_pixels: int) -> Radiograph:
    """Read a picture.

    Raises:
        InputError: it cannot be used, or not here.
    """
    try:
        return read_radiograph(picture, max_pixels=max_pixels)
    except SetupError as error:  # a decoder that is not installed is no fault of the detector
        raise InputError("the picture", str(error).removeprefix("the picture: "), "store it uncompressed") from None


def mask_png(mask: np.ndarray, width_px: int, height_px: int) -> str:
    """Give a mask as a PNG of ``width_px`` by ``height_px`` in base64, 255 where bone was seen."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((width_px, height_px), Image.Resampling.NEAREST)
    file = BytesIO()
    image.convert("1").save(file, "PNG", compress_level=PNG_EFFORT)
    return b64encode(file.getvalue()).decode()


WORK: Mapping[str, Callable[..., dict[str, Any]]] = {"segment": segment, "detect": detect}
