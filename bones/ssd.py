"""SSD300-VGG16 (Liu et al., ECCV 2016; torchvision's) for grey pictures of any size: network, anchors and losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_convert, box_iou

from bones.config import Detector

Target = dict[str, Tensor]
Detected = dict[str, Tensor]

# VGG's training subtracted the mean colour and left 0..255 as it was; so does torchvision's ssd300_vgg16.
MEAN = (0.48235, 0.45882, 0.40784)
STD = (1 / 255, 1 / 255, 1 / 255)

# The shapes at each of the six feature maps: scale_k and sqrt(scale_k * scale_k+1) as squares, scale_k with each
# aspect ratio and its inverse. Scales are shares of the picture's side.
ASPECT_RATIOS = {
    "torchvision": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    # The finest map takes half of the fractures, and a quarter of these are narrower than 1:2.
    "small": ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
}
SCALES = {
    "torchvision": (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    # Fitted to 417 boxes of bone X-rays (Roboflow-100 bone-fracture, training part): half of them have a side below
    # 0.071 of the picture, the smallest that torchvision's shapes know. At 640 px 90 % of the boxes then have an anchor
    # of IoU 0.5 or more, not 70 %, at a mean best IoU of 0.65, not 0.58.
    "small": (0.045, 0.09, 0.18, 0.34, 0.5, 0.7, 0.9),
}
STEPS_AT_300 = (8, 16, 32, 64, 100, 300)  # as the paper's, though 300 / 38 is no 8; they fit no other size
STAGES = 5

# Focal loss (Lin et al., ICCV 2017): the weight of positives, the focus, and what a new head thinks of every anchor.
ALPHA, GAMMA, PRIOR = 0.25, 2.0, 0.01


class SingleShotDetector(nn.Module):
    """Boxes of fractures from a grey picture; the three channels and VGG's normalisation lie inside.

    ``ssd`` is torchvision's own module: its parts, matching, decoding and non-maximum suppression are used as they are.
    """

    def __init__(self, detector: Detector) -> None:
        """Build it untrained; the trunk's first ``frozen_stages`` stages get no gradient."""
        super().__init__()
        self.size_px, self.loss = detector.size_px, detector.loss
        layers = make_layers(cfgs["D"], batch_norm=False)
        _he_normal(layers)
        _freeze(layers, detector.frozen_stages)
        self.ssd = SSD(
            SSDFeatureExtractorVGG(layers, highres=False),
            default_boxes(detector),
            (detector.size_px, detector.size_px),
            num_classes=1 + len(detector.labels),
            image_mean=list(MEAN),
            image_std=list(STD),
        )
        if detector.loss == "focal":
            expect_background(self.ssd)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs

    def forward(
        self, image: Float[Tensor, "n 1 y x"], targets: Sequence[Target] | None = None
    ) -> Any:  # a loss, or logits and deltas
        """Return logits ``n anchor class`` (0 is background) and deltas ``n anchor 4``; with ``targets`` the loss.

        Args:
            image: grey in 0..1, as ``bones.preprocess.fit`` gives it; a window of such a picture may be smaller.
            targets: ``boxes`` xyxy in pixels of ``image`` and ``labels`` from 1, for each picture.
        """
        logits, deltas, anchors = self._heads(image)
        if targets is None:
            return logits, deltas
        matched = [self._match(target["boxes"], anchors) for target in targets]
        if self.loss == "focal":
            return focal_loss(logits, deltas, anchors, targets, matched, self.ssd.box_coder)
        heads = {"cls_logits": logits, "bbox_regression": deltas}
        parts = self.ssd.compute_loss(list(targets), heads, [anchors] * len(targets), matched)
        return parts["classification"] + parts["bbox_regression"]

    @torch.no_grad()
    def detect(self, image: Float[Tensor, "n 1 y x"]) -> list[Detected]:
        """Return ``boxes`` (xyxy, pixels of ``image``), ``scores`` and ``labels`` (from 1) of each picture."""
        logits, deltas, anchors = self._heads(image)
        heads = {"cls_logits": logits, "bbox_regression": deltas}
        size = (int(image.shape[-2]), int(image.shape[-1]))
        found: list[Detected] = self.ssd.postprocess_detections(heads, [anchors] * len(image), [size] * len(image))
        return found

    def anchors(self, image: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "anchor 4"]:
        """Return the default boxes, xyxy in pixels of ``image``, in the order of logits and deltas."""
        return self._heads(image)[2]

    def _heads(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = list(self.ssd.backbone(pixels).values())
        heads = self.ssd.head(features)
        anchors = self._anchors(image, features)
        return heads["cls_logits"].float(), heads["bbox_regression"].float(), anchors

    def _anchors(self, image: Tensor, features: list[Tensor]) -> Tensor:
        """Lay anchors over a picture; on a window of one they are as large as on the whole picture."""
        side = int(image.shape[-1])
        boxes: Tensor = self.ssd.anchor_generator(ImageList(image, [(side, side)]), features)[0].float()
        if side == self.size_px:
            return boxes
        centred = box_convert(boxes, "xyxy", "cxcywh")
        grown = centred * centred.new_tensor([1, 1, *[self.size_px / side] * 2])
        laid: Tensor = box_convert(grown, "cxcywh", "xyxy")
        return laid

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Give each anchor its box's index, or -1."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        matched: Tensor = self.ssd.proposal_matcher(box_iou(boxes, anchors))
        return matched


def default_boxes(detector: Detector) -> DefaultBoxGenerator:
    """Return torchvision's generator of anchors; but at 300 px with its own shapes, they lie evenly over each map."""
    ratios = [list(ratio) for ratio in ASPECT_RATIOS[detector.anchors]]
    steps = list(STEPS_AT_300) if detector.size_px == 300 and detector.anchors == "torchvision" else None
    return DefaultBoxGenerator(ratios, scales=list(SCALES[detector.anchors]), steps=steps)


def anchor_metadata(model: SingleShotDetector) -> dict[str, Any]:
    """Return what it takes to lay the anchors again without torch, for the model file (``bones.decode.Anchors``)."""
    generator, size = model.ssd.anchor_generator, model.size_px
    shapes_alone = copy.deepcopy(model.ssd.backbone).to("meta")  # computes nothing
    maps = shapes_alone(torch.zeros(1, 3, size, size, device="meta")).values()
    return {
        "grids": [[int(side) for side in features.shape[-2:]] for features in maps],
        "aspect_ratios": [list(ratios) for ratios in generator.aspect_ratios],
        "scales": list(generator.scales),
        "steps_px": generator.steps,
    }


def focal_loss(
    logits: Float[Tensor, "n anchor label"],
    deltas: Float[Tensor, "n anchor 4"],
    anchors: Float[Tensor, "anchor 4"],
    targets: Sequence[Target],
    matched: Sequence[Tensor],
    coder: Any,
) -> Tensor:
    """Return focal loss of every anchor's label plus smooth L1 of the matched deltas, over the number of matches.

    Lin et al., ICCV 2017, with softmax in place of sigmoid, so that scores are read as those of SSD. Unlike hard
    negative mining it learns from pictures that have no box as well.
    """
    labels, wanted, found = [], [], []
    for target, match, delta in zip(targets, matched, deltas, strict=True):
        positive = match >= 0
        label = torch.zeros_like(match)
        label[positive] = target["labels"][match[positive]]
        labels.append(label)
        wanted.append(coder.encode_single(target["boxes"][match[positive]], anchors[positive]))
        found.append(delta[positive])
    label = torch.stack(labels)
    count = (label > 0).sum().clamp(min=1)
    surprise = functional.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
    weight = torch.where(label.flatten() > 0, ALPHA, 1 - ALPHA)
    classification = (weight * (1 - torch.exp(-surprise)) ** GAMMA * surprise).sum()
    regression = functional.smooth_l1_loss(torch.cat(found), torch.cat(wanted), reduction="sum")
    return (classification + regression) / count


def _he_normal(layers: nn.Module) -> None:
    """Start convolutions as torchvision's VGG does (He et al., ICCV 2015)."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _freeze(layers: nn.Sequential, stages: int) -> None:
    """Let the first stages, each of which ends with a pooling, have no gradient."""
    stage = 0
    for layer in layers:
        for parameter in layer.parameters():
            parameter.requires_grad_(stage >= stages)
        stage += isinstance(layer, nn.MaxPool2d)


def expect_background(ssd: SSD) -> None:
    """Let a new head call every anchor background, all but the prior: focal loss diverges at first without."""
    classes = ssd.head.classification_head.num_columns
    for layer in ssd.head.classification_head.module_list:
        with torch.no_grad():
            bias = layer.bias.view(-1, classes)
            bias.zero_()
            bias[:, 0] = math.log((1 - PRIOR) / PRIOR * (classes - 1))
