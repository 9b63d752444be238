"""The scanner's share of the phantom: point spread, streaks, shading, correlated noise, steps between heartbeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Array = NDArray[np.float32]

SIGMAS_PER_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Scan:
    """One acquisition; each of ``steps_mm`` is (height from which it applies, x shift, y shift)."""

    noise_hu: float
    blur_mm: tuple[float, float]  # full widths at half maximum: in the slice, along the table
    grain_mm: float  # size of the noise's grains (width of the kernel)
    shading_hu: float
    steps_mm: tuple[tuple[float, float, float], ...]

    def shift_mm(self, z_mm: NDArray[Any]) -> NDArray[np.float64]:
        """How far the scene stands shifted (n, 3) at heights ``z_mm`` (n,): voxel p shows the scene at p + shift."""
        edges = np.array([step[0] for step in self.steps_mm])
        shifts = np.array([[0.0, 0, 0], *([x, y, 0] for _, x, y in self.steps_mm)])
        return shifts[np.searchsorted(edges, z_mm, side="right")]


def draw_scan(
    noise_hu: tuple[float, float], blur_mm: tuple[float, float], difficulty: float, rng: np.random.Generator
) -> Scan:
    """Draws an acquisition; a third of the hardest have steps of up to 1.5 mm every 32-42 mm (a detector's height)."""
    low, high = noise_hu
    steps = []
    stepped, height, pitch = rng.random() < 0.33 * difficulty, rng.uniform(-60, -25), rng.uniform(32, 42)
    shifts = rng.uniform(-1.5, 1.5, (12, 2))
    if stepped:
        steps = [(height + pitch * i, float(x), float(y)) for i, (x, y) in enumerate(shifts)]
    return Scan(
        noise_hu=float(low + (high - low) * rng.beta(1.5, 2.5)),
        blur_mm=(float(rng.uniform(*blur_mm)), float(rng.uniform(*blur_mm))),
        grain_mm=float(rng.uniform(0.8, 1.3)),
        shading_hu=float(12 * difficulty * rng.random()),
        steps_mm=tuple(steps),
    )


def blur(volume: Array, spacing_mm: NDArray[Any], scan: Scan) -> None:
    """Convolves in place with the point spread, a Gaussian."""
    in_slice, along = scan.blur_mm
    for axis, width in enumerate((in_slice, in_slice, along)):
        gaussian_filter1d(
            volume, width * SIGMAS_PER_FWHM / spacing_mm[axis], axis, output=volume, mode="nearest", truncate=3
        )


def add_streaks(
    volume: Array, axes: list[Array], sources: list[tuple[NDArray[Any], float]], rng: np.random.Generator
) -> None:
    """Adds fans of bright and dark rays about dense objects: ``sources`` are (centre mm, strength HU)."""
    x, y, z = axes
    for centre, strength in sources:
        rays = rng.uniform(0, 2 * np.pi, (7, 2))
        sign = rng.choice([-1.0, 1.0], 7)
        near = np.flatnonzero(np.abs(z - centre[2]) < 3)
        if not len(near):
            continue
        dx, dy = x[:, None] - np.float32(centre[0]), y[None, :] - np.float32(centre[1])
        angle, distance = np.arctan2(dy, dx), np.hypot(dx, dy)
        fan = np.zeros_like(angle)
        for (at, _), s in zip(rays, sign, strict=True):
            off = np.abs((angle - at + np.pi / 2) % np.pi - np.pi / 2)  # a ray goes both ways
            fan += np.float32(s) * np.exp(-((off / 0.05) ** 2))
        fan *= strength * np.minimum(distance / 2, 1) / (1 + distance / 14)
        fan = np.where(distance < 70, fan, 0).astype(np.float32)
        for k in near:
            volume[:, :, k] += fan * np.float32(np.exp(-(((z[k] - centre[2]) / 1.5) ** 2)))


def add_shading(volume: Array, axes: list[Array], scan: Scan, rng: np.random.Generator) -> None:
    """Adds the slow dark and bright bands of beam hardening, some 100 mm wide."""
    if scan.shading_hu == 0:
        return
    x, y, z = (
        np.cos(axis * np.float32(2 * np.pi / rng.uniform(70, 160)) + np.float32(rng.uniform(0, 6.28))) for axis in axes
    )
    plane = np.float32(scan.shading_hu) * x[:, None, None] * y[None, :, None]
    for k in range(volume.shape[2]):
        volume[:, :, k] += plane[:, :, 0] * (np.float32(0.7) + np.float32(0.3) * z[k])


def add_noise(volume: Array, axes: list[Array], spacing_mm: NDArray[Any], scan: Scan, rng: np.random.Generator) -> None:
    """Adds band-passed noise of ``noise_hu``, strongest in the middle of the body.

    Noise of a filtered back-projection has no power at frequency zero and falls off with the kernel (Riederer 1978):
    here the difference of two Gaussians in the slice, one Gaussian along the table.
    """
    noise = rng.standard_normal(volume.shape, dtype=np.float32)
    sigma = scan.grain_mm * SIGMAS_PER_FWHM / spacing_mm
    for axis in range(3):
        gaussian_filter1d(noise, sigma[axis], axis, output=noise, mode="wrap", truncate=3)
    slow = gaussian_filter1d(noise, 2.5 * sigma[0], 0, mode="wrap", truncate=2.5)
    gaussian_filter1d(slow, 2.5 * sigma[1], 1, output=slow, mode="wrap", truncate=2.5)
    slow *= np.float32(0.8)
    noise -= slow
    del slow
    x, y = (np.exp(-((axis / np.float32(110)) ** 2)) for axis in axes[:2])
    plane = (0.75 + 0.35 * x[:, None] * y[None, :]) * scan.noise_hu / noise[:: max(1, noise.shape[0] // 64)].std()
    for k in range(volume.shape[2]):
        volume[:, :, k] += plane.astype(np.float32) * noise[:, :, k]
