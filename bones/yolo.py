# SPDX-License-Identifier: AGPL-3.0-or-later
"""YOLO (ultralytics, v8 and 11) as a detector to compare with; this file alone is under AGPL-3.0-or-later.

It uses ultralytics' networks, assignment, losses and non-maximum suppression under our own training loop and data, so
that the comparison with SSD is of networks: the same pictures, time and score. Nothing else in ``bones`` imports it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bones.config import Detector
from shared.errors import SetupError

LEAST_SCORE, NMS_IOU, MOST = 0.001, 0.7, 300  # as ultralytics validates (cfg/default.yaml; its validator's conf)


class YoloDetector(nn.Module):
    """Boxes of fractures from a grey picture; ``network`` is ultralytics' own module, without pretrained weights."""

    def __init__(self, detector: Detector) -> None:
        """Build it untrained.

        Raises:
            SetupError: ultralytics has no such network, or is not installed.
        """
        super().__init__()
        try:
            offline_ultralytics()
            from ultralytics.cfg import get_cfg
            from ultralytics.nn.tasks import DetectionModel
        except ImportError as error:
            raise SetupError(f"{error.name} is not installed; install with uv sync --extra yolo") from error
        try:
            network: Any = DetectionModel  # ultralytics has no types
            self.network: Any = network(f"{detector.yolo}.yaml", ch=3, nc=len(detector.labels), verbose=False)
        except FileNotFoundError as error:
            raise SetupError(f"ultralytics has no network {detector.yolo}; name yolo11n, yolo11s or yolov8n") from error
        self.network.args = get_cfg()  # weights of the losses
        self._criterion: Any = None

    def forward(
        self, image: Float[Tensor, "n 1 y x"], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> Any:  # a loss, or predictions
        """Return predictions ``n (4 + label) cell``, boxes as centre and size in pixels; with ``targets`` the loss.

        Args:
            image: grey in 0..1; sides are multiples of 32.
            targets: ``boxes`` xyxy in pixels of ``image`` and ``labels`` from 1, for each picture.
        """
        predictions = self.network(image.expand(-1, 3, -1, -1))
        if targets is None:
            return predictions[0] if isinstance(predictions, tuple | list) else predictions
        if self._criterion is None:
            self._criterion = self.network.init_criterion()
        with torch.autocast(image.device.type, enabled=False):  # ultralytics' assignment mixes precisions else
            parts, _ = self._criterion(_full_precision(predictions), _as_ultralytics(image, targets))
        return parts.sum() / len(image)

    @torch.no_grad()
    def detect(self, image: Float[Tensor, "n 1 y x"]) -> list[dict[str, Tensor]]:
        """Return ``boxes`` (xyxy, pixels of ``image``), ``scores`` and ``labels`` (from 1) of each picture."""
        from ultralytics.utils.nms import non_max_suppression

        each = non_max_suppression(self(image).float(), LEAST_SCORE, NMS_IOU, max_det=MOST)
        limit = image.new_tensor([image.shape[-1], image.shape[-2]] * 2)
        return [
            {"boxes": found[:, :4].clamp(min=0).minimum(limit), "scores": found[:, 4], "labels": found[:, 5].long() + 1}
            for found in each
        ]


def fetch_weights(detector: Detector) -> dict[str, Tensor]:
    """Fetch ultralytics' COCO weights of a network, under the names that ``YoloDetector`` has for them.

    The file is a pickle of ultralytics' own release, read by its own loader; other files are never read so.

    Raises:
        SetupError: it cannot be fetched.
    """
    offline_ultralytics()
    from ultralytics.nn import tasks
    from ultralytics.utils.downloads import attempt_download_asset

    load: Any = tasks.load_checkpoint

    file = Path(torch.hub.get_dir()) / "checkpoints" / f"{detector.yolo}.pt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        model, _ = load(attempt_download_asset(file))
    except Exception as error:  # whatever requests, urllib or curl say
        raise SetupError(
            f"{detector.yolo}.pt cannot be fetched ({type(error).__name__}: {error}); give --init FILE (safetensors, "
            f"or an earlier run), --pretrained none, or put the file into {file.parent}"
        ) from error
    return {f"network.{name}": tensor for name, tensor in model.float().state_dict().items()}


def offline_ultralytics() -> None:
    """Import ultralytics such that it asks nothing of the network and leaves home folder and Pillow alone.

    Raises:
        ImportError: it is not installed.
    """
    os.environ["YOLO_OFFLINE"] = os.environ.get("YOLO_OFFLINE", "true")
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ.setdefault("YOLO_VERBOSE", "false")
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="skiagram-ultralytics-")
    from PIL import Image
    from ultralytics.utils import patches

    # Its own asks for a missing package at each file that is no picture, and hides what is wrong with that.
    Image.open = patches._image_open


def _full_precision(predictions: dict[str, Any]) -> dict[str, Any]:
    """Return what the network says while it trains, boxes and scores and a list of feature maps, as float32."""
    return {
        name: value.float() if isinstance(value, Tensor) else [one.float() for one in value]
        for name, value in predictions.items()
    }


def _as_ultralytics(image: Tensor, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Give a batch's boxes as ultralytics wants them: one list, centre and size as shares of the picture."""
    from torchvision.ops import box_convert

    size = image.new_tensor([image.shape[-1], image.shape[-2]] * 2)
    counts = torch.tensor([len(target["boxes"]) for target in targets], device=image.device)
    boxes = torch.cat([target["boxes"] for target in targets])
    return {
        "img": image,
        "batch_idx": torch.repeat_interleave(torch.arange(len(targets), device=image.device), counts),
        "cls": torch.cat([target["labels"] for target in targets])[:, None] - 1,
        "bboxes": box_convert(boxes, "xyxy", "cxcywh") / size,
    }
