"""Sampling the phantom's scene on a voxel grid: soft anatomy from a coarse lattice, vessels at sub-voxel detail.

The lattice is fixed to the scene, not to the scan, so that two scans of one seed show one scene. Vessels, calcium and
leads are capsules, painted on sub-voxels of at most 0.45 mm and averaged: a voxel's HU and its share of lumen agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

PITCH_MM = 2.0
TILE = 64
BLOCK = 32
SUBVOXEL_MM = 0.45

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Tubes:
    """Capsules of one kind: ends ``a``, ``b`` (n, 3) mm, radii there, ``hu``, ``tree`` (1 LCA, 2 RCA, else 0) (n,)."""

    a: Array
    b: Array
    ra: Array
    rb: Array
    hu: Array
    tree: NDArray[np.uint8]

    @classmethod
    def of_paths(cls, paths: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | float, int]]) -> Tubes:
        """Capsules along paths given as (points (n, 3), radii (n,), HU (n,) or number, tree)."""
        rows = [
            (p[:-1], p[1:], r[:-1], r[1:], np.broadcast_to(hu, len(p))[:-1], np.full(len(p) - 1, tree))
            for p, r, hu, tree in paths
            if len(p) > 1
        ]
        if not rows:
            none = np.zeros(0, np.float32)
            return cls(none.reshape(0, 3), none.reshape(0, 3), none, none, none, none.astype(np.uint8))
        a, b, ra, rb, hu, tree = (np.concatenate(column) for column in zip(*rows, strict=True))
        floats = [v.astype(np.float32) for v in (a, b, ra, rb, hu)]
        return cls(floats[0], floats[1], floats[2], floats[3], floats[4], tree.astype(np.uint8))

    def within(self, low: NDArray[Any], high: NDArray[Any], margin_mm: float) -> NDArray[np.intp]:
        """Which capsules reach into the box."""
        reach = np.maximum(self.ra, self.rb)[:, None] + margin_mm
        near = (np.minimum(self.a, self.b) - reach < high) & (np.maximum(self.a, self.b) + reach > low)
        return np.flatnonzero(near.all(1))

    def where(self, sdf: Array, lattice: list[Array]) -> Tubes:
        """Only the capsules whose ends both lie inside ``sdf``, given on a lattice."""
        inside = np.ones(len(self.ra), bool)
        for end in (self.a, self.b):
            index = [np.rint((end[:, i] - axis[0]) / PITCH_MM).astype(int) for i, axis in enumerate(lattice)]
            held = np.all([(i >= 0) & (i < len(axis)) for i, axis in zip(index, lattice, strict=True)], axis=0)
            index = [np.clip(i, 0, len(axis) - 1) for i, axis in zip(index, lattice, strict=True)]
            inside &= ~held | (sdf[tuple(index)] < 0)
        return Tubes(
            self.a[inside], self.b[inside], self.ra[inside], self.rb[inside], self.hu[inside], self.tree[inside]
        )


class Texture:
    """Smooth noise of unit size, periodic, fixed to the scene and the same for every grid."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._tiles = []
        for _ in range(6):
            tile = gaussian_filter(rng.standard_normal((TILE,) * 3, dtype=np.float32), 1.0, mode="wrap")
            self._tiles.append(tile / tile.std())

    def at(self, axes: list[Array], pitch_mm: float, k: int) -> Array:
        """The k-th noise, features about ``pitch_mm`` in size, on the product grid of three axes (mm)."""
        return _interpolate(self._tiles[k % 6], [a / (pitch_mm / 2.5) for a in axes], wrap=True)


def _interpolate(values: Array, index: list[Array], wrap: bool = False) -> Array:
    """Linear interpolation at a product grid of fractional indices, one axis after another."""
    for axis in (2, 1, 0):
        at = np.asarray(index[axis], np.float64)
        low = np.floor(at).astype(int)
        n = values.shape[axis]
        t = (at - low).astype(np.float32)
        first, second = (low % n, (low + 1) % n) if wrap else (np.clip(low, 0, n - 1), np.clip(low + 1, 0, n - 1))
        t = t.reshape([-1 if i == axis else 1 for i in range(3)])
        a = np.take(values, first, axis)
        values = a + t * (np.take(values, second, axis) - a)
    return values


def lattice_axes(low: NDArray[Any], high: NDArray[Any]) -> list[Array]:
    """Coordinates of the scene's lattice that cover a box, on whole multiples of the pitch."""
    return [
        np.arange(np.floor(a / PITCH_MM) - 2, np.ceil(b / PITCH_MM) + 3, dtype=np.float32) * np.float32(PITCH_MM)
        for a, b in zip(low, high, strict=True)
    ]


def blocks(shape: tuple[int, ...], size: int = BLOCK) -> Iterator[tuple[slice, slice, slice]]:
    """Slices that tile a volume."""
    for i in range(0, shape[0], size):
        for j in range(0, shape[1], size):
            for k in range(0, shape[2], size):
                yield tuple(slice(o, min(o + size, n)) for o, n in zip((i, j, k), shape, strict=True))  # type: ignore[misc]


def paint_anatomy(
    out: Array,
    axes: list[Array],
    structures: dict[str, Array],
    lattice: list[Array],
    paint: Callable[[str, list[Array]], Array | float],
    edge_mm: float,
) -> None:
    """Paints structures over one another into ``out`` in HU, with edges ``edge_mm`` wide."""
    for block in blocks(out.shape):
        at = [axis[s] for axis, s in zip(axes, block, strict=True)]
        index = [(a - grid[0]) / PITCH_MM for a, grid in zip(at, lattice, strict=True)]
        span = tuple(slice(max(int(i.min()), 0), int(i.max()) + 2) for i in index)
        local = [i - s.start for i, s in zip(index, span, strict=True)]
        hu = out[block]
        for name, sdf in structures.items():
            part = sdf[span]
            if part.min() > edge_mm:
                continue
            colour = paint(name, at)
            if part.max() < -edge_mm:
                hu[...] = colour
                continue
            weight = np.clip(0.5 - _interpolate(part, local) / edge_mm, 0, 1)
            hu += weight * (colour - hu)


def tube_distance(
    tubes: Tubes, which: NDArray[np.intp], axes: list[Array], reach_mm: float
) -> tuple[Array, NDArray[np.intp]]:
    """Distance (mm, negative inside) to the nearest capsule on a product grid, up to ``reach_mm``, and which it is."""
    shape = tuple(len(a) for a in axes)
    best = np.full(shape, reach_mm, np.float32)
    index = np.full(shape, -1, np.intp)
    for i in which:
        a, b = tubes.a[i], tubes.b[i]
        reach = max(tubes.ra[i], tubes.rb[i]) + reach_mm
        box = tuple(
            slice(*np.searchsorted(axis, (min(p, q) - reach, max(p, q) + reach)))
            for axis, p, q in zip(axes, a, b, strict=True)
        )
        local = [axis[s] - p for axis, s, p in zip(axes, box, a, strict=True)]
        if not all(map(len, local)):
            continue
        x, y, z = local[0][:, None, None], local[1][None, :, None], local[2][None, None, :]
        d = b - a
        t = np.clip((x * d[0] + y * d[1] + z * d[2]) / np.float32(max(d @ d, 1e-9)), 0, 1)
        distance = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
        distance -= tubes.ra[i] + t * (tubes.rb[i] - tubes.ra[i])
        closer = distance < best[box]
        best[box][closer] = distance[closer]
        index[box][closer] = i
    return best, index


def _fine_axis(axis: Array, step: float) -> tuple[Array, int]:
    """An axis split into sub-voxels of at most ``SUBVOXEL_MM``."""
    factor = max(1, int(np.ceil(step / SUBVOXEL_MM - 1e-6)))
    offset = ((np.arange(factor) + 0.5) / factor - 0.5) * step
    return (axis[:, None] + offset.astype(np.float32)).ravel().astype(np.float32), factor


def paint_vessels(
    out: Array,
    labels: NDArray[np.uint8],
    axes: list[Array],
    steps_mm: NDArray[Any],
    layers: dict[str, Tubes],
    subvoxels: bool = True,
) -> None:
    """Paints capsules over ``out`` (HU) and writes ``labels`` (1 LCA, 2 RCA) where half a voxel or more is lumen.

    Layers paint in their order; "calcium" never enters the lumen, and what the "aorta" layer holds is not labelled.
    """
    for block in blocks(out.shape):
        at = [axis[s] for axis, s in zip(axes, block, strict=True)]
        low, high = np.array([a[0] for a in at]), np.array([a[-1] for a in at])
        near = {name: tubes.within(low, high, 1.0) for name, tubes in layers.items()}
        if not any(map(len, near.values())):
            continue
        fine, factors = zip(
            *(_fine_axis(a, s if subvoxels else 0.0) for a, s in zip(at, steps_mm, strict=True)), strict=True
        )
        edge = float(np.cbrt(np.prod(np.asarray(steps_mm) / factors)))  # a voxel's width: partial volume
        clear, colour = np.float32(1), np.float32(0)
        lumen = None
        lumen_sdf = None
        if len(near.get("lumen", ())):
            lumen_sdf, lumen_index = tube_distance(layers["lumen"], near["lumen"], list(fine), 1.0)
        for name, tubes in layers.items():
            if not len(near[name]):
                continue
            sdf, index = (
                (lumen_sdf, lumen_index)
                if name == "lumen" and lumen_sdf is not None
                else tube_distance(tubes, near[name], list(fine), 1.0)
            )
            if name == "calcium" and lumen_sdf is not None:
                sdf = np.maximum(sdf, -lumen_sdf)
            weight = np.clip(0.5 - sdf / edge, 0, 1)
            if name == "lumen":
                lumen = (weight, index)
            clear = clear * (1 - weight)
            colour = colour * (1 - weight) + weight * tubes.hu[index]
        hu = out[block]
        hu *= _pool(np.broadcast_to(clear, tuple(map(len, fine))), factors)
        hu += _pool(np.broadcast_to(colour, tuple(map(len, fine))), factors)
        if lumen is not None:
            weight, index = lumen
            left = _pool(weight * (layers["lumen"].tree[index] == 1), factors)
            right = _pool(weight * (layers["lumen"].tree[index] == 2), factors)
            inside = left + right >= 0.5
            labels[block][inside] = np.where(left >= right, 1, 2)[inside]


def _pool(fine: Array, factors: tuple[int, ...]) -> Array:
    """Mean over sub-voxels."""
    shape = [n for size, f in zip(fine.shape, factors, strict=True) for n in (size // f, f)]
    mean: Array = fine.reshape(shape).mean((1, 3, 5), dtype=np.float32)
    return mean
