"""The coronary task's settings: one frozen model, and presets that are small diffs over it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from shared.config import Config as FrozenConfig
from shared.config import layered
from shared.training_settings import TrainingSettings

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


class Loss(FrozenConfig):
    """Weights of the loss's terms, and how Dice is averaged."""

    dice: NonNegativeFloat = 1.0
    cross_entropy: NonNegativeFloat = 0.0
    cl_dice: NonNegativeFloat = 0.0
    """Soft clDice (Shit et al., CVPR 2021)."""
    skeleton_recall: NonNegativeFloat = 0.0
    """Soft recall of the label's tubed skeleton (Kirchhoff et al., ECCV 2024)."""
    dice_of_background: bool = True
    """Average Dice over both channels, as MONAI's DiceLoss does by default; else over the lumen alone."""
    dice_over_batch: bool = False
    """One Dice for all samples on a device at once rather than the mean of one for each."""
    soft_targets: bool = False
    """Learn each voxel's share of lumen; else, as the reference, whether it is at least half."""

    @model_validator(mode="after")
    def _not_nothing(self) -> Loss:
        if not (self.dice or self.cross_entropy or self.cl_dice or self.skeleton_recall):
            raise ValueError("every term's weight is zero; give one")
        return self


class Sampling(FrozenConfig):
    """Where patches are cut, and what is done to them."""

    patch: Triple = (96, 96, 96)
    patches_per_case: PositiveInt = 4
    """Patches cut from a case in turn, before the next case."""
    positive_fraction: float = Field(0.5, ge=0, le=1)
    """Share of patches centred on a lumen voxel; the others are centred on background."""
    distal_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the positive patches centred on thin vessels, with a radius below 0.8 mm."""
    jitter_mm: NonNegativeFloat = 0.0
    """How far the centre of a positive patch may be moved along each axis."""
    augment: Literal["none", "reference", "scanner"] = "none"
    """reference: the reference project's seven, mirrors included. scanner: small rotations and scalings, and what
    differs between scanners; never a mirror."""


class Config(FrozenConfig):
    """One coronary training run, whole."""

    features: tuple[int, int, int, int, int, int] = (32, 64, 128, 256, 512, 32)
    """BasicUNet's channels per level, the last one for the final up-sampling."""
    dropout: float = Field(0.1, ge=0, lt=1)
    preprocessing: Preprocessing = Preprocessing()
    inference: Inference = Inference()
    sampling: Sampling = Sampling()
    loss: Loss = Loss()
    training: TrainingSettings = TrainingSettings()

    validation_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the cases held out where no split file is given."""
    validation_cases: PositiveInt | None = None
    """How many of the held-out cases are looked at after each epoch; whole scans take their time. None is all."""
    phantoms: PositiveInt = 8
    """How many phantoms to make where no data folder is given."""


# What the field has learned since, each choice with its source. The network is the reference's, so that scores compare.
_BEST: dict[str, Any] = {
    "dropout": 0.0,  # nnU-Net (Isensee et al., Nature Methods 2021) has none either
    "preprocessing": {
        # How much of the truth a grid can hold at all is in docs/reference/results.md (benchmarks/coronary_spacing.py).
        "spacing_mm": (0.7, 0.7, 0.7),
        # Physical and the same for every scan: opacified blood stays below 800 HU, fat and lung differ above -200 HU.
        # A z-score moves with the field of view and how much air is in it.
        "normalisation": HuWindow(),
    },
    # Dice and cross entropy: nnU-Net; the centreline's recall: Kirchhoff et al., ECCV 2024, at a quarter of its weight,
    # for at weight 1 vessels came out too wide (docs/reference/results.md).
    # Shares of lumen keep what a voxel's majority drops: vessels thinner than a voxel.
    "loss": {
        "cross_entropy": 1.0, "skeleton_recall": 0.25,
        "dice_of_background": False, "dice_over_batch": True, "soft_targets": True,
    },
    # More lumen than nnU-Net's third (a tree fills some 0.1 % of a scan), and a share of it for the thin distal
    # branches, which uniform draws from lumen voxels hardly meet: there volume goes with the radius squared.
    # Scanner augmentation after nnU-Net's, without mirrors: the label has no side, but the anatomy that tells an artery
    # from a vein has one.
    "sampling": {
        "patches_per_case": 1, "positive_fraction": 0.6, "distal_fraction": 0.3, "jitter_mm": 5.6, "augment": "scanner",
    },
    # AdamW (Loshchilov & Hutter, ICLR 2019) under a cosine (the same, ICLR 2017) after a warm-up (Goyal et al., 2017);
    # moving average of the weights (Morales-Brotons et al., TMLR 2024); clipping as nnU-Net's.
    "training": {
        "epochs": 100, "steps_per_epoch": 500, "batch": 4,
        "optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "warmup_steps": 1000,
        "ema": 0.999, "clip_norm": 12.0, "precision": "bf16-mixed", "memory": "auto",
    },
    "validation_cases": 8,
}  # fmt: skip

# The shipped model: `best` at a width, patch and length that two CPU cores can train and a laptop can run.
_LITE = layered(
    _BEST,
    {
        "features": (8, 16, 32, 64, 96, 8),
        "sampling": {"patch": (48, 48, 48)},
        "inference": {"threshold": 0.55},  # 0.4 to 0.7 were tried on phantoms of seed 9200, which nothing else sees
        "training": {
            "epochs": 4, "steps_per_epoch": 1000, "batch": 2, "learning_rate": 3e-3, "warmup_steps": 150, "ema": 0.995,
            "seed": 1,
        },
        "validation_fraction": 0.08,
        "validation_cases": 2,
    },
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop, from nothing to an ONNX file: proves the path, not the accuracy.
    "smoke": layered(
        _LITE,
        {
            "features": (8, 16, 16, 32, 32, 8),
            "preprocessing": {"spacing_mm": (1.0, 1.0, 1.0)},
            "training": {"epochs": 2, "steps_per_epoch": 120, "warmup_steps": 10, "ema": 0.95, "precision": "32-true"},
            "phantoms": 4,
        },
    ),
    # The shipped model (recipes/coronary_lite.sh).
    "lite": _LITE,
    # For a CUDA box.
    "best": _BEST,
    # The reference project's network and baseline: Dice loss, Adam 1e-4, four balanced patches of 96 cubed a scan,
    # 5 epochs, a seeded 80/20 split, z-score, 1 mm.
    "reference-baseline": {},
    # The same with its seven augmentations. Its mirrors are exempt from the rule that training never mirrors.
    "reference": {"sampling": {"augment": "reference"}},
    # Its comparison of the two (coronary/ablation.py trains both); decay is what torch's AdamW has by default.
    "reference-ablation": {"training": {"optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}},
}
