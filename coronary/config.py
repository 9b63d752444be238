"""The coronary task's settings: one frozen model, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from shared.config import Config as FrozenConfig

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class HuWindow(FrozenConfig):
    """Clip to a window of Hounsfield units and scale it to -1..1."""

    kind: Literal["hu_window"] = "hu_window"
    low_hu: float = -200.0
    high_hu: float = 800.0


class ZScore(FrozenConfig):
    """The reference chain: zero-pad to ``pad_to``, then z-score over the non-zero voxels of the whole volume."""

    kind: Literal["zscore_nonzero"] = "zscore_nonzero"
    pad_to: Triple = (96, 96, 96)


class Preprocessing(FrozenConfig):
    """Everything between a scan in HU and the network's input; stored in the model and read from there alone."""

    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    normalisation: Annotated[HuWindow | ZScore, Field(discriminator="kind")] = ZScore()


class Inference(FrozenConfig):
    """How windows are laid and probabilities become a mask; stored in the model."""

    window: Triple = (96, 96, 96)
    overlap: float = Field(0.25, ge=0, lt=1)
    """Least share of a window that its neighbour covers again, along each axis."""
    grow: float = Field(1.35, ge=1)
    """A window may grow by this factor along an axis where that saves windows; 1 keeps the trained size."""
    blending: Literal["gaussian", "constant"] = "gaussian"
    threshold: float = Field(0.5, gt=0, lt=1)
    min_volume_mm3: float = Field(30.0, ge=0)
    """Smaller connected pieces are dropped."""
    lumen_threshold_hu: float = 100.0
    """Darker voxels cannot be contrast-filled lumen: windows that hold none brighter are skipped."""


class Config(FrozenConfig):
    """One coronary training run, whole."""

    features: tuple[int, int, int, int, int, int] = (32, 64, 128, 256, 512, 32)
    """BasicUNet's channels per level, the last one for the final up-sampling."""
    dropout: float = Field(0.1, ge=0, lt=1)
    preprocessing: Preprocessing = Preprocessing()
    inference: Inference = Inference()

    seed: int = 0
    phantoms: PositiveInt = 8
    """How many phantoms to make where no data folder is given."""
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    validation_cases: PositiveInt = 4
    """How many of the held-out cases are looked at during training; whole scans take their time."""
    patch: Triple = (96, 96, 96)
    batch: PositiveInt = 4
    positive_fraction: float = Field(0.5, ge=0, le=1)
    """Share of patches centred on a lumen voxel."""
    steps: PositiveInt = 1000
    validate_every: PositiveInt = 250
    loss: Literal["dice", "dice_ce"] = "dice"
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; 0 switches it off."""
    augment: bool = False
    """Intensity changes and small rotations; never a mirror, since left and right carry meaning."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: str = "auto"
    workers: int = Field(1, ge=0)


# Width, spacing and loss of the shipped model: what two CPU cores can train and a laptop can run.
_LITE: dict[str, Any] = {
    "features": (8, 16, 32, 64, 96, 8),
    "dropout": 0.0,
    "preprocessing": Preprocessing(spacing_mm=(0.7, 0.7, 0.7), normalisation=HuWindow()),
    "loss": "dice_ce",
    "optimiser": "adamw",
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "ema": 0.995,
    "augment": True,
    "precision": "bf16-mixed",
}

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop, from nothing to an ONNX file: proves the path, not the accuracy.
    "smoke": _LITE
    | {
        "features": (8, 16, 16, 32, 32, 8),
        "preprocessing": Preprocessing(spacing_mm=(1.0, 1.0, 1.0), normalisation=HuWindow()),
        "phantoms": 4,
        "patch": (48, 48, 48),
        "batch": 2,
        "steps": 60,
        "validate_every": 30,
        "ema": 0.9,
    },
    # The shipped model (recipes/coronary_lite.sh).
    "lite": _LITE
    | {
        "learning_rate": 3e-3,
        "seed": 1,
        "patch": (64, 64, 64),
        "batch": 2,
        "positive_fraction": 0.6,
        "phantoms": 64,
        "validation_fraction": 0.08,
        "validation_cases": 2,
        "steps": 3000,
        "validate_every": 800,
    },
    # The reference project's network and baseline: Dice loss, Adam 1e-4, four balanced patches of 96 cubed.
    "reference-baseline": {},
}
