"""The phantom's coronary tree: routes on the heart's surface, with the winding and calibre of real arteries.

Main arteries follow the atrioventricular and interventricular grooves of the analytic heart; side branches leave them
by Murray's law. How a real one winds about its smooth course, and how its radius varies about its taper, comes from the
centrelines in ``data/samples/narco119``; so no two seeds share a course, yet each bends as vessels bend.
All lengths here are heart mm (see ``phantom_anatomy.Pose``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from coronary.phantom_anatomy import AORTIC_WALL_MM, LV_AXIS, Anatomy, smooth_path
from shared.errors import SetupError

Array = NDArray[np.float64]
Tree = Literal["LCA", "RCA"]

STEP_MM = 0.5
FAT_MM = 0.8  # between an artery's lumen and the muscle
AV_MM = np.array([8.0, -2.0, -3.0])  # middle of the atrioventricular plane
IV_MM = np.array([-13.0, 8.0, -11.0])  # middle of the septum's plane
SEPTUM = np.array([0.73, 0.61, -0.3]) / np.linalg.norm([0.73, 0.61, -0.3])  # its normal, from left to right ventricle
SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "narco119"


@dataclass(frozen=True)
class Centreline:
    """One branch from its take-off to its tip: ``points_mm`` (n, 3) RAS, lumen ``radius_mm`` (n,), ``parent`` an index.

    ``name`` is the tree ("LCA" or "RCA"), ``branch`` the artery. ``wall_radius_mm`` is the healthy radius: where plaque
    narrows the lumen it is larger than ``radius_mm``.
    """

    name: Tree
    points_mm: Array
    radius_mm: Array
    parent: int | None
    branch: str
    wall_radius_mm: Array


@cache
def real_windings() -> tuple[Array, ...]:
    """Winding and calibre of real branches: arrays (n, 3) every 0.5 mm of two sideways shifts (mm) and radius/taper.

    Raises:
        SetupError: the shipped centrelines are not beside the package (an installation without the checkout's data).
    """
    windings = []
    for tree in ("lca", "rca"):
        path = SAMPLES / f"{tree}.csv"
        if not path.is_file():
            raise SetupError(
                f"{path}: the phantom's sample centrelines are missing; run from a checkout of the repository"
            )
        table = np.loadtxt(path, delimiter=",", skiprows=1)
        for k in np.unique(table[:, 0]):
            branch = table[table[:, 0] == k, 1:]
            if len(branch) < 80:
                continue
            branch = resample(branch, STEP_MM)[10:]
            course = gaussian_filter1d(branch, 16 / STEP_MM, axis=0, mode="nearest")
            tangent = unit(np.gradient(course[:, :3], axis=0))
            side = unit(np.cross(tangent, [0.3, 0.4, 0.87]))
            shift = branch[:, :3] - course[:, :3]
            up = np.cross(tangent, side)
            ratio = gaussian_filter1d(branch[:, 3], 1.0 / STEP_MM) / course[:, 3]
            windings.append(np.stack([(shift * side).sum(1), (shift * up).sum(1), np.clip(ratio, 0.75, 1.3)], 1))
    return tuple(windings)


def unit(v: Array) -> Array:
    """Vectors of length one."""
    directions: Array = v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
    return directions


def resample(points: Array, step_mm: float) -> Array:
    """A polyline (n, 3 or more) at even steps of its first three columns."""
    s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points[:, :3], axis=0), axis=1))])
    at = np.linspace(0, s[-1], max(3, round(s[-1] / step_mm) + 1))
    return np.stack([np.interp(at, s, column) for column in points.T], 1)


def _first_crossing(anatomy: Anatomy, origin: Array, directions: Array, offset_mm: float) -> Array:
    """How far along each ray (..., 3) the heart's surface lies, found from outside inwards."""
    t = np.arange(75.0, 4.0, -2.0)
    p = origin + directions[..., None, :] * t[:, None]
    f = anatomy.epicardium(anatomy.heart(p.astype(np.float32), roots_only=True)) - offset_mm
    k = np.maximum(np.argmax(f < 0, axis=-1), 1)[..., None]
    f0, f1 = np.take_along_axis(f, k - 1, -1)[..., 0], np.take_along_axis(f, k, -1)[..., 0]
    far: Array = t[k[..., 0] - 1] - 2.0 * np.clip(f0 / np.maximum(f0 - f1, 1e-6), 0, 1)
    return far


def groove(
    anatomy: Anatomy,
    origin: Array,
    start: Array,
    end: Array,
    degrees: tuple[float, float],
    search_deg: float = 14,
) -> Array:
    """The deepest course near the plane of ``start`` and ``end``, over angles in degrees from start towards end."""
    normal = unit(np.cross(start, end))
    start, end = unit(start), unit(np.cross(normal, unit(start)))
    angle = np.radians(np.arange(degrees[0], degrees[1], 2.0 if degrees[1] > degrees[0] else -2.0))
    ray = np.cos(angle)[:, None] * start + np.sin(angle)[:, None] * end
    tilt = np.radians(np.arange(-search_deg, search_deg + 1, 3.5))
    rays = np.cos(tilt)[:, None] * ray[:, None] + np.sin(tilt)[:, None] * normal
    far = _first_crossing(anatomy, origin, rays, 2.0)
    depth = gaussian_filter1d(far + 12 * tilt**2, 3, axis=0, mode="nearest")
    best = gaussian_filter1d(tilt[np.argmin(depth, axis=1)], 5, mode="nearest")[:, None]
    ray = np.cos(best) * ray + np.sin(best) * normal
    course: Array = (
        origin + ray * gaussian_filter1d(_first_crossing(anatomy, origin, ray, 2.0), 2, mode="nearest")[:, None]
    )
    return course


def settle(anatomy: Anatomy, path: Array, clear_mm: Array, pull: float = 0.25) -> Array:
    """Moves a path to its clearance from muscle and great vessels, and smooths it; its start stays.

    Too near is always mended, too far by ``pull``.
    """
    start = path[0]
    for _ in range(10):
        distance, normal = anatomy.clearance(path)
        error = clear_mm - distance
        move = np.where(error > 0, error, pull * error)[:, None] * normal
        path = path + np.clip(gaussian_filter1d(move, 2, axis=0, mode="nearest"), -1.5, 1.5)
        path[1:-1] = gaussian_filter1d(path, 1.5, axis=0, mode="nearest")[1:-1]
        hold = np.exp(-np.arange(len(path)) * STEP_MM / 2.0)[:, None]
        path = resample(path + hold * (start - path[0]), STEP_MM)
        clear_mm = stretch(clear_mm, len(path))
    return path


def stretch(values: Array, length: int) -> Array:
    """The same course of values over another number of points."""
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(values)), values)


def wind(path: Array, anatomy: Anatomy, rng: np.random.Generator, amount: float) -> tuple[Array, Array]:
    """Gives a smooth path the winding of a real artery, faded in from its start; also returns radius over taper."""
    real = real_windings()[rng.integers(len(real_windings()))]
    real = real[::-1] if rng.random() < 0.5 else real
    while len(real) < len(path):
        real = np.concatenate([real, real[::-1]])
    real = real[: len(path)]
    fade = np.minimum(np.arange(len(path)) * STEP_MM / 8, 1)
    shift = real[:, :2] * rng.choice([-1, 1], 2) * (amount * fade)[:, None]
    _, normal = anatomy.clearance(path)
    side = unit(np.cross(np.gradient(path, axis=0), normal))
    return path + shift[:, :1] * side + 0.35 * shift[:, 1:] * normal, 1 + (real[:, 2] - 1) * 0.7 * fade


def march(anatomy: Anatomy, start: Array, heading: Array, target: Array, length_mm: float, clear_mm: float) -> Array:
    """Walks over the heart from ``start``, turning slowly from ``heading`` towards ``target``."""
    path, p, heading = [start], start, unit(heading)
    for _ in range(int(length_mm)):
        distance, normal = anatomy.clearance(p[None])
        heading = unit(heading + 0.07 * unit(target - p))
        heading = unit(heading - (heading @ normal[0]) * normal[0])
        p = p + heading + np.clip(clear_mm - distance[0], -0.5, 0.5) * normal[0]
        path.append(p)
        if np.linalg.norm(target - p) < 8:
            break
    return np.array(path)


def taper(length: int, start_mm: float, end_mm: float) -> Array:
    """A radius that falls from ``start_mm`` to ``end_mm``, fastest near the tip."""
    t = np.linspace(0, 1, length)
    return end_mm + (start_mm - end_mm) * (1 - t) ** 0.6


class Grower:
    """Grows one tree on one heart; ``grow`` is the way in."""

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.anatomy, self.rng = anatomy, rng
        self.lines: list[Centreline] = []
        self.up = unit(np.array([0, 0, 1.0]) - LV_AXIS * LV_AXIS[2])
        self.left = np.cross(LV_AXIS, self.up)
        if self.left[0] > 0:
            self.left = -self.left
        self.inferior = unit(np.cross(LV_AXIS, SEPTUM))
        self.apex_mm = IV_MM + 45 * LV_AXIS

    def add(self, name: Tree, branch: str, way: Array, radii_mm: tuple[float, float], parent: int | None) -> int:
        """Turns control points into a branch that clears the heart, winds and tapers; returns its index."""
        path = resample(smooth_path(way, 1.0), STEP_MM)
        radius = taper(len(path), *radii_mm)
        clear = radius + FAT_MM
        if parent is None:  # an ostium: from just outside the aortic lumen to full clearance
            clear = np.interp(np.arange(len(path)) * STEP_MM, [0, 7], [0.3 - AORTIC_WALL_MM, 1]) * np.maximum(clear, 1)
        path = settle(self.anatomy, path, clear)
        path, ratio = wind(path, self.anatomy, self.rng, self.rng.uniform(0.6, 1.4))
        path = settle(self.anatomy, path, stretch(clear, len(path)), pull=0.03)
        radius = np.clip(taper(len(path), *radii_mm) * stretch(ratio, len(path)), 0.45, 2.6)
        self.lines.append(Centreline(name, path, radius, parent, branch, radius.copy()))
        return len(self.lines) - 1

    def groove(self, origin: Array, start: Array, end: Array, degrees: tuple[float, float]) -> Array:
        """Control points every 8 degrees along a groove, from where it comes out from behind the great vessels."""
        way = groove(self.anatomy, origin, start, end, degrees)
        free = self.anatomy.obstacles(way.astype(np.float32)) > 1.6
        hidden = np.flatnonzero(~free[: len(way) // 2])
        return way[hidden[-1] + 1 if len(hidden) else 0 :][::4]

    def left_tree(self, right_dominant: bool) -> None:
        """Left main, LAD and LCx."""
        jitter = self.rng.uniform
        ostium, out = _ostium(self.anatomy, jitter(1, 5), np.array([-1.0, jitter(-0.35, 0.05), jitter(-0.1, 0.15)]))
        lad_way = self.groove(IV_MM, -LV_AXIS, -self.inferior, (jitter(60, 68), jitter(165, 210)))
        lcx_end = jitter(105, 145) if right_dominant else jitter(150, 168)
        lcx_way = self.groove(AV_MM, self.up, self.left, (jitter(58, 66), lcx_end))
        r_main = jitter(1.9, 2.5)
        share = jitter(0.45, 0.62)  # Murray's law: the LAD's share of the left main's cubed radius
        fork = ostium + jitter(9, 15) * unit(np.array([-1, jitter(-0.1, 0.3), 0.25]))
        main = self.add("LCA", "LM", np.vstack([ostium, ostium + 3 * out, fork]), (r_main, 0.95 * r_main), None)
        end = self.lines[main].points_mm[-1]
        ahead = 3 * unit(end - self.lines[main].points_mm[-8])
        lad_way = lad_way[np.argmax((lad_way - end) @ [-0.7, 0.7, -0.1] > 8) :]
        # Over the gap between pulmonary trunk and ventricle, not through it.
        round_the_trunk = 0.5 * (end + lad_way[0]) + 5 * unit(np.array([-0.5, -0.6, 0.5]))
        tips = jitter(0.55, 0.75), jitter(0.55, 0.85)
        self.add(
            "LCA",
            "LAD",
            np.vstack([end, round_the_trunk, lad_way]),
            (r_main * share ** (1 / 3), tips[0]),
            main,
        )
        self.add(
            "LCA",
            "LCx",
            np.vstack([end, end + ahead, lcx_way[np.argmax(lcx_way[:, 1] < end[1] - 6) :]]),
            (r_main * (1 - share) ** (1 / 3), tips[1]),
            main,
        )

    def right_tree(self, right_dominant: bool) -> None:
        """RCA and, in right dominance, PDA and a posterolateral branch."""
        jitter = self.rng.uniform
        ostium, out = _ostium(self.anatomy, jitter(1, 5), np.array([jitter(0.1, 0.5), 0.9, jitter(-0.1, 0.15)]))
        way = self.groove(
            AV_MM, self.up, -self.left, (jitter(54, 62), jitter(165, 178) if right_dominant else jitter(125, 150))
        )
        radii = (jitter(1.7, 2.3), jitter(1.1, 1.5)) if right_dominant else (jitter(1.2, 1.6), jitter(0.7, 0.9))
        rca = self.add("RCA", "RCA", np.vstack([ostium, ostium + 3 * out, way]), radii, None)
        if not right_dominant:
            return
        line = self.lines[rca]
        tip, ahead, r = line.points_mm[-1], unit(line.points_mm[-1] - line.points_mm[-8]), line.radius_mm[-1]
        share = jitter(0.4, 0.6)
        pda = march(self.anatomy, tip, ahead + LV_AXIS, self.apex_mm, jitter(35, 65), r + FAT_MM)
        self.add("RCA", "PDA", pda[::6], (r * share ** (1 / 3), jitter(0.5, 0.65)), rca)
        target = AV_MM + 40 * self.left - 25 * self.up + 25 * LV_AXIS
        posterolateral = march(self.anatomy, tip, ahead, target, jitter(25, 50), r + FAT_MM)
        self.add("RCA", "PLB", posterolateral[::6], (r * (1 - share) ** (1 / 3), jitter(0.5, 0.65)), rca)

    def side_branches(self) -> None:
        """Diagonals, obtuse and acute marginals: evenly drawn take-offs, then over the ventricles to the apex."""
        lateral = IV_MM + 22 * LV_AXIS - 45 * SEPTUM
        plans = {
            "LAD": ("diagonal", 0.15, 0.7, 0.6 * lateral + 0.4 * self.apex_mm),
            "LCx": ("marginal", 0.25, 0.95, self.apex_mm),
            "RCA": ("acute marginal", 0.2, 0.8, self.apex_mm),
        }
        for k, line in enumerate(list(self.lines)):
            if line.branch not in plans:
                continue
            kind, low, high, target = plans[line.branch]
            count = int(self.rng.integers(1, 4))
            for i in range(count):
                at = low + (high - low) * (i + self.rng.uniform(0.1, 0.9)) / count
                j = int(at * (len(line.points_mm) - 13)) + 6
                r = line.radius_mm[j] * self.rng.uniform(0.15, 0.45) ** (1 / 3)  # Murray's law
                along = unit(line.points_mm[j + 6] - line.points_mm[j - 6])
                aim = unit(target - line.points_mm[j])
                heading = aim + self.rng.uniform(0.2, 0.7) * along + 0.3 * self.rng.normal(size=3)
                path = march(self.anatomy, line.points_mm[j], heading, target, self.rng.uniform(22, 75), r + FAT_MM)
                self.add(line.name, kind, path[::6], (max(r, 0.6), self.rng.uniform(0.45, 0.6)), k)


def _ostium(anatomy: Anatomy, height_mm: float, direction: Array) -> tuple[Array, Array]:
    """The point on the aortic wall in ``direction`` from the root's axis, 0.3 mm outside the lumen."""
    centre = anatomy.root_mm + np.array([0, 0, height_mm])
    p = centre + unit(direction) * np.arange(4, 26, 0.05)[:, None]
    return p[np.argmax(anatomy.aorta(p.astype(np.float32)) > 0.3)], unit(direction)


def grow(anatomy: Anatomy, rng: np.random.Generator) -> list[Centreline]:
    """A whole tree, mains first: right-dominant in some 85 of 100, as people are.

    Proximal radii 1.5-2.4 mm taper to 0.45-0.85 mm; LCA and RCA stay at least 2 mm apart.
    """
    for _ in range(6):
        grower = Grower(anatomy, rng)
        right_dominant = rng.random() < 0.85
        grower.left_tree(right_dominant)
        grower.right_tree(right_dominant)
        grower.side_branches()
        tree = _keep_apart(grower.lines)
        if all(_runs_outside(line, anatomy) for line in tree):
            break  # else a branch got stuck between chambers (1 draw in 20): draw again
    return tree


def _runs_outside(line: Centreline, anatomy: Anatomy) -> bool:
    """Whether a branch, past an ostium, stays within 2 mm of the outside of muscle and great vessels."""
    depth = line.radius_mm - anatomy.clearance(line.points_mm)[0]
    return bool(np.all(depth[int(5 / STEP_MM) if line.parent is None else 0 :] < 2.0))


def _keep_apart(lines: list[Centreline], gap_mm: float = 2.0, shortest_mm: float = 8.0) -> list[Centreline]:
    """Cuts a branch where it comes within ``gap_mm`` of one kept before; too short a rest goes, with its children."""
    kept: list[Centreline] = []
    index: dict[int, int] = {}
    for i, line in enumerate(lines):
        if line.parent is not None and line.parent not in index:
            continue
        end = len(line.points_mm)
        parent = None if line.parent is None else index[line.parent]
        if parent is not None and np.linalg.norm(kept[parent].points_mm - line.points_mm[0], axis=1).min() > STEP_MM:
            continue  # its take-off was cut off
        for other in kept:
            distance, at = cKDTree(other.points_mm).query(line.points_mm)
            gap = distance - other.radius_mm[at] - line.radius_mm
            if other.name == line.name:  # branches touch where they part
                close = gap < 0.5 * gap_mm
                close[: int(14 / STEP_MM)] = False
            else:
                close = gap < gap_mm
            first = np.flatnonzero(close)
            end = min(end, int(first[0])) if len(first) else end
        if end * STEP_MM >= shortest_mm or line.branch == "LM":
            index[i] = len(kept)
            kept.append(
                Centreline(
                    line.name,
                    line.points_mm[:end],
                    line.radius_mm[:end],
                    parent,
                    line.branch,
                    line.wall_radius_mm[:end],
                )
            )
    return kept


def veins(anatomy: Anatomy, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Great cardiac vein and coronary sinus as (points, radii): beside the LAD, then the LCx."""
    grower = Grower(anatomy, rng)
    front = grower.groove(IV_MM, -LV_AXIS, -grower.inferior, (64, rng.uniform(130, 175)))[::-1]
    back = grower.groove(AV_MM, grower.up, grower.left, (52, 176))
    way = resample(smooth_path(np.vstack([front - 6 * SEPTUM, back + 5 * LV_AXIS]), 1.0), STEP_MM)
    radius = np.interp(np.linspace(0, 1, len(way)), [0, 0.45, 0.8, 1], [0.7, 1.5, 2.4, 4.2]) * rng.uniform(0.8, 1.2)
    path = settle(anatomy, way, radius + 2.5, pull=0.1)
    return [(path, stretch(radius, len(path)))]
