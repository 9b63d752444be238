"""The weights a run starts from: an earlier run, a safetensors file, or those that torchvision can fetch.

A file's tensors are taken where name and shape agree, as a detector for other labels has other last layers. No file is
unpickled but by torch's own loader for tensors and plain values.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from bones.config import Config
from shared.errors import SetupError
from shared.training_step import load_checkpoint

log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]
SSD_TAP = 23  # VGG's fourth pooling


def initialise(model: nn.Module, config: Config, init: Path | None = None) -> str:
    """Give a network the weights it starts from, and say in a sentence which.

    Args:
        model: as ``bones.model.build`` makes it.
        config: its ``pretrained`` names weights to fetch where there is no ``init``.
        init: a safetensors file, a checkpoint of an earlier run, or that run's folder.

    Raises:
        SetupError: the file does not do, none of its tensors fits, the weights cannot be fetched, or there are none but
            some of the network is to stay as it is.
    """
    if init is not None:
        return _take(model, read_weights(init), init.name)
    if config.network == "gate" or config.detector.pretrained == "none":
        if config.network == "detector" and config.detector.frozen_stages:
            raise SetupError(
                f"frozen_stages is {config.detector.frozen_stages}, but the weights are untrained and would stay so; "
                "give --init FILE, --pretrained imagenet, or --frozen-stages 0"
            )
        return "untrained weights"
    name = f"{config.detector.kind}, {config.detector.pretrained}"
    return _take(model, _fetch(config), name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file, from a run's checkpoint, or from a run's best one.

    Raises:
        SetupError: it is neither, or damaged.
    """
    if path.is_dir():
        path = path / "best.ckpt"
    if not path.exists():
        raise SetupError(f"{path}: not there; --init takes a safetensors file, a run's folder or its best.ckpt")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return {name: tensor.float() for name, tensor in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            raise SetupError(f"{path}: is no whole safetensors file ({error}); fetch it again") from error
    if path.suffix != ".ckpt":
        raise SetupError(f"{path}: is no safetensors file and no run's .ckpt; convert it to safetensors")
    found = load_checkpoint(path)
    if not isinstance(found.get("model"), dict):
        raise SetupError(f"{path}: holds no network; give the best.ckpt of a run")
    # A run's last.ckpt has the moving average beside the weights of the last step; it is the better start.
    average = found.get("average")
    if not average:
        return dict(found["model"])
    return {name.removeprefix("module."): tensor for name, tensor in average.items() if name.startswith("module.")}


def _take(model: nn.Module, weights: Weights, origin: str) -> str:
    """Copy what fits, under whatever prefix the network has it, and say how much that was."""
    own = model.state_dict()
    there = {name: tensor for name, tensor in _aliases(weights).items() if name in own}
    fitting = {name: tensor for name, tensor in there.items() if tensor.shape == own[name].shape}
    parameters = {name for name, _ in model.named_parameters()}
    if not parameters & set(fitting):
        raise SetupError(
            f"{origin}: none of its {len(weights)} tensors fits this network (its names are such as "
            f"{next(iter(weights), 'none')}, here {next(iter(own))}); give weights of the same network or of its trunk"
        )
    model.load_state_dict(fitting, strict=False)
    taken = sum(own[name].numel() for name in parameters & set(fitting))
    share = taken / sum(own[name].numel() for name in parameters)
    changed = sorted(set(there) - set(fitting))
    said = f"{origin}: {len(fitting)} tensors, {share:.0%} of the weights"
    return said + (f"; {len(changed)} of another shape left out, such as {changed[0]}" if changed else "")


def _aliases(weights: Weights) -> dict[str, Tensor]:
    """Give tensors the names they may have in our networks as well, which wrap those of torchvision.

    VGG's convolutions of block 5 lie behind the tap that feeds SSD's first head: ``features.24`` is there
    ``extra.0.1``, since a pooling comes first.
    """
    named = dict(weights)
    for name, tensor in weights.items():
        named.setdefault(f"ssd.{name}", tensor)
        named.setdefault(f"rcnn.{name}", tensor)
        named.setdefault(f"rcnn.backbone.body.{name}", tensor)
        if name.startswith("features."):
            _, number, rest = name.split(".", 2)
            inside = f"features.{number}" if int(number) < SSD_TAP else f"extra.0.{int(number) - SSD_TAP}"
            named.setdefault(f"ssd.backbone.{inside}.{rest}", tensor)
    return named


def _fetch(config: Config) -> Weights:
    """Fetch weights through torchvision or ultralytics; they are kept in torch's cache."""
    if config.detector.kind == "yolo" and config.detector.pretrained == "coco":
        from bones.yolo import fetch_weights

        return fetch_weights(config.detector)
    from torchvision.models import ResNet50_Weights, VGG16_Weights
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, SSD300_VGG16_Weights

    detector = config.detector
    known = {
        ("ssd300_vgg16", "imagenet"): VGG16_Weights.IMAGENET1K_FEATURES,
        ("ssd300_vgg16", "coco"): SSD300_VGG16_Weights.COCO_V1,
        ("maskrcnn", "imagenet"): ResNet50_Weights.IMAGENET1K_V2,
        ("maskrcnn", "coco"): MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    }
    wanted = known.get((detector.kind, detector.pretrained))
    if wanted is None:
        raise SetupError(f"{detector.kind} has no {detector.pretrained} weights; give --pretrained none or --init FILE")
    try:
        weights: Weights = wanted.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise SetupError(
            f"{wanted.url} cannot be fetched ({error}); give --init FILE (safetensors, or an earlier run), "
            f"--pretrained none, or put the file into {folder}"
        ) from error
    return weights
