"""Mask R-CNN (He et al., ICCV 2017; torchvision's, ResNet-50 with feature pyramid): bones, and implants, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from bones.config import Detector

STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


class InstanceDetector(nn.Module):
    """Boxes and masks of instances; ``rcnn`` is torchvision's module, with its normalisation inside."""

    def __init__(self, detector: Detector) -> None:
        """Build it untrained; the trunk's first ``frozen_stages`` stages get no gradient."""
        super().__init__()
        side = detector.size_px
        self.rcnn = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=1 + len(detector.labels), min_size=side, max_size=side
        )  # fmt: skip
        for stage in STAGES[: detector.frozen_stages]:
            self.rcnn.backbone.body[stage].requires_grad_(False)

    def forward(
        self, image: Float[Tensor, "n 1 y x"], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> Any:  # a loss, or boxes, labels, scores and masks
        """Return boxes, labels (from 1), scores and masks ``n 1 y x`` of the first picture; with ``targets`` the loss.

        Args:
            image: grey in 0..1, ``size_px`` squared.
            targets: ``boxes`` xyxy in pixels of ``image``, ``labels`` from 1 and ``masks`` ``n y x`` of each picture.
        """
        pictures = list(image.expand(-1, 3, -1, -1))
        if targets is None:
            found = self.rcnn(pictures)[0]
            return found["boxes"], found["labels"], found["scores"], found["masks"]
        parts: dict[str, Tensor] = self.rcnn(pictures, list(targets))
        return torch.stack(list(parts.values())).sum()

    @torch.no_grad()
    def detect(self, image: Float[Tensor, "n 1 y x"]) -> list[dict[str, Tensor]]:
        """Return ``boxes`` (xyxy, pixels of ``image``), ``scores``, ``labels`` and ``masks`` of each picture."""
        found: list[dict[str, Tensor]] = self.rcnn(list(image.expand(-1, 3, -1, -1)))
        return found


class ExportedInstances(nn.Module):
    """The network in the form that is exported: masks stay on their grid over the box, as small as they were made."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.rcnn: Any = network.rcnn

    def forward(self, image: Float[Tensor, "1 1 y x"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, labels, scores and masks ``n 1 28 28`` of one picture of ``size_px`` squared."""
        images, _ = self.rcnn.transform(list(image.expand(-1, 3, -1, -1)))
        features = self.rcnn.backbone(images.tensors)
        proposals, _ = self.rcnn.rpn(images, features)
        found = self.rcnn.roi_heads(features, proposals, images.image_sizes)[0][0]
        return found["boxes"], found["labels"], found["scores"], found["masks"]
