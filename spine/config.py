"""The spine task's settings: one frozen model, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from shared.config import Config as FrozenConfig
from shared.config import layered

LEVELS: tuple[str, ...] = (
    *(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)),
)  # fmt: skip
"""The 24 classes in anatomical order, from the head down; class k is LEVELS[k]."""

Network = Literal["yolo11n-seg", "yolo11s-seg", "yolo11m-seg", "yolo11l-seg", "yolo11x-seg"]


class Augmentation(FrozenConfig):
    """What is done to a film before each step; ultralytics' names in brackets. Chances are 0..1, shares of a side.

    A left-right mirror of an AP or lateral film moves no vertebra along the spine, so that every name stays right.
    Turned upside down or by a quarter, what was above lies below or beside: the order that names vertebrae is gone, so
    only `reference` does that. A quarter turn also makes a standing film lie.
    """

    brightness: float = Field(0.4, ge=0, lt=1)
    """Greatest change of the grey values, as a share (hsv_v)."""
    degrees: NonNegativeFloat = 0.0
    translate: float = Field(0.1, ge=0, lt=1)
    scale: float = Field(0.5, ge=0, lt=1)
    shear_degrees: NonNegativeFloat = 0.0
    mirror: float = Field(0.5, ge=0, le=1)
    """Chance of a left-right mirror (fliplr)."""
    upside_down: float = Field(0.0, ge=0, le=1)
    """Chance of a top-bottom mirror (flipud)."""
    quarter_turns: float = Field(0.0, ge=0, le=1)
    """Chance of a turn by 90, 180 or 270 degrees, each alike."""
    cut: float = Field(0.0, ge=0, le=1)
    """Chance that a film is cut off above and below, in its margin or between two vertebrae, so that a name does not
    follow from where a level lies on a film. Such a film is read anew each time."""
    mosaic: float = Field(1.0, ge=0, le=1)
    """Chance that four films become one. Square batches only."""
    mosaic_off_epochs: NonNegativeInt = 10
    """The last epochs are trained without (close_mosaic)."""


class Training(FrozenConfig):
    """Length, optimiser and hardware of one run, as ultralytics' trainer takes them; its names in brackets."""

    epochs: PositiveInt = 100
    batch: PositiveInt = 16
    """Films in a step over all devices."""
    nominal_batch: PositiveInt = 64
    """Gradients are added up over steps to about this many films (nbs)."""
    optimiser: Literal["auto", "sgd", "adamw"] = "auto"
    """auto: ultralytics' choice by the length of the run; it ignores learning_rate and momentum."""
    learning_rate: PositiveFloat = 0.01
    """(lr0)"""
    final_share: PositiveFloat = 0.01
    """Of the learning rate, at the end (lrf)."""
    momentum: float = Field(0.937, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 5e-4
    warmup_epochs: NonNegativeFloat = 3.0
    schedule: Literal["linear", "cosine"] = "linear"
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what is scored and exported; less in the first steps. 0 is
    ultralytics' own: it rises so slowly to 0.9999 that a run of 1,500 steps averages but the last two."""
    early_stop_epochs: PositiveInt | None = 100
    """Stop after so many epochs without a better validation score (patience)."""
    time_limit_minutes: PositiveFloat | None = None
    """Stop after the epoch in which this time is over; a resumed run starts its clock anew."""
    seed: NonNegativeInt = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, or a list such as cuda:0,2."""
    devices: PositiveInt = 1
    """How many CUDA devices share the batch, where device names none."""
    workers: NonNegativeInt = 8
    """Processes that prepare films for each device; on the CPU there are none."""


class Config(FrozenConfig):
    """One spine training run, whole."""

    network: Network = "yolo11n-seg"
    """n, s, m, l or x: 2.9, 10, 22, 28 or 62 million weights."""
    size_px: PositiveInt = 640
    """Longer side of a film as the network sees it; a multiple of 32."""
    rectangular: bool = False
    """Batches of films of one shape, padded to multiples of 32, instead of squares: a tall film costs half."""
    balance: float = Field(0.0, ge=0, le=1)
    """Films with vertebrae that fewer than this share of all films show are drawn more often; 0 draws all alike."""
    augmentation: Augmentation = Augmentation()
    training: Training = Training()

    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the training films, by patient and near-duplicate, that is looked at after each epoch in place of the
    data set's validation films, which are then untouched until the end; 0 looks at the latter."""
    phantoms: PositiveInt = 32
    """How many phantoms to make where no data folder is given."""


# The issue's: YOLO11n-seg at 640, batches of 16, 250 epochs, ultralytics' defaults (AdamW or SGD as it chooses,
# mosaic), and the flips and quarter turns that its data sets were multiplied with.
_REFERENCE: dict[str, Any] = {"training": {"epochs": 250}}

# Without what breaks anatomical order: neither turns nor mosaic (four spines in a picture are in no order). Spines are
# tilted by some degrees at most. Films with rare levels come more often (Gupta et al., LVIS, CVPR 2019, section 4).
_BEST = layered(
    _REFERENCE,
    {
        "rectangular": True,
        "balance": 0.5,
        "augmentation": {"degrees": 7.0, "scale": 0.3, "mosaic": 0.0, "mosaic_off_epochs": 0},
        "training": {
            "batch": 16, "nominal_batch": 16, "optimiser": "adamw", "learning_rate": 2e-3, "schedule": "cosine",
            "precision": "bf16-mixed",
        },
    },
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop, from phantoms to a checkpoint: proves the path, not the accuracy.
    "smoke": layered(
        _BEST,
        {
            "size_px": 320,
            "validation_fraction": 0.2,
            "training": {"epochs": 8, "batch": 4, "nominal_batch": 4, "warmup_epochs": 0.5, "precision": "32-true"},
        },
    ),
    # For a CUDA box.
    "best": _BEST,
    # The shipped model, for two CPU cores (recipes/spine_train.sh).
    "lite": layered(
        _BEST,
        {
            "validation_fraction": 0.12,
            "training": {"epochs": 60, "batch": 8, "nominal_batch": 8, "ema": 0.995, "early_stop_epochs": None},
        },
    ),
    # The reference project's recipe, number for number. Its flips and quarter turns change which name is right and are
    # exempt from law 12, which says that no such thing happens in training.
    "reference": layered(
        _REFERENCE,
        {"augmentation": {"mirror": 0.5, "upside_down": 0.5, "quarter_turns": 0.75}},
    ),
}  # fmt: skip
