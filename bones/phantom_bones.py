"""Phantom bones as solids seen along the ray: how thick cortex and marrow are at each point of the film, in mm.

A long bone is round about a slightly bowed axis: a shaft, two flaring ends, a cortex that is thick in the middle and
thin at the ends. A short bone is a rounded lump with a thin cortex. Points are ``x y`` mm on the film.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

Field: TypeAlias = Float64[np.ndarray, "*grid"]

END_CORTEX_MM = 0.45


@dataclass(frozen=True)
class Motion:
    """A turn about the origin and then a shift, mm: how a fragment lies, against how it lay."""

    angle_rad: float = 0.0
    x_mm: float = 0.0
    y_mm: float = 0.0

    def apply(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Move points."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        return c * x - s * y + self.x_mm, s * x + c * y + self.y_mm

    def undo(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Move points back."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        x, y = x - self.x_mm, y - self.y_mm
        return c * x + s * y, -s * x + c * y

    def after(self, other: Motion) -> Motion:
        """Return the motion that does ``other`` first, then this one."""
        x, y = self.apply(np.array(other.x_mm), np.array(other.y_mm))
        return Motion(self.angle_rad + other.angle_rad, float(x), float(y))

    @staticmethod
    def about(x: float, y: float, angle_rad: float, shift_mm: tuple[float, float]) -> Motion:
        """Return the motion that turns about a point and then shifts."""
        turn = Motion(angle_rad)
        away = turn.apply(np.array(-x), np.array(-y))
        return Motion(angle_rad, float(away[0]) + x + shift_mm[0], float(away[1]) + y + shift_mm[1])


STILL = Motion()


@dataclass(frozen=True)
class Buckle:
    """A bulge of the cortex at ``at_mm`` along the axis: ``high_mm`` on one side, a share of that on the other."""

    at_mm: float
    wide_mm: float
    high_mm: float
    other_side: float


@dataclass(frozen=True)
class LongBone:
    """A long bone from ``start`` to ``end``, mm; ``shaft_mm`` and ``ends_mm`` are radii."""

    name: str
    start: tuple[float, float]
    end: tuple[float, float]
    shaft_mm: float
    ends_mm: tuple[float, float]
    cortex_mm: float
    bow_mm: float = 0.0
    notches_mm: tuple[float, float] = (0.0, 0.0)
    """How deep the ends are cleft between two condyles."""
    flat: float = 1.0
    """Depth over width."""
    physes_mm: tuple[float | None, float | None] = (None, None)
    """Distance of an open growth plate from each end."""
    buckle: Buckle | None = None
    parent: str | None = None
    tissue_mm: tuple[float, float] = (20.0, 20.0)
    """Radius of the soft tissue around it, at start and end."""

    @property
    def length_mm(self) -> float:
        """From end to end."""
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))

    def along_across(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Return how far along the axis and how far across it points are, mm."""
        dx, dy = ((b - a) / self.length_mm for a, b in zip(self.start, self.end, strict=True))
        x, y = x - self.start[0], y - self.start[1]
        along = x * dx + y * dy
        return along, y * dx - x * dy - self.bowed(along)

    def points(self, along: Field, across: Field) -> tuple[Field, Field]:
        """Return the points at distances along and across the axis, mm: ``along_across`` the other way."""
        dx, dy = ((b - a) / self.length_mm for a, b in zip(self.start, self.end, strict=True))
        across = across + self.bowed(along)
        return self.start[0] + along * dx - across * dy, self.start[1] + along * dy + across * dx

    def bowed(self, along: Field) -> Field:
        """Return how far the axis lies beside the straight line between the ends, mm."""
        x = np.clip(along / self.length_mm, 0, 1)
        return 4 * self.bow_mm * x * (1 - x)

    def radius(self, along: Field, across: Field | float = 0.0) -> Field:
        """Return the outer radius, mm; none beyond the ends."""
        radius = np.full_like(along, self.shaft_mm)
        for k, end_mm in enumerate(self.ends_mm):
            inside = along if k == 0 else self.length_mm - along
            radius += (end_mm - self.shaft_mm) * np.exp(-((np.maximum(inside, 0) / (1.9 * end_mm)) ** 2))
        for k, end_mm in enumerate(self.ends_mm):
            inside = along if k == 0 else self.length_mm - along
            inside = inside - self.notches_mm[k] * np.exp(-((np.asarray(across) / (0.35 * end_mm)) ** 2))
            cap = 0.7 * end_mm
            radius = radius * np.sqrt(np.clip(1 - (1 - np.clip(inside / cap, 0, 1)) ** 2, 0, 1)) ** 0.85
        if self.buckle is not None:
            bulge = np.exp(-(((along - self.buckle.at_mm) / self.buckle.wide_mm) ** 2))
            side = np.where(np.asarray(across) > 0, 1.0, self.buckle.other_side)
            radius = radius + self.buckle.high_mm * side * bulge * (radius > 0)
        return radius

    def chords(self, along: Field, across: Field) -> tuple[Field, Field]:
        """Return how long the ray is in the bone, and how long in its marrow, mm."""
        radius = self.radius(along, across)
        outer = np.sqrt(np.clip(radius**2 - across**2, 0, None))
        middle = np.clip(np.sin(np.pi * np.clip(along / self.length_mm, 0, 1)), 0, 1)
        cortex = END_CORTEX_MM + (self.cortex_mm - END_CORTEX_MM) * middle**1.5
        inner = np.sqrt(np.clip(np.clip(radius - cortex, 0, None) ** 2 - across**2, 0, None))
        return 2 * self.flat * outer, 2 * self.flat * inner


@dataclass(frozen=True)
class ShortBone:
    """A lump such as a carpal: its outline is an ellipse about ``centre`` with a few waves, mm."""

    name: str
    centre: tuple[float, float]
    radii_mm: tuple[float, float]
    angle_rad: float
    waves: tuple[tuple[float, float], ...] = field(default=())
    """Size and phase of two, three, ... waves around the outline."""
    flat: float = 1.0
    cortex_mm: float = 0.45
    parent: str | None = None
    tissue_mm: tuple[float, float] = (20.0, 20.0)

    def along_across(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Return points in the frame of the ellipse, mm."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        x, y = x - self.centre[0], y - self.centre[1]
        return c * x + s * y, -s * x + c * y

    def chords(self, along: Field, across: Field) -> tuple[Field, Field]:
        """Return how long the ray is in the bone, and how long in its marrow, mm."""
        along, across = along / self.radii_mm[0], across / self.radii_mm[1]
        angle = np.arctan2(across, along)
        outline = 1 + sum(size * np.cos((k + 2) * angle + phase) for k, (size, phase) in enumerate(self.waves))
        share = np.hypot(along, across) / outline
        mean = float(np.sqrt(self.radii_mm[0] * self.radii_mm[1]))
        within = max(1 - self.cortex_mm / mean, 0.1)
        # A power below a half: short bones are boxes rather than balls.
        outer = np.clip(1 - share**2, 0, None) ** 0.42
        inner = np.clip(1 - (share / within) ** 2, 0, None) ** 0.42 * within
        return 2 * self.flat * mean * outer, 2 * self.flat * mean * np.minimum(inner, outer)


Bone: TypeAlias = LongBone | ShortBone
