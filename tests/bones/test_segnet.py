"""The gate's networks, and the form in which SegNet is exported (law 3)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bones.segnet import ComparingPool, ComparingUnpool, SegNet, UNet, exported
from shared.export import export_onnx
from shared.runtime import Session


def lively(network: nn.Module) -> nn.Module:
    """Give a network normalisations as after training, so that no stage is all zero."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Grey pictures in 0..1, with black about them, as radiographs have: there all values of a square are equal."""
    rng = np.random.default_rng(0)
    found = [rng.random((1, 1, *size), np.float32) for size in sizes]
    for picture in found:
        picture[..., :20] = 0
    return found


@pytest.mark.parametrize("network", [SegNet(4), SegNet(6), UNet()], ids=["segnet", "wider", "unet"])
def test_a_logit_for_each_pixel(network: nn.Module) -> None:
    image = torch.from_numpy(pictures((32, 48))[0]).repeat(2, 1, 1, 1)
    assert network.eval()(image).shape == image.shape
    assert network(image).requires_grad


def test_segnet_has_the_channels_that_its_width_says() -> None:
    network = SegNet(6)
    assert [stage[-2].num_features for stage in network.encoder] == [6, 12, 24, 48]  # type: ignore[index, union-attr]


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 0.0, 1.0, 2.0], None], ids=["ties", "zeros", "all differ"])
def test_pooling_by_comparison_is_torchs(values: list[float] | None) -> None:
    rng = np.random.default_rng(2)
    drawn = rng.random((2, 3, 8, 12)) if values is None else rng.choice(values, (2, 3, 8, 12))
    features = torch.from_numpy(drawn.astype(np.float32))
    wanted, places = nn.MaxPool2d(2, return_indices=True)(features)
    got, flags = ComparingPool()(features)
    assert torch.equal(got, wanted)
    above = torch.rand(wanted.shape)
    assert torch.equal(ComparingUnpool()(above, flags), nn.MaxUnpool2d(2)(above, places))


def test_the_shipped_form_computes_the_same_and_leaves_the_network_alone() -> None:
    network, image = lively(SegNet(4)), torch.from_numpy(pictures((48, 32))[0])
    shipped = exported(network)
    with torch.no_grad():
        assert torch.equal(shipped(image), torch.sigmoid(network(image)))
    assert isinstance(network.unpool, nn.MaxUnpool2d)


class BothForms(nn.Module):
    """SegNet with indices, as it is trained, and with comparisons, as it is shipped, in one graph: one export."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.trained, self.shipped = network, exported(network)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sigmoid(self.trained(image)), self.shipped(image)


def test_segnet_exports_and_both_engines_agree_with_torch(tmp_path: Path) -> None:
    network = BothForms(lively(SegNet(2)))
    out = tmp_path / "gate.onnx"
    samples = pictures((32, 32), (48, 32))
    outputs = ("indices", "comparing")
    parity = export_onnx(network, samples, out, {"task": "bones"}, tolerance=1e-5, outputs=outputs)
    assert set(parity) == {"onnxruntime", "openvino"}
    results = Session(out, "cpu", "openvino").outputs(samples[1])
    with torch.no_grad():
        wanted = network(torch.from_numpy(samples[1]))
    for result, one in zip(results, wanted, strict=True):
        assert np.abs(result - one.numpy()).max() < 1e-4
