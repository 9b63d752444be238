"""The gate's networks: SegNet (Badrinarayanan et al., IEEE TPAMI 39(12), 2017) and a U-Net to compare it with.

Both take grey pictures ``n 1 y x`` in 0..1 and give a logit for bone at each pixel, ``n 1 y x``; sides must be
multiples of `STRIDE`. What they do to grey values first lies inside them, and so in the exported graph.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGES = 4
STRIDE = 2**STAGES

# Mean and deviation of grey over 326 radiographs of arms, hands and legs, as read_radiograph gives them.
GREY_MEAN, GREY_DEVIATION = 0.28, 0.28

LEEWAY = 1e-5
"""Of features after normalisation, whose spread is about 1; ten times what engines differ by. On 14 pictures the mean
difference between torch and the engines falls from 1e-5 to 7e-7, the largest from 0.04 to 0.005."""


class SegNet(nn.Module):
    """Encoder of VGG's kind with batch normalisation, and its mirror image, which puts values back where they were.

    Each of four stages has two convolutions and a pooling that remembers where each maximum stood; going up, values
    return to just there (``MaxUnpool2d``), so that edges stay sharp without copying whole feature maps across.
    Weights begin as He's, which suits ReLU.
    """

    def __init__(self, width: int = 64) -> None:
        """Make a network whose first stage has ``width`` channels; the later ones have 2, 4 and 8 times as many."""
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES)]
        self.encoder = nn.ModuleList([_two(1, width, width)] + [_two(after // 2, after, after) for after in widths[1:]])
        self.bottom = _two(widths[-1], widths[-1], widths[-1])
        self.decoder = nn.ModuleList(
            [_two(2 * after, 2 * after, after) for after in widths[-2::-1]] + [_convolution(width, width)]
        )
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        self.pool: nn.Module = nn.MaxPool2d(2, return_indices=True)
        self.unpool: nn.Module = nn.MaxUnpool2d(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Turn grey values in 0..1 into logits of bone, ``n 1 y x`` both."""
        features = (image - GREY_MEAN) / GREY_DEVIATION
        places = []
        for stage in self.encoder:
            features, where = self.pool(stage(features))
            places.append(where)
        features = self.bottom(features)
        for stage, where in zip(self.decoder, reversed(places), strict=True):
            features = stage(self.unpool(features, where))
        return cast(Tensor, self.head(features))


class UNet(nn.Module):
    """segmentation-models-pytorch's U-Net with a ResNet-18 as encoder, on grey pictures."""

    def __init__(self, encoder_weights: str | None = None) -> None:
        """Make the network; ``encoder_weights`` are None or ``imagenet``, which is downloaded."""
        super().__init__()
        from segmentation_models_pytorch import Unet

        self.network = Unet(
            "resnet18", STAGES, encoder_weights, decoder_channels=(128, 64, 32, 16), in_channels=1, classes=1
        )

    def forward(self, image: Tensor) -> Tensor:
        """Turn grey values in 0..1 into logits of bone, ``n 1 y x`` both."""
        return cast(Tensor, self.network((image - GREY_MEAN) / GREY_DEVIATION))


class ShippedGate(nn.Module):
    """A gate's network in the form that is exported: probabilities out, and no indices inside.

    The indices of ``MaxPool2d`` and their scattering by ``MaxUnpool2d`` export as MaxPool and ScatterND, and the
    engines agree with torch on them; but OpenVINO scatters on one thread, element by element. Said with comparisons
    instead, a network of width 16 takes 11 ms there and not 180, to the same values (2 cores, 224 x 224).
    """

    def __init__(self, network: nn.Module) -> None:
        """Take a copy of a network of this file."""
        super().__init__()
        self.network = copy.deepcopy(network)
        if isinstance(self.network, SegNet):
            self.network.pool, self.network.unpool = ComparingPool(), ComparingUnpool()

    def forward(self, image: Tensor) -> Tensor:
        """Turn grey values in 0..1 into the probability of bone, ``n 1 y x`` both."""
        return torch.sigmoid(self.network(image))


def exported(network: nn.Module) -> ShippedGate:
    """Return a gate's network in the form that is exported, ready for prediction."""
    return ShippedGate(network).eval()


class ComparingPool(nn.Module):
    """``MaxPool2d(2, return_indices=True)`` without indices: a flag for each of a square's first three corners.

    Of equal corners the first counts, row by row, as in torch: after a ReLU whole squares are zero. Corners that are
    equal but for ``LEEWAY`` count as equal: engines round each in its own way, and on an even ground, such as the black
    about a limb, another corner would then be the largest in each.
    """

    def forward(self, features: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Pool ``n c y x``; the flags have the size of the result."""
        largest = functional.max_pool2d(features, 2)
        enough = largest - LEEWAY
        first = features[..., ::2, ::2] >= enough
        second = (features[..., ::2, 1::2] >= enough) & ~first
        third = (features[..., 1::2, ::2] >= enough) & ~first & ~second
        return largest, (first, second, third)


class ComparingUnpool(nn.Module):
    """``MaxUnpool2d(2)`` for the flags of `ComparingPool`."""

    def forward(self, values: Tensor, flags: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Put ``n c y x`` where the maxima stood, zero elsewhere: twice as high, twice as wide."""
        batch, channels, height, width = values.shape
        first, second, third = (torch.where(flag, values, 0.0) for flag in flags)
        fourth = values - first - second - third  # all but one are zero
        upper = torch.stack([first, second], -1).reshape(batch, channels, height, 2 * width)
        lower = torch.stack([third, fourth], -1).reshape(batch, channels, height, 2 * width)
        return torch.stack([upper, lower], 3).reshape(batch, channels, 2 * height, 2 * width)


def _two(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(before, between), *_convolution(between, after))


def _convolution(before: int, after: int) -> nn.Sequential:
    """A 3 x 3 convolution, normalised and cut off below zero."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
