"""The network: ultralytics' YOLO11-seg, with one class for each level of the spine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import SetupError
from spine.config import LEVELS, Config
from spine.offline import offline_ultralytics

EPSILON = 1e-3
"""What ultralytics adds to the variance in a normalisation (initialize_weights)."""


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
    """Read weights from a run's ``.ckpt``, a ``.safetensors`` file or a float32 ``.onnx`` model; no code in them runs.

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
        if path.suffix == ".onnx":
            return _unfolded(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["model"])
    except SetupError:
        raise
    except Exception as error:  # torch and safetensors raise what zip and pickle raise
        raise SetupError(
            f"{path}: holds no plain weights ({type(error).__name__}); give a run's best.ckpt, a .safetensors "
            "file or a float32 .onnx model (docs/how-to/spine-train.md says how to make one of a .pt that you trust)"
        ) from error


def _unfolded(path: Path) -> dict[str, torch.Tensor]:
    """Return an exported model's weights by the network's own names.

    Export folds normalisations into the convolutions before them. Here each takes up the bias and does nothing else:
    what it scaled and moved by is in no file, and `settle` finds it anew.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        raise SetupError(f"{path}: is quantised, too coarse to be trained on; give its float32 twin")
    held = {one.name.removeprefix("network."): numpy_helper.to_array(one) for one in graph.initializer}
    weights = {name: torch.from_numpy(value.copy()) for name, value in held.items() if name.startswith("model.")}
    for name in [name for name in weights if name.endswith(".conv.bias")]:
        bias, normalisation = weights.pop(name), name.removesuffix("conv.bias") + "bn."
        weights |= {
            normalisation + "weight": torch.ones_like(bias), normalisation + "bias": bias,
            normalisation + "running_mean": torch.zeros_like(bias),
            normalisation + "running_var": torch.full_like(bias, 1 - EPSILON),
        }  # fmt: skip
    return weights


def settled(model: nn.Module) -> bool:
    """Say whether the network's normalisations know the mean of what reaches them."""
    return any(bool(layer.running_mean.any()) for layer in _normalisations(model))


def settle(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give normalisations the mean and variance of what reaches them; evaluated, the network computes what it did.

    In training each batch is normalised by its own mean and variance, so that a network whose normalisations were
    folded away would compute something else. ``batches``: a few, ``(n, 3, y, x)`` in 0..1, as they come in training.
    """
    heard = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in _normalisations(model)}

    def hear(layer: nn.Module, given: tuple[torch.Tensor]) -> None:
        count = given[0].numel() / given[0].shape[1]
        variance, mean = (x.double().cpu() for x in torch.var_mean(given[0].float(), (0, 2, 3), correction=0))
        heard[layer] += count * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])

    hooks = [layer.register_forward_pre_hook(hear) for layer in heard]
    mode = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
        for layer, (count, total, squares) in heard.items():
            mean = total / count
            variance = (squares / count - mean.square()).clamp_min(0)
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            layer.bias += scale * (mean.to(scale) - layer.running_mean)
            layer.weight.copy_(scale * (variance + layer.eps).sqrt().to(scale))
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
    for hook in hooks:
        hook.remove()
    model.train(mode)


def _normalisations(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


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
