"""The bones task's settings: one frozen model for gate and detector, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from shared.config import Config as FrozenConfig
from shared.training_settings import TrainingSettings

SSD_SMALLEST_PX = 268  # five halvings and two convolutions without padding leave one cell of the last feature map


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
    loss: Literal["hard_negatives", "focal"] = "hard_negatives"
    """SSD's: of the background only what is three times as many as the boxes' anchors, the worst of it; or focal loss,
    which learns from pictures without a box too."""
    pretrained: Literal["none", "imagenet", "coco"] = "none"
    """Weights to start from, fetched by torchvision or ultralytics; a file of one's own (``--init``) goes before."""
    frozen_stages: NonNegativeInt = Field(0, le=5)
    """Stages of the trunk, from the input on, whose weights stay as they are."""
    yolo: str = "yolo11n"
    """Which of ultralytics' networks, where kind is yolo."""

    @model_validator(mode="after")
    def _big_enough(self) -> Detector:
        if self.kind == "ssd300_vgg16" and self.size_px < SSD_SMALLEST_PX:
            raise ValueError(f"SSD's last feature map is empty below {SSD_SMALLEST_PX} px; give a larger size_px")
        return self


class Sampling(FrozenConfig):
    """What is done to training pictures, after the split."""

    augment: Literal["none", "flips", "best"] = "none"
    """flips: the reference's (horizontal, vertical, both), drawn anew each time. best: torchvision's SSD recipe."""
    upsample: Literal["none", "flips"] = "none"
    """flips: every training picture four times, as it is and in the reference's three flips."""
    small_object_crops: float = Field(0.0, ge=0, le=1)
    """Share of training windows that are cut around a small box; the others lie anywhere."""
    window_px: PositiveInt | None = None
    """Train on square windows of this side out of the picture at ``size_px``; None is the whole picture. Boxes are then
    as large as at prediction and a step costs a share. As small_object_crops, it concerns augment best alone."""
    stored_px: PositiveInt = 1024
    """Longest side of the pictures in the cache, from which windows are cut."""


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

    @model_validator(mode="after")
    def _window_fits(self) -> Config:
        window, detector = self.sampling.window_px, self.detector
        least = SSD_SMALLEST_PX if detector.kind == "ssd300_vgg16" else 1
        if window is not None and not least <= window <= detector.size_px:
            raise ValueError(f"sampling.window_px is {window}; give {least} to detector.size_px, {detector.size_px}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {},
    "reference": {},
    "best": {},
}
