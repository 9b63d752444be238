"""The bones task's settings: one frozen model for gate and detector, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from shared.config import Config as FrozenConfig
from shared.config import layered
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


# What the field has learned since the reference, each choice with its source.
_BEST: dict[str, Any] = {
    # Anchors fitted to fractures (bones/ssd.py), and focal loss (Lin et al., ICCV 2017): hard negative mining learns
    # nothing from a picture without a box.
    "detector": {"anchors": "small", "loss": "focal", "pretrained": "coco"},
    # torchvision's augmentation for SSD (references/detection), and a share of pictures cut to where small boxes are.
    "sampling": {"augment": "best", "small_object_crops": 0.3},
    # torchvision trains its SSD for 120 epochs with SGD and steps; AdamW (Loshchilov & Hutter, ICLR 2019) under a
    # cosine (the same, ICLR 2017) after a warm-up needs no such tuning for another batch; moving average of the weights
    # (Morales-Brotons et al., TMLR 2024).
    "training": {
        "epochs": 120, "batch": 16, "optimiser": "adamw", "learning_rate": 2e-4, "weight_decay": 5e-4,
        "schedule": "cosine", "warmup_steps": 500, "ema": 0.999, "clip_norm": 10.0, "precision": "bf16-mixed",
        "memory": "auto", "workers": 4,
    },
}  # fmt: skip

# What two CPU cores can train: the first two stages of a trunk from a file (`--init`) stay as they are, and windows of
# a quarter of the picture cost a quarter, with boxes as large as they are when it predicts.
_LITE = layered(
    _BEST,
    {
        "detector": {"pretrained": "none", "frozen_stages": 2},
        "sampling": {"window_px": 320, "small_object_crops": 0.5},
        "training": {
            "epochs": 40,
            "steps_per_epoch": 150,
            "batch": 4,
            "warmup_steps": 100,
            "ema": 0.998,
            "memory": "fixed",
            "workers": 1,
        },
    },
)

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop, from nothing to an ONNX file: proves the path, not the accuracy.
    "smoke": layered(
        _BEST,
        {
            "detector": {"size_px": 300, "pretrained": "none"},
            "training": {
                "epochs": 3,
                "batch": 4,
                "warmup_steps": 4,
                "ema": 0.8,
                "precision": "32-true",
                "memory": "fixed",
                "workers": 1,
            },
        },
    ),
    # The shipped detector (recipes/bones_detector.sh).
    "lite": _LITE,
    # For a CUDA box.
    "best": _BEST,
    # The reference project's detector: SSD300-VGG16 from COCO at 640, Adam 1e-4, batch 8, 15 epochs, four times as many
    # pictures by flips, which here are made after the split.
    "reference": {
        "detector": {"pretrained": "coco"},
        "sampling": {"upsample": "flips"},
        "training": {"epochs": 15, "batch": 8},
    },
    # Its gate: SegNet at 224, binary cross entropy, Adam 1e-4, 50 epochs.
    "reference-gate": {"network": "gate", "training": {"epochs": 50, "batch": 8}},
    # The shipped gate, at a quarter of the reference's width (recipes/bones_gate.sh).
    "lite-gate": {
        "network": "gate",
        "gate": {"width": 16},
        "sampling": {"augment": "best", "stored_px": 320},
        "training": {
            "epochs": 4,
            "batch": 8,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 10,
            "weight_decay": 1e-5,
            "clip_norm": 5.0,
            "precision": "bf16-mixed",
        },
    },
}
