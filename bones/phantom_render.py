"""Phantom limbs onto film: what each ray crosses, and how a film shows it.

Attenuation is a line integral; a displayed radiograph is about linear in it (its logarithm is taken by the scanner),
then bent by a tone curve and sharpened. Values in 1/mm, near 60 keV (NIST XCOM: soft tissue 0.021, cortex 0.06).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from bones.phantom_bones import STILL, Bone, LongBone, Motion
from bones.phantom_breaks import Break
from shared.types import PictureArray

SOFT_PER_MM, CORTEX_PER_MM, MARROW_PER_MM = 0.021, 0.039, 0.009  # of bone: what it adds to soft tissue
DEPTHS = 13  # samples along a ray where a break is crossed
PHYSIS_MM = 1.3
EDGE_MM = 0.12  # over which a broken edge fades

Grid = Float64[np.ndarray, "y x"]


@dataclass(frozen=True)
class View:
    """The film: its size in pixels, mm a pixel, and how limbs are turned and mirrored onto it.

    ``centre`` is the limb's point in the middle of the film.
    """

    width_px: int
    height_px: int
    mm_per_px: float
    centre: tuple[float, float]
    angle_rad: float
    mirrored: bool

    def grid(self) -> tuple[Grid, Grid]:
        """Return the limb's ``x y`` mm at each pixel's centre."""
        down, right = np.mgrid[0 : self.height_px, 0 : self.width_px].astype(np.float64) + 0.5
        x = (right - self.width_px / 2) * self.mm_per_px * (-1 if self.mirrored else 1)
        y = (down - self.height_px / 2) * self.mm_per_px
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        return c * x + s * y + self.centre[0], -s * x + c * y + self.centre[1]

    def to_px(self, points_mm: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Return where points of the limb lie on the film, pixels."""
        x, y = points_mm[:, 0] - self.centre[0], points_mm[:, 1] - self.centre[1]
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        x, y = (c * x - s * y) * (-1 if self.mirrored else 1), s * x + c * y
        return np.stack([x, y], axis=1) / self.mm_per_px + (self.width_px / 2, self.height_px / 2)


@dataclass(frozen=True)
class Piece:
    """A bone or one fragment of it, and how it has moved; ``near`` is the fragment before the break."""

    bone: Bone
    motion: Motion = STILL
    broken: Break | None = None
    near: bool = True


def pieces_of(bones: Sequence[Bone], breaks: Mapping[str, Break]) -> list[Piece]:
    """Return every fragment where it lies; what hangs on a far fragment goes with it."""
    motions: dict[str, Motion] = {}
    pieces = []
    for bone in sorted(bones, key=lambda bone: bone.parent is not None):  # parents stand before their children
        motion = motions.get(bone.parent or "", STILL)
        one = breaks.get(bone.name)
        carried = motion if one is None else motion.after(one.motion)
        motions[bone.name] = carried
        if one is None or one.kind == "buckle":
            pieces.append(Piece(bone, motion))
        else:
            pieces += [Piece(bone, motion, one, True), Piece(bone, carried, one, False)]
    return pieces


def seen(piece: Piece, x: Grid, y: Grid, texture: Texture) -> tuple[tuple[slice, slice], Grid, Bool[np.ndarray, "y x"]]:
    """Return the window a piece lies in, what it adds to the line integral there, and where it is hit."""
    bone = piece.bone
    along, across = bone.along_across(*piece.motion.undo(x, y))
    window = _window(bone, along, across)
    along, across = along[window], across[window]
    outer, inner = bone.chords(along, across)
    share = np.ones_like(along)
    if piece.broken is not None and isinstance(bone, LongBone):
        share = _kept(bone, piece.broken, piece.near, along, across, outer)
    if isinstance(bone, LongBone):
        share = share * _physes(bone, along)
    grain = texture.at(along, across)
    added = share * (CORTEX_PER_MM * (outer - inner) * (1 + 0.15 * grain) + MARROW_PER_MM * inner * (1 + grain))
    return window, added, (outer > 0) & (share > 0.02)


def _window(bone: Bone, along: Grid, across: Grid) -> tuple[slice, slice]:
    """Return the rows and columns that a bone may touch."""
    if isinstance(bone, LongBone):
        wide = 1.3 * max(bone.shaft_mm, *bone.ends_mm)
        near = (along > -1) & (along < bone.length_mm + 1) & (np.abs(across) < wide)
    else:
        near = np.maximum(np.abs(along) / bone.radii_mm[0], np.abs(across) / bone.radii_mm[1]) < 1.4
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _kept(bone: LongBone, one: Break, near: bool, along: Grid, across: Grid, outer: Grid) -> Grid:
    """Return the share of each ray's bone that is on this fragment's side of the break."""
    reach = one.reach_mm(2 * max(bone.shaft_mm, float(bone.radius(np.array(one.at_mm)))))
    away = along - one.at_mm if near else one.at_mm - along
    kept = (away < -reach).astype(np.float64)
    close = np.abs(away) <= reach
    if close.any():
        half = outer[close] / 2
        shares = (np.arange(DEPTHS) + 0.5) / DEPTHS * 2 - 1
        side = 1.0 if near else -1.0
        total = np.zeros(half.shape)
        for share in shares:
            edge = one.surface(across[close], share * half) - side * one.gap_mm / 2
            total += np.clip(0.5 + side * (edge - along[close]) / (2 * EDGE_MM), 0, 1)
        kept[close] = total / DEPTHS
    return kept


def _physes(bone: LongBone, along: Grid) -> Grid:
    """Return what an open growth plate leaves of a ray: little at its height."""
    left = np.ones_like(along)
    for k, far in enumerate(bone.physes_mm):
        if far is not None:
            inside = along if k == 0 else bone.length_mm - along
            left -= 0.75 * np.exp(-(((inside - far) / (PHYSIS_MM / 2)) ** 2))
    return left


class Texture:
    """The grain of spongy bone: noise drawn out along the axis, looked up in the frame of each bone."""

    SIDE, PER_MM = 256, 3.5

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        white = rng.standard_normal((2, self.SIDE, self.SIDE))
        fine = ndimage.gaussian_filter(white[0], (3.0, 0.8), mode="wrap")
        coarse = ndimage.gaussian_filter(white[1], (16, 7), mode="wrap")
        self._table = strength * (fine / fine.std() + 0.4 * coarse / coarse.std())
        self._shift = rng.uniform(0, self.SIDE, (64, 2))
        self._drawn = 0

    def at(self, along: Grid, across: Grid) -> Grid:
        """Return the grain at points of one bone; the next bone's is another."""
        self._drawn = (self._drawn + 1) % len(self._shift)
        shift = self._shift[self._drawn]
        points = np.stack([along * self.PER_MM + shift[0], across * self.PER_MM + shift[1]])
        grain: Grid = ndimage.map_coordinates(self._table, points, order=1, mode="grid-wrap")
        limited: Grid = np.clip(grain, -0.8, 0.8)
        return limited


def soft_tissue(pieces: Sequence[Piece], x: Grid, y: Grid, depth_scale: float) -> Grid:
    """Return how much soft tissue each ray crosses, mm: round flesh about every bone, run together smoothly."""
    chords: dict[str, Grid] = {}
    for piece in pieces:
        bone = piece.bone
        px, py = piece.motion.undo(x, y)
        if isinstance(bone, LongBone):
            along, _ = bone.along_across(px, py)
            along = np.clip(along, *_flesh_span(bone, piece))
            bx, by = bone.points(along, np.zeros_like(along))
            share = along / bone.length_mm
            radius = bone.tissue_mm[0] + (bone.tissue_mm[1] - bone.tissue_mm[0]) * share
        else:
            bx, by = (np.full_like(x, value) for value in bone.centre)
            radius = np.full_like(x, bone.tissue_mm[0])
        chord = np.sqrt(np.clip(radius**2 - (px - bx) ** 2 - (py - by) ** 2, 0, None))
        # The larger of two fragments', not both: flesh that swelled at each break would tell where it is.
        chords[bone.name] = np.maximum(chord, chords.get(bone.name, 0.0))
    total: Grid = np.sum([chord**4 for chord in chords.values()], axis=0)
    return np.asarray(2 * depth_scale * total**0.25)


def _flesh_span(bone: LongBone, piece: Piece) -> tuple[float, float]:
    if piece.broken is None:
        return 0.0, bone.length_mm
    return (0.0, piece.broken.at_mm) if piece.near else (piece.broken.at_mm, bone.length_mm)


@dataclass(frozen=True)
class Look:
    """How a film shows line integrals; drawn anew for each phantom."""

    white_share: float
    gamma: float
    toe: float
    base: float
    noise: float
    compress: float
    sharpen: float
    blur_px: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Look:
        """Draw the look of a film."""
        return Look(
            white_share=float(rng.uniform(0.85, 1.1)), gamma=float(rng.uniform(0.85, 1.7)),
            toe=float(rng.uniform(0.0, 0.15)), base=float(rng.choice([0.0, rng.uniform(0, 0.12)])),
            noise=float(rng.uniform(0.002, 0.016)), compress=float(rng.uniform(-0.05, 0.4)),
            sharpen=float(rng.uniform(0.2, 1.2)),
            blur_px=float(rng.uniform(0.35, 0.9)),
        )  # fmt: skip


def develop(line: Grid, look: Look, rng: np.random.Generator, lit: Bool[np.ndarray, "y x"]) -> PictureArray:
    """Turn line integrals into a picture in 0..1, bone bright; ``lit`` is where the beam was."""
    size = max(line.shape)
    line = ndimage.gaussian_filter(line, look.blur_px)
    # Quantum noise grows where little comes through; the logarithm makes it additive.
    noise = rng.standard_normal(line.shape) * np.exp(np.clip(line, 0, 6) / 2.6)
    line = line + look.noise * ndimage.gaussian_filter(noise, 0.5) / 0.5
    line = line - look.compress * ndimage.gaussian_filter(line, 0.05 * size)  # below 0: scatter
    line = line + look.sharpen * (line - ndimage.gaussian_filter(line, 0.02 * size)) * 0.5
    white = float(np.percentile(line[lit], 99.6)) if lit.any() else 1.0
    shown = np.clip((line / max(white * look.white_share, 0.2) - look.toe) / (1 - look.toe), 0, 1) ** look.gamma
    return np.asarray(look.base + (1 - look.base) * shown, np.float32)
