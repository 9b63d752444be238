"""Sliding-window inference in numpy: where windows lie, how they are blended, and which can be skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float32

from shared.types import MaskArray, VolumeArray

Network = Callable[[Float32[np.ndarray, "1 1 x y z"]], Float32[np.ndarray, "1 c x y z"]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows over a volume: one ``window`` size, and its ``starts`` along each axis."""

    window: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def origins(self) -> list[tuple[int, int, int]]:
        """First voxel of every window, x slowest."""
        return list(product(*self.starts))


def plan_windows(
    shape: tuple[int, int, int],
    window: tuple[int, int, int],
    overlap: float,
    grow: float = 1.0,
    multiple: int = 16,
) -> Plan:
    """Lay windows over ``shape`` voxels with at least ``overlap`` (0..1) of each shared with its neighbour.

    With ``grow`` of 1 the origins are those of MONAI's ``sliding_window_inference`` (``dense_patch_slices``: a fixed
    stride, the last window pushed back inside). With more, a window may grow along an axis by up to that factor, in
    steps of ``multiple``, where fewer voxels are then computed in all; windows are spread evenly.
    """
    sizes, starts = zip(
        *(_plan_axis(n, w, overlap, grow, multiple) for n, w in zip(shape, window, strict=True)), strict=True
    )
    return Plan(window=(sizes[0], sizes[1], sizes[2]), starts=(starts[0], starts[1], starts[2]))


def _plan_axis(length: int, window: int, overlap: float, grow: float, multiple: int) -> tuple[int, tuple[int, ...]]:
    if grow <= 1:
        if length <= window:
            return window, (0,)
        stride = max(int(window * (1 - overlap)), 1)
        count = math.ceil((length - window) / stride) + 1
        return window, tuple(min(i * stride, length - window) for i in range(count))
    sizes = range(window, int(window * grow) + 1, multiple)
    size = min(sizes, key=lambda s: (s * _windows_needed(length, s, overlap), s))
    count = _windows_needed(length, size, overlap)
    return size, tuple(round(i * max(length - size, 0) / max(count - 1, 1)) for i in range(count))


def _windows_needed(length: int, window: int, overlap: float) -> int:
    return max(math.ceil((length - window) / (window * (1 - overlap))), 0) + 1


def importance(window: tuple[int, int, int], blending: Literal["gaussian", "constant"]) -> VolumeArray:
    """Weight of each voxel of a window: 1, or a Gaussian with a sigma of an eighth of the side.

    The Gaussian is MONAI's ``compute_importance_map(mode="gaussian", sigma_scale=0.125)``, after Isensee et al.
    (Nature Methods 2021), with a floor of 1e-3 so that no voxel is left without weight.
    """
    if blending == "constant":
        return np.ones(window, np.float32)
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (0.125 * n)) ** 2) for n in window]
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    floored: VolumeArray = np.maximum(weights, 1e-3).astype(np.float32)
    return floored


def slide(
    volume: VolumeArray,
    network: Network,
    plan: Plan,
    *,
    blending: Literal["gaussian", "constant"] = "gaussian",
    pad_value: float = 0.0,
    where: MaskArray | None = None,
    skipped_value: float = -20.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[VolumeArray, int]:
    """Run a two-class ``network`` over ``volume`` and blend its logit differences (foreground minus background).

    The blended difference has the sign of the blended logits' argmax, so a threshold of 0 is MONAI's argmax.
    A volume smaller than the window is padded on both sides with ``pad_value``, as MONAI pads. Windows without a true
    voxel in ``where`` are skipped; voxels that no window reached get ``skipped_value``.

    Returns:
        The differences, ``x y z`` float32, and the number of windows that ran. ``progress(done, all)`` is called
        after each window.
    """
    pads = [_padding(n, w) for n, w in zip(volume.shape, plan.window, strict=True)]
    if any(sum(pad) for pad in pads):
        inside = tuple(slice(a, a + n) for (a, _), n in zip(pads, volume.shape, strict=True))
        volume = np.pad(volume, pads, constant_values=pad_value)
        where = None if where is None else np.pad(where, pads)
    else:
        inside = (slice(None),) * 3
    weights = importance(plan.window, blending)
    total = np.zeros(volume.shape, np.float32)
    norm = np.zeros(volume.shape, np.float32)
    boxes = list(_boxes(plan, where))
    for done, box in enumerate(boxes, start=1):
        logits = network(np.ascontiguousarray(volume[box])[None, None])[0]
        total[box] += (logits[1] - logits[0]) * weights
        norm[box] += weights
        if progress is not None:
            progress(done, len(boxes))
    reached = norm > 0
    np.divide(total, norm, out=total, where=reached)
    total[~reached] = skipped_value
    return total[inside], len(boxes)


def _padding(length: int, window: int) -> tuple[int, int]:
    missing = max(window - length, 0)
    return missing // 2, missing - missing // 2


def _boxes(plan: Plan, where: MaskArray | None) -> Iterator[tuple[slice, slice, slice]]:
    for origin in plan.origins:
        x, y, z = (slice(start, start + size) for start, size in zip(origin, plan.window, strict=True))
        if where is None or where[x, y, z].any():
            yield x, y, z
