"""What is the gate's own in training: bone masks, binary cross entropy, IoU after each epoch, pictures of masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bones.cases import Case
from bones.config import Config
from bones.data import BoneMasks, Masks, Prepared, read_masks
from bones.masks import has_bone_mask
from bones.train_detector import square
from bones.train_pictures import draw_masks

EXAMPLES = 8
BONE = 0.5  # a pixel of that probability is bone


class GateTraining:
    """The parts of ``bones.train`` that differ between gate and detector."""

    metric = "iou"
    needs = "picture with a bone mask"
    masks: Masks = "bone"

    def __init__(self, config: Config, fabric: Fabric) -> None:
        self.config = config

    def is_usable(self, case: Case) -> bool:
        """Say whether it is known which pixels are bone."""
        return has_bone_mask(case)

    def samples(self, training: Prepared) -> BoneMasks:
        """Return the data set to train on."""
        return BoneMasks(training, self.config)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return binary cross entropy, as the reference's."""
        return functional.binary_cross_entropy_with_logits(model(batch["image"]).float(), batch["mask"])

    def blocks(self, model: nn.Module) -> Iterable[nn.Module]:
        """Return what may compute its activations again."""
        return model.children()

    def validate(self, model: nn.Module, held_out: Prepared, rank: int, world: int) -> dict[str, list[float]]:
        """Return the IoU of bone on each of this process's share of the pictures."""
        some = held_out.part(rank, world)
        return {self.metric: [_iou(found, true) for _, found, true in self._masks(model, some)]}

    def show(self, model: nn.Module, held_out: Prepared, path: Path) -> None:
        """Draw the outlines of found and true bone on some held-out pictures."""
        shown = held_out.take(range(min(EXAMPLES, len(held_out.cases))))
        draw_masks([case.name for case in shown.cases], list(self._masks(model, shown)), path)

    def _masks(self, model: nn.Module, held_out: Prepared) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each picture as the network sees it, the bone found there, and the true bone."""
        side, device = self.config.gate.size_px, next(model.parameters()).device
        for file, mask in zip(held_out.files, held_out.masks, strict=True):
            picture = square(file, side)
            with torch.no_grad():
                logits = model(torch.tensor(picture)[None, None].to(device)).float()
            true = np.asarray(Image.fromarray(read_masks(mask)[0]).resize((side, side), Image.Resampling.NEAREST)) > 0
            yield picture, torch.sigmoid(logits)[0, 0].cpu().numpy() > BONE, true


def _iou(found: np.ndarray, true: np.ndarray) -> float:
    """Return what two masks share over what they cover; 1 where both are empty."""
    covered = int((found | true).sum())
    return float((found & true).sum() / covered) if covered else 1.0
