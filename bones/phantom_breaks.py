"""How phantom bones break: a surface through the shaft, and where the far fragment goes.

Surfaces stand in the frame of the bone: ``along`` its axis, ``across`` it on the film, and ``depth`` along the ray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from bones.phantom_bones import STILL, Buckle, Field, LongBone, Motion

BreakKind: TypeAlias = Literal["transverse", "oblique", "spiral", "buckle"]
BREAKS: tuple[BreakKind, ...] = get_args(BreakKind)
# A box is drawn around the broken ends with this much of the bone's radius beside them, as people draw them.
MARGIN = 0.3


@dataclass(frozen=True)
class Break:
    """A break of one bone at ``at_mm`` along its axis; ``motion`` is that of the far fragment and all that hangs on it.

    ``gap_mm`` is what is between the fragments before they move. A buckle has neither.
    """

    bone: str
    kind: BreakKind
    displaced: bool
    at_mm: float
    gap_mm: float
    motion: Motion
    slopes: tuple[float, float] = (0.0, 0.0)
    """Along over across, and along over depth."""
    pitch_mm: float = 0.0
    """Along per turn around the axis, of a spiral."""
    phase_rad: float = 0.0
    rough: tuple[tuple[float, float, float, float], ...] = ()
    """Waves of the surface: height, cycles per mm across and in depth, phase."""

    def surface(self, across: Field, depth: Field) -> Field:
        """Return where along the axis the break is, mm."""
        along = self.at_mm + self.slopes[0] * across + self.slopes[1] * depth
        if self.pitch_mm:
            turned = np.arctan2(depth, across) + self.phase_rad
            along = along + self.pitch_mm * ((turned / (2 * np.pi)) % 1 - 0.5)
        for high, one, other, phase in self.rough:
            along = along + high * np.sin(2 * np.pi * (one * across + other * depth) + phase)
        return along

    def reach_mm(self, radius_mm: float) -> float:
        """Return how far from ``at_mm`` the surface may go, mm."""
        slope = abs(self.slopes[0]) + abs(self.slopes[1])
        return radius_mm * slope + abs(self.pitch_mm) / 2 + sum(wave[0] for wave in self.rough) + self.gap_mm + 1


def draw_break(rng: np.random.Generator, bone: LongBone, kind: BreakKind, displaced: bool) -> tuple[LongBone, Break]:
    """Break a bone: return it (bulged, if it buckled) and its break."""
    radius = bone.shaft_mm
    if kind == "buckle":
        # Buckles lie where the shaft widens, on the side of the larger end.
        from_end = float(rng.uniform(1.4, 2.2)) * max(bone.ends_mm)
        at = bone.length_mm - from_end if bone.ends_mm[1] >= bone.ends_mm[0] else from_end
        bulge = Buckle(at, float(rng.uniform(0.25, 0.45)) * radius, float(rng.uniform(0.14, 0.3)) * radius,
                       float(rng.uniform(0.0, 0.9)))  # fmt: skip
        return replace(bone, buckle=bulge), Break(bone.name, kind, False, at, 0.0, STILL)
    at = bone.length_mm * float(rng.uniform(0.16, 0.84))
    shown = float(bone.radius(np.array(at)))
    slopes, pitch = (float(rng.uniform(-0.15, 0.15)), float(rng.uniform(-0.3, 0.3))), 0.0
    if kind == "oblique":
        slopes = (float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.4)), float(rng.uniform(-0.5, 0.5)))
    elif kind == "spiral":
        pitch = float(rng.choice([-1, 1]) * rng.uniform(3, 6)) * shown
    rough = tuple(_wave(rng, shown) for _ in range(5))
    if displaced:
        tilt = float(np.clip(rng.normal(0, 0.13), -0.4, 0.4))
        aside = float(rng.choice([-1, 1]) * rng.uniform(0.2, 1.7)) * shown
        along = float(rng.uniform(0.05, 0.4)) * shown
        if abs(aside) > 1.2 * shown:  # wholly off each other, so the fragments ride up
            along = -float(rng.uniform(0.0, 2.0)) * shown
        gap = float(rng.uniform(0.1, 0.5))
    else:
        tilt, aside, along = float(rng.normal(0, 0.01)), float(rng.normal(0, 0.03)) * shown, 0.0
        # A spiral's two lines cross the ray one by one, so each takes less from it.
        gap = float(rng.uniform(0.3, 0.9)) * (shown / 7) ** 0.5 * (2.0 if kind == "spiral" else 1.0)
    motion = _motion(bone, at, tilt, along, aside)
    return bone, Break(
        bone.name, kind, displaced, at, gap, motion, slopes, pitch, float(rng.uniform(0, 2 * np.pi)), rough
    )


def _wave(rng: np.random.Generator, radius_mm: float) -> tuple[float, float, float, float]:
    """Draw a wave of a rough surface: some waves a radius, so that larger bones break in larger teeth."""
    one, other = rng.uniform(-2.5, 2.5, 2) / radius_mm
    return float(radius_mm * rng.uniform(0.02, 0.07)), float(one), float(other), float(rng.uniform(0, 2 * np.pi))


def _motion(bone: LongBone, at: float, tilt: float, along: float, across: float) -> Motion:
    """Turn about the axis at the break, and shift along and across it."""
    x, y = bone.points(np.array(at), np.array(0.0))
    dx, dy = ((b - a) / bone.length_mm for a, b in zip(bone.start, bone.end, strict=True))
    return Motion.about(float(x), float(y), tilt, (along * dx - across * dy, along * dy + across * dx))


def broken_ends(bone: LongBone, one: Break, moved: Motion) -> np.ndarray:
    """Return points ``x y`` mm of both broken ends where they lie on the film, with a margin; ``moved`` is the bone's.

    They span the box of the fracture: the surface of the break on either fragment, or the bulge of a buckle.
    """
    if bone.buckle is not None:
        along = one.at_mm + bone.buckle.wide_mm * np.linspace(-2, 2, 17)[:, None] * np.ones((1, 2))
        across = np.broadcast_to([-1.0, 1.0], along.shape)
        ends = [(along, across * bone.radius(along, across))]
        motions = [moved]
    else:
        share, turn = np.meshgrid(np.linspace(0.05, 1, 12), np.linspace(0, 2 * np.pi, 49))
        radius = float(bone.radius(np.array(one.at_mm)))
        along = np.full_like(share, one.at_mm)
        for _ in range(3):  # the radius depends on where the surface is, and that on the radius
            radii = np.clip(bone.radius(along), 0.3 * radius, 3 * radius)
            across = share * radii * np.cos(turn)
            along = np.clip(one.surface(across, share * radii * np.sin(turn)), 0, bone.length_mm)
        ends = [(along - one.gap_mm / 2, across), (along + one.gap_mm / 2, across)]
        motions = [moved, moved.after(one.motion)]
    points = []
    for (along, across), motion in zip(ends, motions, strict=True):
        x, y = motion.apply(*bone.points(along, across))
        points.append(np.stack([x.ravel(), y.ravel()], axis=1))
    spanned = np.concatenate(points)
    margin = MARGIN * bone.shaft_mm
    return np.concatenate([spanned - margin, spanned + margin])
