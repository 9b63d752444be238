"""The spine task's settings: one frozen model, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt

from shared.config import Config as FrozenConfig

LEVELS: tuple[str, ...] = (
    *(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)),
)  # fmt: skip
"""The 24 classes in anatomical order, from the head down; class k is LEVELS[k]."""


class Config(FrozenConfig):
    """One training run, whole."""

    network: str = "yolo11n-seg"
    size_px: PositiveInt = 640
    validation_fraction: float = Field(0.2, gt=0, lt=1)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {},
    "reference": {},
    "best": {},
}
