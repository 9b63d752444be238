"""Metal in phantom bones: plates with screws, nails and wires, in the frame of the bone they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bones.phantom_bones import Field, LongBone

METAL_PER_MM = 0.22  # titanium near 60 keV (NIST XCOM: 0.766 cm2/g at 4.5 g/cm3 is 0.35), less the beam's hardening
EDGE_MM = 0.15


@dataclass(frozen=True)
class Implant:
    """Metal over ``span_mm`` of a bone's axis; ``thick_mm`` is its radius, or half a plate's width."""

    bone: str
    kind: Literal["plate", "nail", "wire"]
    span_mm: tuple[float, float]
    thick_mm: float
    offset_mm: float
    """Of a plate beside the axis."""
    slope: float = 0.0
    """Of a wire against the axis."""
    screws_mm: tuple[float, ...] = ()
    screw_reach_mm: float = 0.0

    def crossed(self, along: Field, across: Field) -> Field:
        """Return how much metal each ray crosses, mm."""
        low, high = self.span_mm
        inside = np.clip(np.minimum(along - low, high - along) / EDGE_MM, 0, 1)
        middle = self.offset_mm + self.slope * (along - (low + high) / 2)
        beside = np.abs(across - middle)
        if self.kind != "plate":
            return 2 * inside * np.sqrt(np.clip(self.thick_mm**2 - beside**2, 0, None))
        metal = 2.5 * inside * np.clip((self.thick_mm - beside) / EDGE_MM, 0, 1)
        for at in self.screws_mm:
            head = np.clip((0.7 * self.thick_mm - np.hypot(along - at, across - self.offset_mm)) / EDGE_MM, 0, 1)
            shaft = np.sqrt(np.clip(1.5**2 - (along - at) ** 2, 0, None)) * (np.abs(across) < self.screw_reach_mm)
            metal = np.maximum(metal, np.maximum(4.5 * head, 2 * shaft))
        return metal


def draw_implant(rng: np.random.Generator, bone: LongBone) -> Implant:
    """Draw metal that suits the size of a bone."""
    middle, half = rng.uniform(0.35, 0.65) * bone.length_mm, rng.uniform(0.15, 0.32) * bone.length_mm
    span = float(middle - half), float(middle + half)
    kind = str(rng.choice(["plate", "nail", "wire"], p=[0.55, 0.2, 0.25]))
    if kind == "nail":
        return Implant(bone.name, "nail", span, 0.38 * bone.shaft_mm, 0.0)
    if kind == "wire":
        slope = float(rng.normal(0, 0.6)) * bone.shaft_mm / (span[1] - span[0])
        return Implant(bone.name, "wire", span, float(rng.uniform(0.5, 1.0)), 0.0, slope)
    wide = float(rng.uniform(0.45, 0.6)) * bone.shaft_mm
    screws = tuple(np.arange(span[0] + wide, span[1] - wide / 2, 2.6 * wide).tolist())
    side = float(rng.choice([-1, 1]) * rng.uniform(0, 0.5)) * bone.shaft_mm
    return Implant(bone.name, "plate", span, wide, side, screws_mm=screws, screw_reach_mm=1.05 * bone.shaft_mm)
