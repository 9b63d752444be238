"""What is done to training pictures after the split; each transform moves picture, boxes and masks together.

Law 12, no mirror that changes which label is right, leaves mirrors free here: a mirrored limb is still a limb, and a
break is none the less one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional, query_size

from bones.config import Config

# Windows are of a scale within this factor, and of an aspect ratio within that one.
SCALE, ASPECT = 1.4, 1.25
MIRRORS = ((False, False), (True, False), (False, True), (True, True))
"""The reference's four: as it is, left to right, upside down, both."""


class Mirror(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Turn over left to right, upside down, or both."""

    def __init__(self, across: bool, down: bool) -> None:
        super().__init__()
        self.across, self.down = across, down

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn over one picture, its boxes or masks."""
        if self.across:
            inpt = functional.horizontal_flip(inpt)
        return functional.vertical_flip(inpt) if self.down else inpt


class Window(v2.Transform):  # type: ignore[misc]
    """Cut a window out of a picture, about as large as ``share`` of each side, and make it ``side_px`` squared.

    With a probability of ``about_box`` a box chosen at random has its centre somewhere in the window; else the window
    lies anywhere. Boxes whose centre is outside are dropped, the others cut, as SSD's crops do (Liu et al., ECCV 2016).
    """

    def __init__(self, share: float, side_px: int, about_box: float) -> None:
        super().__init__()
        self.share, self.side_px, self.about_box = share, side_px, about_box

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window, in pixels of the picture."""
        height, width = query_size(flat_inputs)
        boxes = next(one for one in flat_inputs if isinstance(one, tv_tensors.BoundingBoxes)).as_subclass(torch.Tensor)
        scale = self.share * math.exp(_uniform(-1, 1) * math.log(SCALE))
        aspect = math.exp(_uniform(-1, 1) * math.log(ASPECT) / 2)
        wide = min(max(round(width * scale * aspect), 1), width)
        high = min(max(round(height * scale / aspect), 1), height)
        left, top = _uniform(0, width - wide), _uniform(0, height - high)
        if _uniform(0, 1) < self.about_box and len(boxes):
            x1, y1, x2, y2 = boxes[int(torch.randint(len(boxes), ()))].tolist()
            left = (x1 + x2) / 2 - _uniform(0.1, 0.9) * wide
            top = (y1 + y2) / 2 - _uniform(0.1, 0.9) * high
        left = round(min(max(left, 0), width - wide))
        top = round(min(max(top, 0), height - high))
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        low, size = centres.new_tensor([left, top]), centres.new_tensor([wide, high])
        inside = ((centres > low) & (centres < low + size)).all(1)
        return {"top": top, "left": left, "height": high, "width": wide, "inside": inside}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut one picture, its boxes or masks; boxes outside become empty, and are dropped with what is too small."""
        place = {name: params[name] for name in ("top", "left", "height", "width")}
        out = functional.resized_crop(inpt, **place, size=[self.side_px] * 2, antialias=True)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            out = functional.clamp_bounding_boxes(out)
            out[~params["inside"]] = 0
        return out


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def for_boxes(config: Config) -> v2.Transform:
    """Return what a detector's config asks for, which ends with a square of the network's size.

    ``best`` is torchvision's recipe for SSD (references/detection, presets ``ssd``) but for the colours: contrast and
    brightness, zooming out, crops that keep boxes, mirrors; or windows in place of the two in the middle.
    """
    sampling, side = config.sampling, config.detector.size_px
    fitted = v2.Resize((side, side), antialias=True)
    kept = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=_what_belongs_to_boxes)
    if sampling.augment == "none":
        return v2.Compose([fitted, kept])
    if sampling.augment == "flips":
        return v2.Compose([_any_mirror(), fitted, kept])
    if sampling.window_px is not None:
        cuts = [Window(sampling.window_px / side, sampling.window_px, sampling.small_object_crops)]
    else:
        cuts = [v2.RandomZoomOut(fill=0, side_range=(1.0, 2.0)), v2.RandomIoUCrop(), fitted]
        if share := sampling.small_object_crops:
            cuts = [v2.RandomChoice([Window(0.5, side, about_box=1.0), v2.Compose(cuts)], p=[share, 1 - share])]
    return v2.Compose([*cuts, _light(), _any_mirror(), kept])


def for_masks(config: Config) -> v2.Transform:
    """Return what a gate's config asks for, which ends with a square of the network's size."""
    side = config.gate.size_px
    fitted = v2.Resize((side, side), antialias=True)
    if config.sampling.augment == "none":
        return fitted
    if config.sampling.augment == "flips":
        return v2.Compose([_any_mirror(), fitted])
    cut = v2.RandomResizedCrop((side, side), scale=(0.4, 1.0), ratio=(0.7, 1.4), antialias=True)
    return v2.Compose([v2.RandomRotation(20.0), cut, _light(), _any_mirror()])


def _any_mirror() -> v2.Transform:
    return v2.RandomChoice([Mirror(across, down) for across, down in MIRRORS])


def _light() -> v2.Transform:
    """Change brightness and contrast, as torchvision's SSD recipe does."""
    return v2.RandomPhotometricDistort(hue=(0.0, 0.0), saturation=(1.0, 1.0))


def _what_belongs_to_boxes(sample: Any) -> list[Any]:
    """Return what is dropped along with a box."""
    return [sample[1]["labels"], *([sample[1]["masks"]] if "masks" in sample[1] else [])]
