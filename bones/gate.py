"""The gate's decision: is this a radiograph with bone in it, so that looking for fractures makes sense?

The network's mask must be neither too small nor too large and the network sure of it, and the picture must look as
radiographs do. Every threshold is a field of `GateSettings`, which is kept in the model file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool
from pydantic import Field, model_validator
from scipy import ndimage

from shared.config import Config
from shared.types import PictureArray, PictureSource

Share = Annotated[float, Field(ge=0, le=1)]
Inside = Annotated[float, Field(gt=0, lt=1)]

RING_FRACTION = 1 / 28
"""Width of the ring about the mask that bone is compared with, as a share of the picture's side."""


class GateSettings(Config):
    """What passes. The area's bounds lie inside 0..1, so that no setting lets an empty or a full mask pass."""

    mask_probability: Inside = 0.5
    """A pixel is bone from here on."""
    min_area_fraction: Inside = 0.01
    max_area_fraction: Inside = 0.75
    min_confidence: Share = 0.55
    """Mean probability within the mask."""
    max_chroma: Share = 0.04
    """Radiographs are grey, or have the faint tint of a photographed film."""
    max_roughness: float = Field(0.2, gt=0)
    """Mean step of grey from pixel to pixel over the spread of grey: textures and pages of text are rougher."""
    min_contrast: Inside = 0.01
    """How much brighter the mask is than the ring about it: bone absorbs more than what lies beside it."""

    @model_validator(mode="after")
    def _in_order(self) -> GateSettings:
        if self.min_area_fraction >= self.max_area_fraction:
            raise ValueError("min_area_fraction must be below max_area_fraction")
        return self


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether a picture passed, why (a sentence for people), and the mask, ``y x`` as the network saw the picture.

    ``area_fraction`` is the mask's share of the picture, ``confidence`` the mean probability within it, 0 if empty.
    """

    passed: bool
    area_fraction: float
    confidence: float
    reason: str
    mask: Bool[np.ndarray, "y x"]


@dataclass(frozen=True, slots=True)
class Features:
    """What the decision looks at; see the fields of `GateSettings` that bound them."""

    area_fraction: float
    confidence: float
    chroma: float
    roughness: float
    contrast: float


def decide(
    probability: PictureArray, picture: PictureArray, source: PictureSource, settings: GateSettings
) -> GateDecision:
    """Decide whether bone was found in a radiograph.

    Args:
        probability: of bone at each pixel, ``y x``, as the network gave it.
        picture: what the network was given, ``y x`` in 0..1.
        source: what the reader noticed of the file.
        settings: the model file's.
    """
    mask = probability >= settings.mask_probability
    found = measure(probability, mask, picture, source)
    said = refusal(found, settings)
    reason = said or f"bone on {found.area_fraction:.0%} of the picture"
    return GateDecision(said is None, found.area_fraction, found.confidence, reason, mask)


def measure(
    probability: PictureArray, mask: Bool[np.ndarray, "y x"], picture: PictureArray, source: PictureSource
) -> Features:
    """Measure what the decision looks at; arguments as of `decide`."""
    down, across = np.gradient(picture)
    spread = float(picture.std())
    step = float(np.hypot(down, across).mean())
    return Features(
        area_fraction=float(mask.mean()),
        confidence=float(probability[mask].mean()) if mask.any() else 0.0,
        chroma=source.chroma,
        roughness=step / spread if spread > 1e-6 else 0.0,  # a blank picture has no contrast either
        contrast=_contrast(mask, picture),
    )


def _contrast(mask: Bool[np.ndarray, "y x"], picture: PictureArray) -> float:
    """Mean grey of the mask less that of the ring about it; 0 where either is empty."""
    reach = max(1, round(max(mask.shape) * RING_FRACTION))
    ring = ndimage.maximum_filter(mask, 2 * reach + 1) & ~mask
    if not (mask.any() and ring.any()):
        return 0.0
    return float(picture[mask].mean() - picture[ring].mean())


def refusal(found: Features, limits: GateSettings) -> str | None:
    """Say why a picture is turned away, or None; what is plainest to people comes first."""
    area = found.area_fraction
    rules = (
        (found.chroma > limits.max_chroma,
         f"no radiograph: it is coloured (chroma {found.chroma:.2f}, at most {limits.max_chroma:.2f})"),
        (found.roughness > limits.max_roughness,
         "no radiograph: it is rough like a texture or a page of text "
         f"({found.roughness:.2f}, at most {limits.max_roughness:.2f})"),
        (area == 0, "no bone was found"),
        (area < limits.min_area_fraction,
         f"bone on {area:.1%} of the picture only (at least {limits.min_area_fraction:.1%})"),
        (area > limits.max_area_fraction,
         f"{area:.0%} of the picture taken for bone, more than a radiograph has "
         f"(at most {limits.max_area_fraction:.0%})"),
        (found.confidence < limits.min_confidence,
         f"too unsure where bone is (confidence {found.confidence:.2f}, at least {limits.min_confidence:.2f})"),
        (found.contrast < limits.min_contrast,
         "what was taken for bone is hardly brighter than what lies beside it "
         f"({found.contrast:.2f}, at least {limits.min_contrast:.2f})"),
    )  # fmt: skip
    return next((sentence for broken, sentence in rules if broken), None)
