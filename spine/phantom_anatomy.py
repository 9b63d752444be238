"""The synthetic spine in millimetres: how large its vertebrae are, how it bends, and where each one lies on a film.

Films are seen from the front (AP) or the side; x runs to the right of the film, y down, from the first vertebra's
middle. In a lateral film the patient looks to the left; mirroring is the renderer's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from spine.config import LEVELS

View = Literal["ap", "lateral"]
Points = Float64[np.ndarray, "point 2"]

C1, C2, C3, C7, T1, T12, L1, L5 = (LEVELS.index(name) for name in ("C1", "C2", "C3", "C7", "T1", "T12", "L1", "L5"))

# Posterior heights, upper widths and depths of bodies after Panjabi et al. (Spine 16, 1991, 861-869; 17, 1992,
# 299-306), with the atlas's arch and the axis's body without the dens.
HEIGHT_MM = np.array([
    10.0, 20.0, 12.6, 12.4, 12.4, 12.4, 13.3,
    14.1, 15.6, 15.7, 16.2, 16.2, 17.4, 18.2, 18.7, 19.3, 20.2, 21.3, 22.7,
    23.8, 24.3, 23.8, 24.1, 22.9,
])  # fmt: skip
WIDTH_MM = np.array([
    72.0, 19.0, 17.8, 18.2, 18.5, 19.5, 22.0,
    24.5, 25.1, 24.6, 24.5, 24.9, 26.2, 27.8, 29.5, 30.6, 31.9, 34.9, 39.0,
    41.2, 42.6, 44.1, 46.6, 47.3,
])  # fmt: skip
DEPTH_MM = np.array([
    44.0, 16.0, 15.6, 15.6, 15.6, 16.6, 18.1,
    18.5, 19.6, 22.7, 23.3, 24.3, 26.0, 27.4, 27.9, 29.3, 30.5, 31.9, 32.8,
    34.1, 34.6, 35.2, 35.5, 34.7,
])  # fmt: skip
DISC_MM = np.array([
    1.5, 5.0, 5.0, 5.0, 5.2, 5.5, 5.0,
    4.2, 3.8, 3.6, 3.6, 3.8, 4.0, 4.2, 4.6, 5.2, 5.8, 6.6, 7.6,
    8.5, 9.6, 10.6, 11.0, 9.5,
])  # fmt: skip
"""Below each vertebra; thin behind C1, thickest above L5."""

# Sagittal tilt of a standing adult, degrees: cervical lordosis, kyphosis, lordosis; in between a smooth curve.
# Slopes of T1 and S1 and their spreads: Le Huec et al., Eur Spine J 20 (2011) S603.
TILT_AT = np.array([0, 4, 7, 13, 18.5, 21.5, 24])
TILT_DEG = np.array([-14.0, 2.0, 24.0, 0.0, -17.0, 0.0, 38.0])


@dataclass(frozen=True, slots=True)
class Vertebra:
    """One vertebra on a film: its middle, turn (clockwise as displayed), and half sides, in mm."""

    level: str
    centre_mm: Float64[np.ndarray, " 2"]
    angle_deg: float
    half_across_mm: float
    half_height_mm: float
    outline_mm: Points
    """On the film, clockwise."""

    def place(self, local_mm: Points) -> Points:
        """Bring points beside the vertebra (x to the right, y down along the spine) onto the film."""
        placed: Points = turned(np.asarray(local_mm, np.float64), self.angle_deg) + self.centre_mm
        return placed


@dataclass(frozen=True, slots=True)
class Spine:
    """A spine on a film: 24 vertebrae from the head down, and where the sacrum begins."""

    view: View
    vertebrae: tuple[Vertebra, ...]
    sacrum_mm: Float64[np.ndarray, " 2"]
    sacrum_angle_deg: float

    @property
    def centres_mm(self) -> Points:
        """The vertebrae's middles."""
        return np.array([vertebra.centre_mm for vertebra in self.vertebrae])


def make_spine(view: View, rng: np.random.Generator) -> Spine:
    """Draw a spine: size, curvature, scoliosis in AP films, and small differences between vertebrae."""
    count = len(LEVELS)
    size = rng.uniform(0.78, 1.1)  # a child of ten to a tall adult
    heights = HEIGHT_MM * size * rng.normal(1, 0.03, count)
    discs = DISC_MM * size * np.clip(rng.normal(1, 0.18, count), 0.35, 1.4)
    sagittal = _tilts(rng)
    if view == "ap":
        angles = _scoliosis(rng)
        across = WIDTH_MM * size * rng.normal(1, 0.03, count)
        # What leans towards the film is foreshortened.
        heights = heights * np.cos(np.radians(sagittal[:count]))
        discs = discs * np.cos(np.radians(sagittal[1:])) ** 2
    else:
        angles = -sagittal
        across = DEPTH_MM * size * rng.normal(1, 0.03, count)
    centres, end = _strung(heights, discs, angles)
    vertebrae = tuple(
        _vertebra(k, view, centres[k], float(angles[k]), across[k] / 2, heights[k] / 2, rng) for k in range(count)
    )
    return Spine(view, vertebrae, end, float(angles[-1]))


def _tilts(rng: np.random.Generator) -> Float64[np.ndarray, " 25"]:
    """Draw sagittal tilts of C1 to S1; positive where going down leads backwards."""
    from scipy.interpolate import CubicSpline

    drawn = TILT_DEG * rng.uniform(0.5, 1.35) + rng.normal(0, [8, 5, 5, 3, 4, 4, 6])
    tilts: Float64[np.ndarray, " 25"] = CubicSpline(TILT_AT, drawn)(np.arange(len(LEVELS) + 1))
    return tilts


def _scoliosis(rng: np.random.Generator) -> Float64[np.ndarray, " 25"]:
    """Draw coronal tilts: up to three curves, most of them slight; a Cobb angle is about twice the amplitude."""
    along = np.arange(len(LEVELS) + 1)
    tilts = rng.normal(0, 1.5) + np.zeros(len(along))
    for _ in range(rng.integers(0, 4)):
        middle, length = rng.uniform(T1 + 2, L5 - 2), rng.uniform(7, 14)
        amplitude = min(float(rng.exponential(9)), 32) * rng.choice([-1, 1])
        inside = np.abs(along - middle) < length / 2
        tilts += np.where(inside, amplitude * np.sin(2 * np.pi * (along - middle) / length), 0)
    return np.convolve(np.pad(tilts, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")


def _strung(
    heights: Float64[np.ndarray, " n"], discs: Float64[np.ndarray, " n"], angles: Float64[np.ndarray, " m"]
) -> tuple[Points, Float64[np.ndarray, " 2"]]:
    """Put vertebrae and discs one below another, each leaning as it does; return the middles and the sacrum's top."""
    place, centres = np.zeros(2), []
    for k in range(len(heights)):
        down = _down(angles[k])
        centres.append(place + down * heights[k] / 2)
        place = place + down * heights[k] + _down((angles[k] + angles[k + 1]) / 2) * discs[k]
    first = centres[0].copy()
    return np.array(centres) - first, place - first


def _down(angle_deg: float) -> Float64[np.ndarray, " 2"]:
    """Return the direction down a spine that is turned clockwise by an angle."""
    return np.array([-np.sin(np.radians(angle_deg)), np.cos(np.radians(angle_deg))])


def turned(points: Points, angle_deg: float) -> Points:
    """Turn points about the origin, clockwise as displayed (y runs down)."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    rotated: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return rotated


def _vertebra(
    k: int, view: View, centre: Float64[np.ndarray, " 2"], angle: float, half_across: float, half_height: float,
    rng: np.random.Generator,
) -> Vertebra:  # fmt: skip
    shape = _atlas if k == C1 else _axis if k == C2 else _body
    local = shape(view, half_across, half_height, k, rng)
    angle += float(rng.normal(0, 1.2))
    return Vertebra(LEVELS[k], centre, angle, half_across, half_height, turned(local, angle) + centre)


def _body(view: View, across: float, height: float, k: int, rng: np.random.Generator) -> Points:
    """Outline of a body: a rounded box with a waist, hollow end plates, and in profile a wedge."""
    around = np.linspace(0, 2 * np.pi, 48, endpoint=False) - 3 * np.pi / 4
    cos, sin = np.cos(around), np.sin(around)
    power = rng.uniform(0.22, 0.34)  # of a superellipse: 0 would be a box
    u, v = np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power
    waist, hollow = rng.uniform(0.05, 0.14), rng.uniform(0.0, 0.08)
    wedge = 0.0 if view == "ap" else rng.normal(0.05 if T1 <= k <= T12 else -0.03, 0.03)
    x = across * u * (1 - waist * (1 - v**2))
    y = height * v * (1 - hollow * (1 - u**2)) * (1 + wedge * u)
    if view == "lateral" and C3 <= k <= C7:
        y = y - 0.16 * height * u  # cervical end plates slope down to the front
    return np.stack([x, y], axis=1)


def _axis(view: View, across: float, height: float, k: int, rng: np.random.Generator) -> Points:
    """Outline of C2: a body with the dens on it."""
    dens_half, dens_top = rng.uniform(0.3, 0.4) * across, -height - rng.uniform(13, 17) * height / 10
    if view == "lateral":
        right = [(0.55 * across, -0.9 * height), (across, -0.2 * height), (0.95 * across, height)]
        left = [(-1.15 * across, 1.05 * height), (-0.95 * across, 0.1 * height), (-0.6 * across, -0.7 * height)]
    else:
        right = [(0.5 * across, -0.8 * height), (1.5 * across, -0.5 * height), (1.25 * across, 0.7 * height)]
        right.append((0.7 * across, height))
        left = [(-x, y) for x, y in reversed(right)]
    top = [(-dens_half, dens_top * 0.85), (-0.5 * dens_half, dens_top), (0.5 * dens_half, dens_top)]
    return smooth(np.array([*top, (dens_half, dens_top * 0.85), *right, *left]))


def _atlas(view: View, across: float, height: float, k: int, rng: np.random.Generator) -> Points:
    """Outline of C1: a ring seen from the side, two masses and the arch seen from the front."""
    if view == "lateral":
        back = rng.uniform(0.75, 0.95)
        points = [(-0.42, -0.7), (-0.05, -0.45), (0.55, -0.5), (1.2 * back, -0.9), (1.35 * back, 0.0),
                  (1.2 * back, 0.8), (0.55, 0.55), (0.0, 0.5), (-0.42, 0.8), (-0.52, 0.0)]  # fmt: skip
    else:
        half = [
            (0.0, -0.5),
            (0.22, -0.6),
            (0.42, -1.0),
            (0.7, -0.8),
            (1.0, -0.1),
            (0.72, 0.35),
            (0.5, 1.0),
            (0.22, 0.3),
        ]
        points = [*half, *((-x, y) for x, y in reversed(half[1:]))]
    return smooth(np.array(points) * [across, height])


def smooth(corners: Points, rounds: int = 2) -> Points:
    """Round a closed outline by cutting its corners (Chaikin, Computer Graphics and Image Processing 3, 1974)."""
    for _ in range(rounds):
        after = np.roll(corners, -1, axis=0)
        corners = np.stack([0.75 * corners + 0.25 * after, 0.25 * corners + 0.75 * after], axis=1).reshape(-1, 2)
    return corners
