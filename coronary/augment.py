"""Random changes to a training patch: at most one resampling for all that moves voxels, then intensities.

A ``Warp`` says where in the scan each voxel of the patch looks, so rotations, scalings and shifts are multiplied into
one matrix and the scan's own surroundings fill the corners. The transforms and their ranges are written as MONAI has
them, and tests hold each to MONAI's; all random numbers come from the generator that is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from scipy import ndimage
from scipy.special import erf

from shared.types import VolumeArray

Kind = Literal["none", "reference", "scanner"]
Triple = Float64[np.ndarray, "3"]


@dataclass(frozen=True, slots=True)
class Warp:
    """Voxel ``o`` of a patch, counted from its centre, shows the scan at ``matrix @ o + shift`` from there."""

    matrix: Float64[np.ndarray, "3 3"]
    shift: Triple

    @property
    def is_flip(self) -> bool:
        """Whether voxels fall on voxels: nothing but mirrored axes, or nothing at all."""
        return bool(np.array_equal(np.abs(self.matrix), np.eye(3)) and not self.shift.any())

    def then(self, matrix: Float64[np.ndarray, "3 3"], shift: Triple | None = None) -> Warp:
        """Do another transform after this one."""
        moved = self.shift if shift is None else self.matrix @ shift + self.shift
        return Warp(self.matrix @ matrix, moved)

    def reach(self, size: tuple[int, int, int]) -> Triple:
        """How far from its centre, in voxels along each axis, a patch of ``size`` looks, the shift left aside."""
        reach: Triple = np.abs(self.matrix) @ ((np.array(size) - 1) / 2)
        return reach

    def to_patch(self, offsets: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Where points of the scan, counted from the patch's centre, are seen in the patch, counted from there too."""
        seen: Float64[np.ndarray, "n 3"] = np.linalg.solve(self.matrix, (offsets - self.shift).T).T
        return seen


STILL = Warp(np.eye(3), np.zeros(3))


def draw_warp(kind: Kind, rng: np.random.Generator) -> Warp:
    """Draw a patch's spatial transforms.

    reference: MONAI's RandRotate (up to 30 degrees about each axis), RandFlip (each axis), RandZoom (0.9 to 1.1) and
    RandAffine, each with a probability of 0.3, in this order. Its mirrors swap left and right, which law 12 allows in
    this recipe alone. RandAffine's own ranges, which the recipe leaves open: 15 degrees, 10 %, 10 voxels.
    scanner: with a probability of 0.4, up to 20 degrees about each axis and 12 % along each, never a mirror.
    """
    warp = STILL
    if kind == "reference":
        if rng.random() < 0.3:
            warp = warp.then(rotation(rng.uniform(-1, 1, 3) * np.deg2rad(30)))
        warp = warp.then(np.diag(np.where(rng.random(3) < 0.3, -1.0, 1.0)))
        if rng.random() < 0.3:
            warp = warp.then(np.eye(3) / rng.uniform(0.9, 1.1))
        if rng.random() < 0.3:
            warp = warp.then(*affine(rng, rotate_deg=15, scale=0.1, shift_voxels=10))
    elif kind == "scanner" and rng.random() < 0.4:
        warp = warp.then(*affine(rng, rotate_deg=20, scale=0.12, shift_voxels=0))
    return warp


def affine(
    rng: np.random.Generator, rotate_deg: float, scale: float, shift_voxels: float
) -> tuple[Float64[np.ndarray, "3 3"], Triple]:
    """Draw what MONAI's RandAffine does: rotated, then shifted, then scaled, each uniform about nothing."""
    turn = rotation(rng.uniform(-1, 1, 3) * np.deg2rad(rotate_deg))
    shift = rng.uniform(-1, 1, 3) * shift_voxels
    return turn @ np.diag(1 + rng.uniform(-1, 1, 3) * scale), turn @ shift


def rotation(radians: Triple) -> Float64[np.ndarray, "3 3"]:
    """Rotate about x, then the turned y, then the turned z, as MONAI's create_rotate."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(radians), np.sin(radians)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: Float64[np.ndarray, "3 3"] = about_x @ about_y @ about_z
    return turned


def resample(
    box: Float32[np.ndarray, "c x y z"], centre: Triple, warp: Warp, size: tuple[int, int, int]
) -> Float32[np.ndarray, "c i j k"]:
    """Cut a warped patch of ``size`` out of ``box``, where its centre lies at ``centre``, linearly.

    Beyond the box its border values hold.
    """
    # grid_sample counts from -1 to 1, from the first voxel's centre to the last one's, the last axis first.
    last = np.maximum(np.array(box.shape[1:]) - 1, 1)
    matrix = warp.matrix * (np.array(size) - 1) / last[:, None]
    offset = 2 * (centre + warp.shift) / last - 1
    theta = np.concatenate([matrix[::-1, ::-1], offset[::-1, None]], axis=1).astype(np.float32)
    grid = torch.nn.functional.affine_grid(torch.from_numpy(theta)[None], [1, len(box), *size], align_corners=True)
    cut = torch.nn.functional.grid_sample(
        torch.from_numpy(box)[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    patch: Float32[np.ndarray, "c i j k"] = cut[0].numpy()
    return patch


def change_intensities(kind: Kind, image: VolumeArray, rng: np.random.Generator) -> VolumeArray:
    """Change a patch's intensities at random; gives the patch itself where nothing was drawn.

    reference: MONAI's RandAdjustContrast (gamma 0.7 to 1.5), RandScaleIntensity (10 %), RandGaussianNoise (0.05),
    each with a probability of 0.3. scanner: what differs between scanners and protocols.
    """
    if kind == "reference":
        if rng.random() < 0.3:
            image = adjust_contrast(image, rng.uniform(0.7, 1.5))
        if rng.random() < 0.3:
            image = image * np.float32(1 + rng.uniform(-0.1, 0.1))
        if rng.random() < 0.3:
            image = add_noise(image, rng.uniform(0, 0.05), rng)
    elif kind == "scanner":
        if rng.random() < 0.2:
            image = smooth(image, rng.uniform(0.3, 0.8, 3))
        if rng.random() < 0.4:
            image = image * np.float32(1 + rng.uniform(-0.15, 0.15))
        if rng.random() < 0.4:
            image = image + np.float32(rng.uniform(-0.1, 0.1))
        if rng.random() < 0.3:
            image = adjust_contrast(image, rng.uniform(0.75, 1.35))
        if rng.random() < 0.3:
            image = add_noise(image, rng.uniform(0, 0.06), rng)
    return image


def adjust_contrast(image: VolumeArray, gamma: float) -> VolumeArray:
    """Raise intensities, scaled to 0..1 between their extremes, to a power, as MONAI's AdjustContrast."""
    low, high = image.min(), image.max()
    scaled = (image - low) * np.float32(1 / (high - low + 1e-7))
    changed: VolumeArray = scaled ** np.float32(gamma) * (high - low) + low
    return changed


def add_noise(image: VolumeArray, deviation: float, rng: np.random.Generator) -> VolumeArray:
    """Add white Gaussian noise."""
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(deviation)
    noise += image
    return noise


def smooth(image: VolumeArray, sigma_voxels: Triple) -> VolumeArray:
    """Blur with a Gaussian whose weights are its integrals over the voxels, as MONAI's GaussianSmooth; zero outside."""
    for axis, sigma in enumerate(sigma_voxels):
        reach = int(max(4 * sigma, 0.5) + 0.5)
        edges = np.arange(-reach, reach + 2) - 0.5
        weights = np.diff(erf(edges / (sigma * np.sqrt(2)))) / 2
        image = ndimage.correlate1d(image, weights.astype(np.float32), axis=axis, mode="nearest")
    return image
