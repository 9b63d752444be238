"""The bones task's settings: one frozen model for gate and detector, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from shared.config import Config as FrozenConfig
from shared.training_settings import TrainingSettings


class Gate(FrozenConfig):
    """The light network that marks bone, each pixel with a probability."""

    kind: Literal["segnet", "unet"] = "segnet"
    size_px: PositiveInt = 224
    width: PositiveInt = 64
    """Channels of the first stage; each of SegNet's later ones doubles them, up to eight times as many."""


class Detector(FrozenConfig):
    """The heavy network that boxes fractures."""

    kind: Literal["ssd300_vgg16", "yolo", "maskrcnn"] = "ssd300_vgg16"
    size_px: PositiveInt = 640
    labels: tuple[str, ...] = ("fracture",)
    anchors: Literal["torchvision", "small"] = "torchvision"
    """small: shapes shifted to the small boxes that fractures have."""
    frozen_stages: NonNegativeInt = Field(0, le=5)
    """Stages of the trunk, from the input on, whose weights stay as they are."""
    yolo: str = "yolo11n"
    """Which of ultralytics' networks, where kind is yolo."""


class Sampling(FrozenConfig):
    """What is done to training pictures, after the split."""

    augment: Literal["none", "flips", "best"] = "none"
    """flips: the reference's (horizontal, vertical, both), drawn anew each time. best: torchvision's SSD recipe."""
    upsample: Literal["none", "flips"] = "none"
    """flips: every training picture four times, as it is and in the reference's three flips."""
    small_object_crops: float = Field(0.0, ge=0, le=1)
    """Share of training pictures cut to a window around a small box."""


class Config(FrozenConfig):
    """One training run of the gate or of the detector, whole."""

    network: Literal["gate", "detector"] = "detector"
    gate: Gate = Gate()
    detector: Detector = Detector()
    sampling: Sampling = Sampling()
    training: TrainingSettings = TrainingSettings()
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the groups held out where the data set has no split."""
    phantoms: PositiveInt = 24
    """How many phantoms to make where no data folder is given."""


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {},
    "reference": {},
    "best": {},
}
