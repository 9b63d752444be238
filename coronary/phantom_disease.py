"""The phantom's disease: narrowings, soft and calcified plaque, and how contrast thins out along the arteries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coronary.phantom_render import Tubes
from coronary.phantom_tree import STEP_MM, Centreline, unit


@dataclass(frozen=True)
class Disease:
    """A diseased tree and what lies on its walls."""

    tree: list[Centreline]
    lumen_hu: list[NDArray[np.float64]]
    soft: list[tuple[NDArray[Any], NDArray[Any], float]]
    calcium: list[tuple[NDArray[Any], NDArray[Any], float]]
    stenoses: list[dict[str, Any]]
    plaques: list[dict[str, Any]]

    def layers(self) -> dict[str, Tubes]:
        """Capsules in painting order: fat about the vessel, soft plaque, lumen, calcium (which keeps out of it)."""
        lumen = [
            (c.points_mm, c.radius_mm, hu, 1 if c.name == "LCA" else 2)
            for c, hu in zip(self.tree, self.lumen_hu, strict=True)
        ]
        sleeve = [
            (c.points_mm[skip:], c.wall_radius_mm[skip:] + 0.7, -70.0, 0)
            for c in self.tree
            for skip in (int(7 / STEP_MM) if c.parent is None else 0,)
        ]
        return {
            "sleeve": Tubes.of_paths(sleeve),  # fat, so that an artery never runs inside a wall or a chamber
            "soft": Tubes.of_paths([(*piece, 0) for piece in self.soft]),
            "lumen": Tubes.of_paths(lumen),
            "calcium": Tubes.of_paths([(*piece, 0) for piece in self.calcium]),
        }


def diseased(
    tree: list[Centreline], hu: float, difficulty: float, stenoses: int | None, rng: np.random.Generator
) -> Disease:
    """Narrows lumens and lays plaque; ``difficulty`` 0 leaves healthy vessels unless ``stenoses`` asks for some.

    Narrowings are 20-95 % of the diameter over 4-14 mm; soft plaque is 30-60 HU, calcium 600-1500 HU.
    """
    tree = list(tree)
    count = stenoses if stenoses is not None else int(rng.integers(0, 6) * difficulty)
    soft, calcium, narrowed, plaques = [], [], [], []
    weights = np.array([len(c.points_mm) * (c.radius_mm.mean() > 0.8) + 1e-6 for c in tree])
    for _ in range(count):
        k = int(rng.choice(len(tree), p=weights / weights.sum()))
        line = tree[k]
        percent, length = rng.uniform(20, 95), rng.uniform(4, 14)
        n = len(line.points_mm)
        middle = int(rng.uniform(0.08, 0.7) * n)
        s = (np.arange(n) - middle) * STEP_MM / (length / 2)
        dip = np.where(np.abs(s) < 1, 0.5 + 0.5 * np.cos(np.pi * np.clip(s, -1, 1)), 0)
        radius = np.minimum(line.radius_mm, np.maximum(line.wall_radius_mm * (1 - percent / 100 * dip), 0.12))
        tree[k] = Centreline(line.name, line.points_mm, radius, line.parent, line.branch, line.wall_radius_mm)
        inside = slice(max(middle - int(length / STEP_MM / 2), 0), middle + int(length / STEP_MM / 2) + 1)
        soft.append(
            (line.points_mm[inside], line.wall_radius_mm[inside] + 0.35 * dip[inside], float(rng.uniform(30, 60)))
        )
        narrowed.append(
            {
                "branch": k,
                "percent": float(percent),
                "length_mm": float(length),
                "at_mm": line.points_mm[middle].tolist(),
            }
        )
    for _ in range(int(rng.integers(0, 9) * difficulty)):
        k = int(rng.choice(len(tree), p=weights / weights.sum()))
        line = tree[k]
        n, span = len(line.points_mm), int(rng.uniform(1.5, 9) / STEP_MM)
        start = int(rng.uniform(0.03, 0.6) * n)
        piece = slice(start, min(start + span + 2, n))
        points, wall = line.points_mm[piece], line.wall_radius_mm[piece]
        side = unit(np.cross(points[-1] - points[0], rng.normal(size=3)))
        bulge = np.sin(np.linspace(0.25, np.pi - 0.25, len(points)))
        radius = rng.uniform(0.4, 1.1) * bulge
        hu_calcium = float(rng.uniform(600, 1500))
        calcium.append((points + side * (wall + 0.2)[:, None], radius, hu_calcium))
        plaques.append({"branch": k, "kind": "calcified", "hu": hu_calcium, "at_mm": points[0].tolist()})
    lumen_hu = []
    drop = rng.uniform(0.05, 0.35)
    for line in tree:
        along = np.clip(line.wall_radius_mm / 2.0, 0.2, 1)
        lumen_hu.append(hu * (1 - drop * (1 - along)))
    return Disease(tree, lumen_hu, soft, calcium, narrowed, plaques)
