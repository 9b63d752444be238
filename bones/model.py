"""The networks: whatever the config names, untrained. All take grey pictures ``n 1 y x`` in 0..1."""

from __future__ import annotations

from torch import nn

from bones.config import Config


def build(config: Config) -> nn.Module:
    """Build the gate or the detector; normalisation and the step from grey to three channels lie inside.

    A gate gives logits of bone, ``n 1 y x``. A detector called with ``targets`` gives its loss, and has
    ``detect(image)`` for boxes; what it gives without targets is what its ONNX file gives (see its own file).
    """
    if config.network == "gate":
        from bones.segnet import SegNet, UNet

        return SegNet(config.gate.width) if config.gate.kind == "segnet" else UNet()
    detector = config.detector
    if detector.kind == "ssd300_vgg16":
        from bones.ssd import SingleShotDetector

        return SingleShotDetector(detector)
    if detector.kind == "maskrcnn":
        from bones.maskrcnn import InstanceDetector

        return InstanceDetector(detector)
    from bones.yolo import YoloDetector

    yolo: nn.Module = YoloDetector(detector)
    return yolo
