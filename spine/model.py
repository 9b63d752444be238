"""The network: ultralytics' YOLO11-seg, with one class for each level of the spine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import SetupError
from spine.config import LEVELS, Config
from spine.offline import offline_ultralytics


def build(config: Config) -> nn.Module:
    """Build the network: ``(n, 3, y, x)`` in 0..1, three equal channels, sides multiples of 32; class k is LEVELS[k].

    In training mode it takes ultralytics' batches and returns losses; in evaluation mode it returns its raw head.
    """
    offline_ultralytics()
    from ultralytics.nn.tasks import SegmentationModel

    make: Any = SegmentationModel
    model: nn.Module = make(f"{config.network}.yaml", ch=3, nc=len(LEVELS), verbose=False)
    model.names = dict(enumerate(LEVELS))  # type: ignore[assignment]
    return model


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a network's weights from a run's ``.ckpt`` or a ``.safetensors`` file; no code in either can run.

    Raises:
        SetupError: the file is not there or not of that kind. ultralytics' ``.pt`` files are pickles, which can run
            anything when they are opened, so they are turned into safetensors first, by someone who trusts them.
    """
    if not path.is_file():
        raise SetupError(f"{path}: no such file of weights; check the name")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["model"])
    except Exception as error:  # torch and safetensors raise what zip and pickle raise
        raise SetupError(
            f"{path}: holds no plain weights ({type(error).__name__}); give a run's best.ckpt or a .safetensors file "
            "(docs/how-to/spine-train.md says how to make one of a .pt that you trust)"
        ) from error


def load_matching(model: nn.Module, weights: dict[str, torch.Tensor]) -> int:
    """Load those weights whose name and shape are the model's, and return how many; the others stay as they are.

    Raises:
        SetupError: none fits.
    """
    own = model.state_dict()
    fitting = {name: value.float() for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise SetupError(
            "none of these weights fits this network; give weights of the same family, such as yolo11n-seg"
        )
    model.load_state_dict(fitting, strict=False)
    return len(fitting)
