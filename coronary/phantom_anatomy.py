"""The phantom's chest: analytic signed distances of heart, great vessels, lungs, bones and wall.

Everything lives in heart coordinates: RAS millimetres about the middle of an average heart. ``Pose`` carries these to
the scene (scaled, turned, moved and gently warped), so one seed gives one scene, whatever grid it is later sampled on.
Distances are negative inside. They are exact for capsules and first-order for ellipsoids, which is enough: only the
coronary arteries need sub-voxel truth, and they are drawn apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 on a lattice, float64 along an artery
Sdf = Array

AORTIC_WALL_MM = 1.2

AIRWAYS = (
    ([[3, -28, 150], [3, -36, 78], [42, -42, 48], [62, -52, 20]], [8.0, 8.0, 6.0, 3.0]),
    ([[3, -36, 78], [-36, -50, 44], [-50, -58, 20]], [7.5, 5.5, 3.0]),
)

# The long axis of the left ventricle, base to apex: left, forwards, down.
LV_AXIS = np.array([-0.67, 0.61, -0.43]) / np.linalg.norm([-0.67, 0.61, -0.43])


def ellipsoid(p: Array, centre: tuple[float, ...], semi_mm: tuple[float, ...], axes: NDArray[Any] | None = None) -> Sdf:
    """First-order distance to an ellipsoid whose axes are the rows of ``axes`` (RAS when None)."""
    q = p - np.asarray(centre, np.float32)
    if axes is not None:
        q = q @ np.asarray(axes, np.float32).T
    semi = np.asarray(semi_mm, np.float32)
    scaled = q / semi
    k0 = np.sqrt(np.einsum("...i,...i", scaled, scaled))
    scaled /= semi
    k1 = np.sqrt(np.einsum("...i,...i", scaled, scaled))
    distance: Sdf = k0 * (k0 - 1) / np.maximum(k1, 1e-6)
    return distance


def capsule_path(p: Array, points: NDArray[Any], radii_mm: NDArray[Any]) -> Sdf:
    """Distance to a polyline swept by a ball whose radius varies linearly along each piece."""
    points, radii = np.asarray(points, np.float32), np.asarray(radii_mm, np.float32)
    if p.size < 12000:  # all pieces at once
        a, ab = points[:-1], np.diff(points, axis=0)
        q = p[..., None, :] - a
        t = np.clip(np.einsum("...ij,ij->...i", q, ab) / np.einsum("ij,ij->i", ab, ab), 0, 1)
        q -= t[..., None] * ab
        distance: Sdf = np.sqrt(np.einsum("...i,...i", q, q)) - (radii[:-1] + t * np.diff(radii))
        nearest: Sdf = distance.min(-1)
        return nearest
    best = np.full(p.shape[:-1], 1e3, np.float32)
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        ab, q = b - a, p - a
        t = np.clip(q @ (ab / (ab @ ab)), 0, 1)
        q -= t[..., None] * ab
        best = np.minimum(best, np.sqrt(np.einsum("...i,...i", q, q)) - (ra + t * (rb - ra)))
    return best


def smooth_union(a: Sdf, b: Sdf, k_mm: float) -> Sdf:
    """Union with a fillet of about ``k_mm`` (polynomial smooth minimum)."""
    h = np.maximum(k_mm - np.abs(a - b), 0) / k_mm
    union: Sdf = np.minimum(a, b) - h * h * (k_mm / 4)
    return union


def smooth_path(points: Sequence[Sequence[Any]] | Array, step_mm: float = 3.0) -> NDArray[Any]:
    """A Catmull-Rom curve through control points, sampled about every ``step_mm``."""
    points = np.asarray(points, float)
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    pieces = []
    for p0, p1, p2, p3 in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        t = np.linspace(0, 1, max(2, int(np.linalg.norm((p2 - p1)[:3]) / step_mm) + 1), endpoint=False)[:, None]
        pieces.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    return np.vstack([*pieces, points[-1:]])


@dataclass(frozen=True)
class Pose:
    """Where the heart lies in the scene: scale, rotation, shift and a smooth warp of a few mm."""

    scale: float
    rotation: NDArray[Any]
    shift_mm: NDArray[Any]
    wave: NDArray[Any]  # (k, 3) wave vectors, rad per mm
    phase: NDArray[Any]  # (k, 3)
    amplitude_mm: NDArray[Any]  # (k, 3)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Pose:
        """Draw a pose: scale 0.92-1.1, turns to 8 degrees, shifts to 5 mm, waves 70-160 mm long of up to 1.5 mm."""
        from scipy.spatial.transform import Rotation

        count = 5
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return cls(
            scale=rng.uniform(0.92, 1.1),
            rotation=Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix(),
            shift_mm=rng.uniform(-5, 5, 3),
            wave=direction * (2 * np.pi / rng.uniform(70, 160, (count, 1))),
            phase=rng.uniform(0, 2 * np.pi, (count, 3)),
            amplitude_mm=rng.uniform(-1.5, 1.5, (count, 3)),
        )

    def _warp(self, p: NDArray[Any]) -> NDArray[Any]:
        moved = np.zeros_like(p)
        for wave, phase, amplitude in zip(self.wave, self.phase, self.amplitude_mm, strict=True):
            along = p @ wave.astype(p.dtype)
            moved += np.sin(along[..., None] + phase.astype(p.dtype)) * amplitude.astype(p.dtype)
        return moved

    def to_heart(self, p: NDArray[Any]) -> NDArray[Any]:
        """Scene mm to heart mm."""
        q: NDArray[Any] = (p - self.shift_mm.astype(p.dtype)) @ (self.rotation / self.scale).astype(p.dtype)
        q += self._warp(q)
        return q

    def to_scene(self, q: NDArray[Any]) -> NDArray[Any]:
        """Heart mm to scene mm: inverts ``to_heart`` by fixed-point iteration (the warp's slope is far below 1)."""
        base = np.asarray(q, float)
        p = base.copy()
        for _ in range(12):
            p = base - self._warp(p)
        scene: NDArray[Any] = self.scale * p @ self.rotation.T + self.shift_mm
        return scene


class Anatomy:
    """One person's chest, drawn from ``rng``; all methods take points (..., 3) in heart mm."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._size = {name: rng.uniform(0.92, 1.1) for name in ("la", "lv", "ra", "rv", "aorta", "pa", "wall", "fat")}
        self._lung = rng.uniform(-6, 6, 4)
        self.root_mm = np.array([13.0, 6.0, 15.0])  # centre of the aortic sinuses
        ao = self._size["aorta"]
        self.aorta_line = smooth_path(
            [
                [4, 2, -2, 10], [11, 5, 6, 12], [13, 6, 15, 16.5 * ao], [16, 7, 26, 14.5 * ao], [21, 8, 42, 15.5 * ao],
                [20, 2, 62, 15 * ao], [5, -24, 80, 13.5 * ao], [-14, -48, 72, 12.5 * ao], [-24, -62, 45, 12 * ao],
                [-25, -64, 0, 11.5 * ao], [-20, -62, -60, 11 * ao], [-8, -58, -170, 10.5 * ao],
            ], 6.0,
        )  # fmt: skip
        pa = self._size["pa"]
        self._trunk = smooth_path(
            [
                [-1, 29, 2, 12], [-8, 27, 20, 13.5 * pa], [-12, 13, 36, 13.5 * pa], [-12, -10, 47, 12 * pa],
                [-30, -34, 50, 10 * pa], [-52, -48, 40, 7],
            ], 6.0,
        )  # fmt: skip
        self._right_pa = smooth_path(
            [[-10, -10, 46, 11 * pa], [18, -22, 46, 10 * pa], [50, -32, 42, 8], [66, -38, 36, 6]], 6.0
        )
        self._cavae = [smooth_path([[42, 2, 10, 9], [41, -3, 40, 9], [36, -2, 100, 8]], 8.0),
                       smooth_path([[36, -12, -22, 11], [32, -22, -45, 11], [24, -30, -90, 11]], 8.0)]  # fmt: skip
        self._pulmonary_veins = [
            smooth_path([[14, -32, 8, 9], *ends], 5.0)
            for ends in (
                [[44, -38, 16, 7], [70, -44, 24, 5]],
                [[42, -42, -2, 7], [68, -56, -12, 5]],
                [[-10, -38, 18, 7], [-42, -46, 28, 5]],
                [[-10, -42, 2, 6.5], [-44, -60, -8, 5]],
            )
        ]
        side = np.cross(LV_AXIS, [0.0, 0.0, 1.0])
        side /= np.linalg.norm(side)
        self._lv_frame = np.stack([LV_AXIS, side, np.cross(LV_AXIS, side)])

    def heart(self, p: Array, roots_only: bool = False) -> dict[str, Sdf]:
        """Blood pools and outer walls of the chambers and great vessels, by name.

        ``roots_only`` leaves out the great vessels far from the heart: quicker, for points near its surface.
        """
        s = self._size
        wall = 9.5 * s["wall"]
        lv_centre = (-21.0, 1.0, -9.0)
        lv_out = ellipsoid(p, (-24, 3.5, -11), (44 * s["lv"], 31 * s["lv"], 31 * s["lv"]), self._lv_frame)
        lv = ellipsoid(p, lv_centre, (38 * s["lv"], 31 * s["lv"] - wall, 31 * s["lv"] - wall), self._lv_frame)
        base = 26.0 * s["lv"] + (p - np.array([-24, 3.5, -10], np.float32)) @ LV_AXIS.astype(
            np.float32
        )  # above 0: ventricle
        lv_out, lv = -smooth_union(-lv_out, base, 12), np.maximum(lv, -base)
        lines: tuple[Array, ...] = (self.aorta_line, self._trunk, self._right_pa)
        if roots_only:
            lines = tuple(line[: np.argmax((line[:, 2] > 52) | (line[:, 1] < -22)) + 1] for line in lines)
        aorta, pa, right_pa = (capsule_path(p, line[:, :3], line[:, 3]) for line in lines)
        pa = smooth_union(pa, right_pa, 5)
        la = ellipsoid(p, (17, -31, 8), (29 * s["la"], 20 * s["la"], 24 * s["la"]))
        appendage = capsule_path(
            p, np.array([[2.0, -24, 17], [-20, -16, 26], [-29, -3, 26]]), np.array([9.0, 8.0, 6.0])
        )
        ra = ellipsoid(p, (43, 4, -6), (21 * s["ra"], 25 * s["ra"], 31 * s["ra"]))
        rv = ellipsoid(p, (3, 22, -19), (29 * s["rv"], 21 * s["rv"], 26 * s["rv"]))
        rv = smooth_union(rv, capsule_path(p, np.array([[3, 24, -14], [-1, 29, 4]]), np.array([15.0, 12.0])), 10)
        rv = np.maximum(rv, -(lv_out - 1.0))  # the septum is the left ventricle's wall
        gap = -np.minimum(aorta, np.minimum(lv_out, pa)) + 2.0
        la, ra = np.maximum(la, gap), np.maximum(ra, np.maximum(gap, 2.0 - la))
        rv = np.maximum(rv, np.maximum(2.5 - aorta, 2.0 - ra))
        # Mitral inflow and the outflow tract open into the ventricle; the valves themselves are too thin to matter.
        lv = np.minimum(lv, capsule_path(p, np.array([[8, -16, 2], [-12, -5, -4]]), np.array([14.0, 15.0])))
        crux = capsule_path(p, np.array([[13.0, -4, -1], [16, -8, -21]]), np.array([9.0, 8.0]))  # where the septa meet
        return {
            "crux": crux,
            "lv": lv,
            "lv_out": lv_out,
            "la": la,
            "ra": ra,
            "rv": rv,
            "aorta": aorta,
            "pa": pa,
            "appendage": np.maximum(appendage, gap),
        }

    def epicardium(self, heart: dict[str, Sdf]) -> Sdf:
        """Outer surface of the muscle: smooth union of chambers, with valleys at the grooves."""
        surface = smooth_union(heart["lv_out"], heart["rv"] - 3.0, 7)
        atria = smooth_union(smooth_union(heart["la"] - 2.0, heart["ra"] - 2.0, 7), heart["crux"], 7)
        return smooth_union(surface, atria, 7)

    def obstacles(self, p: Array) -> Sdf:
        """Distance to what a coronary artery runs around: epicardium, aorta and pulmonary trunk (not the appendage).

        The fat-filled gap between trunk and left ventricle counts as solid: the LAD rounds the trunk outside it.
        """
        heart = self.heart(p, roots_only=True)
        gap = capsule_path(p, np.array([[-8.0, 12, 19], [-20, 15, 14]]), np.array([6.0, 6.0]))
        vessels = np.minimum(heart["aorta"] - AORTIC_WALL_MM, heart["pa"] - 1.0)
        solid = np.minimum(self.epicardium(heart), heart["lv"] - 2.0)  # the inflow lies between the chambers
        return np.minimum(solid, np.minimum(vessels, gap))

    def clearance(self, p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Distance of points (n, 3) to the obstacles, and the unit direction away from them (n, 3)."""
        h = 0.5
        offsets = np.vstack([np.zeros(3), h * np.eye(3), -h * np.eye(3)])
        f = self.obstacles((p[:, None] + offsets).astype(np.float32)).astype(np.float64)
        gradient = f[:, 1:4] - f[:, 4:]
        return f[:, 0], gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)

    def aorta(self, p: Array) -> Sdf:
        """Distance to the aortic lumen."""
        return capsule_path(p, self.aorta_line[:, :3], self.aorta_line[:, 3])

    def structures(self, p: Array, texture: Callable[[float, int], Array]) -> dict[str, Sdf]:
        """Every structure, later ones painted over earlier; ``texture(pitch_mm, k)`` is noise of unit size."""
        x, y, z = p[..., 0], p[..., 1], p[..., 2]
        heart = self.heart(p)
        epicardium = self.epicardium(heart)
        rough = texture(9.0, 0)
        great = np.minimum(heart["aorta"], heart["pa"]) - 1
        sac = smooth_union(epicardium, great, 22) - (1.0 + 3.0 * self._size["fat"] + 1.2 * texture(24.0, 1))
        cage = ellipsoid(p, (3, -30, -10), (126, 84, 1e4)) + 1.5 * texture(24.0, 2)
        body = ellipsoid(p, (3, -31, -10), (166, 110, 1e4)) + 3 * texture(24.0, 3)
        right_dome = (z + 30 + 0.004 * ((x - 55) ** 2 + (y + 5) ** 2)) * 0.8
        left_dome = (z + 42 + 0.005 * ((x + 60) ** 2 + (y + 5) ** 2)) * 0.8
        diaphragm = smooth_union(right_dome, left_dome, 10) + 1.5 * texture(24.0, 4)
        # What parts the lungs: spine and aorta behind, the sac's edges in front, great vessels above.
        middle = np.minimum(np.hypot((x - 2) / 1.3, (y + 58) / 1.1) - 24, np.hypot(x - 5, (y - 35) / 3.0) - 7)
        middle = smooth_union(middle, np.hypot((x - 4) / 1.6, y + 15) - 24 - 0.2 * (20 - z), 12)
        lung = np.maximum(np.maximum(cage + 3, -sac), np.maximum(-middle, 6 - diaphragm))
        for vein in self._pulmonary_veins:
            heart["la"] = smooth_union(heart["la"], capsule_path(p, vein[:, :3], vein[:, 3]), 5)
        for cava in self._cavae:
            heart["ra"] = smooth_union(heart["ra"], capsule_path(p, cava[:, :3], cava[:, 3]), 6)
        fine = texture(5.0, 4)
        lv = np.maximum(heart["lv"] + 1.3 * rough + 1.1 * fine, -self._papillaries(p))
        left = np.minimum(np.minimum(lv, smooth_union(heart["la"], heart["appendage"] + 0.8 * fine, 5)), heart["aorta"])
        walls = np.minimum(epicardium, np.minimum(heart["aorta"] - AORTIC_WALL_MM, heart["pa"] - 1.0))
        walls = np.minimum(walls, np.minimum(heart["la"], heart["ra"]) - 1.5)
        bones = self._bones(p, cage)
        airway = np.minimum(*(capsule_path(p, np.array(way), np.array(radii)) for way, radii in AIRWAYS))
        return {
            "table": np.maximum(np.abs(y + 160 - x * x / 900) - 2.5, np.abs(x) - 210),
            "skin": body,
            "fat": body + 1.8,
            "muscle": np.maximum(np.abs(cage - 6) - 6 + 3.0 * rough, body + 6),
            "mediastinum": cage,
            "abdomen": np.maximum(diaphragm, cage),
            "lung": lung,
            "pericardium": np.abs(sac) - 0.7,
            "oesophagus": np.hypot(x - 2, (y + 50) * 1.4) - 7,
            "airway_wall": airway - 1.3,
            "airway": airway,
            "muscle_of_heart": walls,
            "right_atrium": heart["ra"],
            "right_ventricle": heart["rv"] + 1.3 * rough + 1.2 * fine,
            "pulmonary_artery": heart["pa"],
            "left_heart": left,
            "bone": bones,
            "marrow": bones + 1.6,
            "canal": np.hypot(x - 4, y + 106) - 8,
        }

    def _papillaries(self, p: Array) -> Sdf:
        """The two muscles that stand in the left ventricle."""
        axis, u, v = self._lv_frame
        centre = np.array([-21.0, 1, -9])
        pair = [
            capsule_path(p, np.stack([centre + 22 * axis + 14 * w, centre - 2 * axis + 11 * w]), np.array([5.0, 3.0]))
            for w in (0.8 * u + 0.6 * v, 0.5 * u - 0.85 * v)
        ]
        return np.minimum(*pair)

    def _bones(self, p: Array, cage: Sdf) -> Sdf:
        x, y, z = p[..., 0], p[..., 1], p[..., 2]
        # Ribs slope down towards the front and come every 28 mm; their front ends are cartilage, left out here.
        slope = z + 0.45 * (y + 22)
        ribs = np.hypot((cage - 5) / 3.2, ((slope + 14) % 28 - 14) / 6.0) * 3.2 - 3.2
        ribs = np.maximum(ribs, np.maximum(y - 42, 22 - np.abs(x - 4)))
        flat = np.stack([np.maximum(np.abs(x - 3) - 13, 0), np.maximum(np.abs(y - 57 + 0.06 * (z - 40)) - 2, 0)])
        sternum = np.maximum(np.hypot(*flat) - 3.5 - 0.02 * (z - 20), np.abs(z - 40) - 80)
        disc = (z + 4) % 26 - 13
        body = np.maximum(np.hypot((x - 4) / 18, (y + 82) / 15) * 15 - 15, np.abs(disc) - 10.5)
        arch = np.maximum(np.abs(np.hypot(x - 4, y + 106) - 11) - 3, np.abs(disc + 4) - 8)
        spine = np.minimum(
            body,
            np.minimum(arch, np.maximum(np.abs(x - 4) - 3.5, np.maximum(np.abs(y + 128) - 14, np.abs(disc + 8) - 7))),
        )
        bones: Sdf = np.minimum(np.minimum(ribs, sternum), spine)
        return bones
