"""What else is bright and thin in the phantom: lung vessels, coronary veins, aortic calcium, a pacing lead.

These are what a segmentation takes for coronary arteries, so they are drawn like them, as capsules; they are not in the
truth.
A path is (points (n, 3) in heart mm, radii (n,), HU).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coronary.phantom_anatomy import Anatomy, smooth_path
from coronary.phantom_tree import STEP_MM, unit

Path = tuple[NDArray[np.float64], NDArray[np.float64], float]

HILA_MM = ((48.0, -34.0, 34.0), (50.0, -40.0, 0.0), (-38.0, -44.0, 38.0), (-34.0, -46.0, 4.0))


def lung_vessels(hu: float, rng: np.random.Generator) -> list[Path]:
    """Straight pieces of vessel trees that fan out from the four hila and fork by Murray's law down to 0.5 mm."""
    pieces: list[Path] = []
    for hilum in HILA_MM:
        side = np.sign(hilum[0])
        # Most vessels go outwards; some double back over the heart's flanks, where they matter most.
        stack = [
            (np.array(hilum), unit(rng.normal(size=3) + np.array([1.1 * side, 0.25, 0])), rng.uniform(2.0, 4.0))
            for _ in range(9)
        ]
        while stack:
            start, heading, radius = stack.pop()
            end = start + heading * rng.uniform(3, 6) * (radius + 1.2)
            pieces.append((np.stack([start, end]), np.array([radius, 0.9 * radius]), hu))
            share = rng.uniform(0.25, 0.75)
            for part in (share, 1 - share):
                child = 0.9 * radius * part ** (1 / 3)
                if child > 0.5 and abs(end[0]) < 140:
                    stack.append((end, unit(heading + 0.55 * rng.normal(size=3)), child))
    return pieces


def aortic_calcium(anatomy: Anatomy, count: int, rng: np.random.Generator) -> list[Path]:
    """Nodules and short plates on the aortic wall."""
    paths: list[Path] = []
    line = anatomy.aorta_line
    for k in rng.integers(2, len(line), count):
        centre, radius = line[k, :3], line[k, 3]
        along = unit(line[k, :3] - line[k - 1, :3])
        side = unit(np.cross(along, rng.normal(size=3)))
        turn = np.linspace(0, rng.uniform(0.05, 0.5), 5)[:, None]
        arc = centre + (radius + 0.3) * (np.cos(turn) * side + np.sin(turn) * np.cross(along, side))
        paths.append((arc, np.full(5, rng.uniform(0.4, 1.2)), float(rng.uniform(500, 1300))))
    return paths


def pacing_lead(rng: np.random.Generator) -> Path:
    """A lead from the superior vena cava through the right atrium to the apex of the right ventricle."""
    way: list[list[float]] = [
        [40, -3, 95],
        [42, -2, 40],
        [46, 4, 5],
        [38, 14, -14],
        [14, 22, -26],
        [-14, 34 + rng.uniform(-4, 4), -36],
    ]
    points = smooth_path(way, STEP_MM)
    return points, np.full(len(points), 0.9), 3000.0
