"""What is a detector's own in training: its samples, its loss, AP50 after each epoch, pictures of what it finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bones.cases import Case
from bones.config import Config
from bones.data import Fractures, Masks, Prepared
from bones.preprocess import boxes_to_square, fit
from bones.train_pictures import draw_boxes
from shared.metrics.detection import Compared, average_precision, match
from shared.training_devices import gathered
from shared.types import Detections, PictureArray

EXAMPLES = 8


class DetectorTraining:
    """The parts of ``bones.train`` that differ between detector and gate."""

    metric = "ap50"
    needs = "picture with boxes"

    def __init__(self, config: Config, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.masks: Masks = "instances" if config.detector.kind == "maskrcnn" else "none"

    def is_usable(self, case: Case) -> bool:
        """Say whether a case has boxes (none is a finding), and outlines where the network learns them."""
        outlined = case.outlines is not None and None not in case.outlines
        return case.boxes is not None and (self.masks == "none" or outlined or not case.labels)

    def samples(self, training: Prepared) -> Fractures:
        """Return the data set to train on."""
        return Fractures(training, self.config)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return a batch's loss, which detectors compute themselves."""
        loss: Tensor = model(batch["image"], batch["targets"])
        return loss

    def blocks(self, model: nn.Module) -> Iterable[nn.Module]:
        """Return what may compute its activations again: the parts of SSD's trunk."""
        ssd: Any = getattr(model, "ssd", None)
        return [] if ssd is None else [ssd.backbone.features, *ssd.backbone.extra]

    def validate(self, model: nn.Module, held_out: Prepared, rank: int, world: int) -> dict[str, list[float]]:
        """Return AP50 over the held-out pictures of all processes, the same in each of them."""
        compared = detect(model, held_out.part(rank, world), self.config)
        everyone = [picture for part in gathered(self.fabric, compared) for picture in part]
        return {self.metric: [average_precision(match(everyone))]}

    def show(self, model: nn.Module, held_out: Prepared, path: Path) -> None:
        """Draw found and true boxes on some held-out pictures, those with a box first."""
        order = sorted(range(len(held_out.cases)), key=lambda k: (not held_out.cases[k].labels, held_out.cases[k].name))
        shown = held_out.take(order[:EXAMPLES])
        pictures = [square(file, self.config.detector.size_px) for file in shown.files]
        draw_boxes([case.name for case in shown.cases], pictures, detect(model, shown, self.config), path)


def square(file: Path, size_px: int) -> PictureArray:
    """Return a cached picture as prediction shows it to a network."""
    return fit(np.load(file).astype(np.float32) / 255, size_px)


def detect(model: nn.Module, held_out: Prepared, config: Config) -> list[Compared]:
    """Return what a detector finds on cached pictures beside the true boxes, in pixels of the network's square.

    IoU is the same there as on the pictures themselves.
    """
    side, batch = config.detector.size_px, config.training.micro_batch or config.training.batch
    device = next(model.parameters()).device
    compared: list[Compared] = []
    for start in range(0, len(held_out.cases), batch):
        some = held_out.take(range(start, min(start + batch, len(held_out.cases))))
        image = torch.from_numpy(np.stack([square(file, side) for file in some.files])[:, None]).to(device)
        found = model.detect(image)  # type: ignore[operator]
        compared += [_compared(*pair, config) for pair in zip(some.cases, found, strict=True)]
    return compared


def _compared(case: Case, found: dict[str, Tensor], config: Config) -> Compared:
    side, names = config.detector.size_px, dict(enumerate(config.detector.labels, 1))
    boxes, scores = (found[name].float().cpu().numpy() for name in ("boxes", "scores"))
    detections = Detections(boxes, scores, found["labels"].cpu().numpy(), names, side, side)
    numbers = {label: number for number, label in names.items()}
    labels: Sequence[int] = [numbers[label] for label in case.labels]
    none = np.zeros((0, 4), np.float32)
    true = boxes_to_square(none if case.boxes is None else case.boxes, side, case.width_px, case.height_px)
    return Compared(detections, true, np.array(labels, np.int64))
