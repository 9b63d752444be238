"""The network: MONAI's 3D BasicUNet (Falk et al., Nature Methods 2019), at the width the config asks for."""

from __future__ import annotations

from monai.networks.nets import BasicUNet
from torch import nn

from coronary.config import Config


def build(config: Config) -> nn.Module:
    """Build the patch network: ``(n, 1, x, y, z)`` normalised intensities in, ``(n, 2, x, y, z)`` logits out.

    Channel 0 is background, channel 1 lumen. Every side must be a multiple of 16 (four poolings).
    """
    return BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=config.features, dropout=config.dropout)
