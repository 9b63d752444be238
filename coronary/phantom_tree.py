"""The phantom's coronary tree: routes on the heart's surface, with the winding and calibre of real arteries.

Main arteries follow the atrioventricular and interventricular grooves of the analytic heart, side branches leave them by
Murray's law. How a real artery winds about its smooth course, and how its radius varies about its taper, comes from the
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

from coronary.phantom_anatomy import LV_AXIS, Anatomy, smooth_path
from shared.errors import SetupError

STEP_MM = 0.5
SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "narco119"


@dataclass(frozen=True)
class Centreline:
    """One branch from its take-off to its tip: ``points_mm`` (n, 3) RAS, lumen ``radius_mm`` (n,), ``parent`` an index.

    ``name`` is the tree ("LCA" or "RCA"), ``branch`` the artery. ``wall_radius_mm`` is the healthy radius: where plaque
    narrows the lumen it is larger than ``radius_mm``.
    """

    name: Literal["LCA", "RCA"]
    points_mm: NDArray[np.float64]
    radius_mm: NDArray[np.float64]
    parent: int | None
    branch: str
    wall_radius_mm: NDArray[np.float64]


@cache
def real_windings() -> tuple[NDArray[np.float64], ...]:
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


def unit(v: NDArray) -> NDArray:
    """Vectors of length one."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def resample(points: NDArray, step_mm: float) -> NDArray:
    """A polyline (n, 3 or more) at even steps of its first three columns."""
    s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points[:, :3], axis=0), axis=1))])
    at = np.linspace(0, s[-1], max(3, round(s[-1] / step_mm) + 1))
    return np.stack([np.interp(at, s, column) for column in points.T], 1)


def _first_crossing(anatomy: Anatomy, origin: NDArray, directions: NDArray, offset_mm: float) -> NDArray:
    """How far along each ray (..., 3) the heart's surface lies, found from outside inwards."""
    t = np.arange(95.0, 4.0, -1.5)
    p = origin + directions[..., None, :] * t[:, None]
    f = anatomy.epicardium(anatomy.heart(p.astype(np.float32))) - offset_mm
    k = np.maximum(np.argmax(f < 0, axis=-1), 1)[..., None]
    f0, f1 = np.take_along_axis(f, k - 1, -1)[..., 0], np.take_along_axis(f, k, -1)[..., 0]
    return t[k[..., 0] - 1] - 1.5 * np.clip(f0 / np.maximum(f0 - f1, 1e-6), 0, 1)


def groove(
    anatomy: Anatomy,
    origin: NDArray,
    start: NDArray,
    end: NDArray,
    degrees: tuple[float, float],
    search_deg: float = 14,
) -> NDArray:
    """The groove on the surface in the plane of ``start`` and ``end`` (angle from start towards end), deepest within reach."""
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
    return origin + ray * gaussian_filter1d(_first_crossing(anatomy, origin, ray, 2.0), 2, mode="nearest")[:, None]


def settle(anatomy: Anatomy, path: NDArray, clear_mm: NDArray, pull: float, fixed: int = 4) -> NDArray:
    """Moves a path to its clearance from muscle and great vessels: always outwards, inwards by ``pull``; smooths as it goes."""
    h = 0.5
    offsets = np.vstack([np.zeros(3), h * np.eye(3), -h * np.eye(3)])
    for _ in range(14):
        f = anatomy.obstacles((path[:, None] + offsets).astype(np.float32)).astype(float)
        gradient = unit(f[:, 1:4] - f[:, 4:])
        error = clear_mm - f[:, 0]
        move = np.where(error > 0, error, pull * error)[:, None] * gradient
        move[:fixed] = 0
        path = path + np.clip(gaussian_filter1d(move, 2, axis=0, mode="nearest"), -2, 2)
        path[fixed:-1] = gaussian_filter1d(path, 1.5, axis=0, mode="nearest")[fixed:-1]
        path = resample(path, STEP_MM) if len(path) > 12 else path
        clear_mm = np.interp(np.linspace(0, 1, len(path)), np.linspace(0, 1, len(clear_mm)), clear_mm)
    return path


def wind(
    path: NDArray, radius: NDArray, anatomy: Anatomy, rng: np.random.Generator, amount: float
) -> tuple[NDArray, NDArray]:
    """Gives a smooth path the sideways winding and calibre of a real artery, faded in from its fixed start."""
    real = real_windings()[rng.integers(len(real_windings()))]
    real = real[::-1] if rng.random() < 0.5 else real
    n = len(path)
    real = np.concatenate([real, real[::-1]])
    while len(real) < n:
        real = np.concatenate([real, real])
    shift = real[:n, :2] * rng.choice([-1, 1], 2) * amount * np.minimum(np.arange(n) * STEP_MM / 8, 1)[:, None]
    tangent = unit(np.gradient(path, axis=0))
    h = 0.5
    f = [
        anatomy.obstacles((path + h * axis).astype(np.float32))
        - anatomy.obstacles((path - h * axis).astype(np.float32))
        for axis in np.eye(3)
    ]
    normal = unit(np.stack(f, 1).astype(float))
    side = unit(np.cross(tangent, normal))
    return path + shift[:, :1] * side + 0.35 * shift[:, 1:] * normal, radius * real[:n, 2] ** 0.7


def taper(length: int, start_mm: float, end_mm: float) -> NDArray:
    """A radius that falls from ``start_mm`` to ``end_mm``, a little faster at first."""
    t = np.linspace(0, 1, length)
    return end_mm + (start_mm - end_mm) * (1 - t) ** 0.9


def _ostium(anatomy: Anatomy, height_mm: float, direction: NDArray) -> tuple[NDArray, NDArray]:
    """The point on the aortic wall in ``direction`` from the root's axis, 0.3 mm outside the lumen."""
    centre = anatomy.root_mm + [0, 0, height_mm]
    t = np.arange(4, 26, 0.05)
    p = centre + unit(direction) * t[:, None]
    return p[np.argmax(anatomy.aorta(p.astype(np.float32)) > 0.3)], unit(direction)


def grow(anatomy: Anatomy, rng: np.random.Generator) -> list[Centreline]:
    """A whole tree, LCA first: left main, LAD, LCx, RCA, their side branches; right-dominant in some 85 of 100.

    Proximal radii 1.5-2.3 mm taper to 0.5-0.7 mm; LCA and RCA stay at least 2 mm apart.
    """
    jitter = rng.uniform
    up = unit(np.array([0, 0, 1.0]) - LV_AXIS * LV_AXIS[2])
    left = np.cross(LV_AXIS, up)
    left = left if left @ [-1, -0.3, 0] > 0 else -left
    av_mm, septum = np.array([12.0, 2, -4]), unit(np.array([0.73, 0.61, -0.3]))
    inferior = np.cross(LV_AXIS, septum)
    iv_mm = np.array([-13.0, 8, -11])
    right_dominant = rng.random() < 0.85

    lad_way = groove(anatomy, iv_mm, -LV_AXIS, -inferior, (jitter(52, 60), jitter(165, 205)))
    lcx_way = groove(
        anatomy, av_mm, up, left, (jitter(46, 54), jitter(105, 140) if right_dominant else jitter(150, 165))
    )
    rca_way = groove(
        anatomy, av_mm, up, -left, (jitter(44, 52), jitter(165, 180) if right_dominant else jitter(125, 150))
    )

    lm_start, lm_out = _ostium(anatomy, jitter(1, 4), np.array([-0.9, jitter(-0.45, -0.1), 0.1]))
    rca_start, rca_out = _ostium(anatomy, jitter(1, 4), np.array([jitter(0.1, 0.5), 0.9, 0.0]))
    fork = 0.5 * (lad_way[0] + lcx_way[0]) * 0.7 + 0.3 * (lm_start + 8 * lm_out)
    r_lm, r_rca = jitter(1.9, 2.35), jitter(1.5, 2.2) * (1 if right_dominant else 0.75)
    murray = jitter(0.45, 0.65)  # share of the cube that goes into the LAD
    r_lad, r_lcx = r_lm * murray ** (1 / 3), r_lm * (1 - murray) ** (1 / 3)

    tree: list[Centreline] = []

    def add(
        name: Literal["LCA", "RCA"], branch: str, way: NDArray, r0: float, r1: float, parent: int | None, fixed: int
    ) -> int:
        path = resample(smooth_path(way, 1.0), STEP_MM)
        radius = taper(len(path), r0, r1)
        clear = radius + 0.8
        if parent is None:
            clear *= np.clip(np.arange(len(path)) * STEP_MM / 6, 0, 1)
        path = settle(anatomy, path, clear, 0.25, fixed)
        path, radius = wind(path, taper(len(path), r0, r1), anatomy, rng, jitter(0.6, 1.3))
        path = settle(
            anatomy, path, np.interp(np.linspace(0, 1, len(path)), np.linspace(0, 1, len(clear)), clear), 0.05, fixed
        )
        radius = np.interp(np.linspace(0, 1, len(path)), np.linspace(0, 1, len(radius)), radius)
        radius = np.clip(radius, 0.45, 2.6)
        tree.append(Centreline(name, path, radius, parent, branch, radius.copy()))
        return len(tree) - 1

    lad = add(
        "LCA", "LAD", np.vstack([lm_start, lm_start + 3 * lm_out, fork, lad_way[3::4]]), r_lm, jitter(0.5, 0.7), None, 5
    )
    trunk = tree[lad]
    k = int(np.argmin(np.linalg.norm(trunk.points_mm - fork, axis=1)))
    taken = trunk.radius_mm.copy()
    taken[k:] *= r_lad / r_lm
    tree[lad] = Centreline("LCA", trunk.points_mm, np.maximum(taken, 0.5), None, "LAD", np.maximum(taken, 0.5))
    lcx = add("LCA", "LCx", np.vstack([trunk.points_mm[k], lcx_way[2::4]]), r_lcx, jitter(0.5, 0.8), lad, 2)
    rca = add(
        "RCA", "RCA", np.vstack([rca_start, rca_start + 3 * rca_out, rca_way[2::4]]), r_rca, jitter(0.8, 1.1), None, 5
    )
    if right_dominant:
        pda_way = groove(anatomy, iv_mm, -LV_AXIS, inferior, (78, jitter(115, 150)))
        add(
            "RCA",
            "PDA",
            np.vstack([tree[rca].points_mm[-8], pda_way[2::4]]),
            tree[rca].radius_mm[-8] * 0.85,
            0.5,
            rca,
            2,
        )
    apex = iv_mm + 45 * LV_AXIS
    _side_branches(anatomy, rng, tree, add, (lad, lcx, rca), apex)
    return _keep_apart(tree)


def _side_branches(
    anatomy: Anatomy, rng: np.random.Generator, tree: list[Centreline], add, mains: tuple[int, ...], apex: NDArray
) -> None:  # type: ignore[no-untyped-def]
    """Diagonals, marginals, acute marginals and conus: take-offs along the mains, courses towards the apex."""
    plans = {
        "LAD": ("diagonal", (0.28, 0.75), -1.0),
        "LCx": ("marginal", (0.3, 0.95), 1.0),
        "RCA": ("acute marginal", (0.25, 0.75), 1.0),
    }
    for main in mains:
        kind, (low, high), _ = plans[tree[main].branch]
        points, radius = tree[main].points_mm, tree[main].radius_mm
        for at in np.sort(rng.uniform(low, high, rng.integers(1, 4))):
            k = int(at * len(points))
            tangent = unit(points[min(k + 6, len(points) - 1)] - points[k - 6])
            reach = rng.uniform(22, 55)
            share = rng.uniform(0.2, 0.45)  # Murray: parent^3 = main^3 + side^3
            target = apex if kind != "diagonal" else np.array([-60.0, -5, -15])
            aim = unit(target - points[k])
            aim = unit(aim + 0.5 * tangent + 0.25 * rng.normal(size=3))
            bend = unit(target - points[k] - 0.5 * reach * aim)
            way = np.vstack(
                [
                    points[k],
                    points[k] + 0.25 * reach * unit(aim + tangent),
                    points[k] + 0.6 * reach * aim,
                    points[k] + 0.6 * reach * aim + 0.4 * reach * bend,
                ]
            )
            add(tree[main].name, kind, way, max(0.55, radius[k] * share ** (1 / 3)), 0.5, main, 1)


def _keep_apart(tree: list[Centreline], gap_mm: float = 2.0) -> list[Centreline]:
    """Cuts RCA branches where they would come within ``gap_mm`` of the LCA; what is too short to keep goes, with its children."""
    left = [c for c in tree if c.name == "LCA"]
    near = cKDTree(np.vstack([c.points_mm for c in left]))
    wall = np.concatenate([c.radius_mm for c in left])
    kept: list[Centreline] = []
    new_index: dict[int, int] = {}
    for i, line in enumerate(tree):
        if line.parent is not None and line.parent not in new_index:
            continue
        n = len(line.points_mm)
        if line.name == "RCA":
            distance, k = near.query(line.points_mm)
            close = np.flatnonzero(distance - wall[k] - line.radius_mm < gap_mm)
            n = int(close[0]) if len(close) else n
        parent = None if line.parent is None else new_index[line.parent]
        if n * STEP_MM < 6 or (
            parent is not None and np.linalg.norm(kept[parent].points_mm - line.points_mm[0], axis=1).min() > 1
        ):
            continue
        new_index[i] = len(kept)
        kept.append(
            Centreline(line.name, line.points_mm[:n], line.radius_mm[:n], parent, line.branch, line.wall_radius_mm[:n])
        )
    return kept
