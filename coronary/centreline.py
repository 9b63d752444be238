"""From the voxels of a vessel tree to centrelines and diameters in mm.

The tree is traced as TEASAR does (Sato et al. 2000, "TEASAR: tree-structure extraction algorithm for accurate and
robust skeletons"): shortest paths from the root, farthest voxel first, on a graph whose edges cost more the nearer they
lie to the wall. Unlike thinning it cannot leave loops or surface spurs, and it costs what the vessel's voxels cost,
not what their bounding box costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from shared.geometry import apply_affine, bounding_box, crop
from shared.types import Affine

Points = Float64[np.ndarray, "n 3"]
Values = Float64[np.ndarray, " n"]
Nodes = Int64[np.ndarray, " n"]

WALL_PENALTY = 4  # a path pays radius^-4 a mm: enough to hold it to the middle
STEP_MM = 0.25  # spacing of the points of a refined centreline
END_MM = 4.0  # of a free end, whose largest radius is that of the last ball: a slanting end is thinner than its vessel
RAYS, RAY_SAMPLES = 24, 24


@dataclass(frozen=True)
class Lumen:
    """The voxels of a vessel tree as a graph: node ``i`` is the voxel ``index[i]`` of the crop ``mask``."""

    mask: Bool[np.ndarray, "x y z"]
    affine: Affine  # of the crop
    index: Int64[np.ndarray, "n 3"]
    points_mm: Points  # voxel centres, RAS
    radius_mm: Values  # distance to the wall, from the distance transform
    lengths: csr_array  # edges to the 26 neighbours, mm
    at_border: Bool[np.ndarray, " n"]  # on the outermost layer of the scan: the vessel goes on beyond

    @property
    def voxel_mm(self) -> float:
        """The coarsest distance between voxel centres, mm."""
        return float(np.linalg.norm(self.affine[:3, :3], axis=0).max())


@dataclass(frozen=True)
class Path:
    """A traced branch: graph nodes from where it leaves its parent (or the root) to its tip."""

    nodes: Nodes
    parent: int | None  # index of the parent in the list of paths


def lumen_from_mask(mask: Bool[np.ndarray, "x y z"], affine: Affine) -> Lumen:
    """Crop a non-empty mask and build its voxel graph; ``affine`` maps the mask's voxel index to RAS mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = (float(mm) for mm in spacing)
    box = bounding_box(mask, 2 * max(x, y, z), (x, y, z))
    crop_view, crop_affine = crop(mask, affine, box)
    inside = np.ascontiguousarray(crop_view, dtype=bool)
    index = np.argwhere(inside)
    # The scan's edge is no wall: a vessel that leaves the scan keeps its radius there.
    distance = edt.edt(inside.view(np.uint8), anisotropy=(x, y, z), black_border=False)
    no_wall_mm = 0.5 * float((inside.shape * spacing).max())  # the mask fills the scan
    to_wall_mm = np.nan_to_num(distance[tuple(index.T)].astype(np.float64), posinf=no_wall_mm)
    in_scan = index + np.array([side.start for side in box])
    return Lumen(
        mask=inside,
        affine=crop_affine,
        index=index,
        points_mm=apply_affine(crop_affine, index.astype(np.float64)),
        radius_mm=np.maximum(to_wall_mm - 0.5 * spacing.mean(), 0.5 * spacing.min()),
        lengths=_neighbour_graph(index, inside.shape, crop_affine),
        at_border=((in_scan == 0) | (in_scan == np.array(mask.shape) - 1)).any(axis=1),
    )


def _neighbour_graph(index: Int64[np.ndarray, "n 3"], shape: tuple[int, ...], affine: Affine) -> csr_array:
    """Edges between voxels that touch by face, edge or corner, weighted by their distance in mm."""
    padded = np.array(shape) + 2  # so that a step over the edge meets no voxel of the next row
    flat = np.ravel_multi_index(tuple((index + 1).T), tuple(padded))  # ascending, as argwhere is in C order
    rows, columns, weights = [], [], []
    offsets = np.argwhere(np.ones((3, 3, 3))) - 1
    for offset in offsets[14:]:  # the 13 that point forward
        step = int(offset @ np.array([padded[1] * padded[2], padded[2], 1]))
        found = np.minimum(np.searchsorted(flat, flat + step), len(flat) - 1)
        here = np.flatnonzero(flat[found] == flat + step)
        rows.append(here)
        columns.append(found[here])
        weights.append(np.full(len(here), np.linalg.norm(affine[:3, :3] @ offset)))
    i, j, mm = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
    n = len(index)
    return csr_array((np.r_[mm, mm], (np.r_[i, j], np.r_[j, i])), shape=(n, n))


def pieces(lumen: Lumen) -> list[Nodes]:
    """The connected pieces of a lumen, largest first, each as its nodes."""
    _, label = connected_components(lumen.lengths, directed=False)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(groups, key=len, reverse=True)


def farthest(lumen: Lumen, node: int) -> int:
    """The node farthest from ``node`` through the vessel: an end of the tree."""
    distance = dijkstra(lumen.lengths, indices=node)
    return int(np.argmax(np.where(np.isfinite(distance), distance, -1)))


def wall_cost(lumen: Lumen) -> csr_array:
    """The lumen's graph with edges that cost more the nearer they lie to the wall: mm times (1 mm / radius)^4."""
    edges = lumen.lengths.tocoo()
    dearness = lumen.radius_mm ** (-WALL_PENALTY)
    i, j = edges.coords
    return csr_array((edges.data * (dearness[i] + dearness[j]) / 2, (i, j)), shape=edges.shape)


def trace(lumen: Lumen, root: int, min_length_mm: float) -> list[Path]:
    """Decompose the piece that holds ``root`` into branches, the longest first.

    A side branch counts when it runs at least ``min_length_mm`` outside the reach of what is traced already, which is
    half as much again as the vessel's radius: what is shorter cannot be told from the roughness of the wall. A loop is
    cut where its two ways from the root are equally long.

    Returns:
        Branches such that each one's parent stands before it. The first runs from the root to the farthest tip.
    """
    distance = dijkstra(lumen.lengths, indices=root)
    _, came_from = dijkstra(wall_cost(lumen), indices=root, return_predecessors=True)

    reachable = np.flatnonzero(np.isfinite(distance))
    neighbourhood = cKDTree(lumen.points_mm[reachable])
    free = np.zeros(len(distance), bool)
    free[reachable] = True
    owner = np.full(len(distance), -1)
    paths: list[Path] = []
    for tip in reachable[np.argsort(-distance[reachable], kind="stable")]:
        if not free[tip]:
            continue
        walk = [int(tip)]
        while owner[walk[-1]] < 0 and walk[-1] != root:
            walk.append(int(came_from[walk[-1]]))
        nodes = np.array(walk[::-1])
        parent = int(owner[nodes[0]])
        # Of a side branch, the part that is explained already belongs to the trunk's lumen.
        steps_mm = np.linalg.norm(np.diff(lumen.points_mm[nodes], axis=0), axis=1)
        if steps_mm[free[nodes[1:]]].sum() >= min_length_mm:
            own = nodes[1:] if parent >= 0 else nodes
            owner[own] = len(paths)
            paths.append(Path(nodes, parent if parent >= 0 else None))
        # A voxel is added because in the thinnest vessels the radius is known no better than that.
        reach = 1.5 * (lumen.radius_mm[nodes] + lumen.voxel_mm)
        pace = np.floor(np.cumsum(np.r_[0.0, steps_mm / (reach[1:] / 4)]))
        apart = np.flatnonzero(np.diff(pace, prepend=-1))  # balls a quarter of their size apart cover as much as all
        for near in neighbourhood.query_ball_point(lumen.points_mm[nodes[apart]], reach[apart]):
            free[reachable[near]] = False
    return paths


def refine(lumen: Lumen, path: Path) -> tuple[Points, Values]:
    """Turn a voxel path into a smooth centreline and measure the diameter along it.

    The path is smoothed, moved to the centroids of its cross-sections, and smoothed again. Its free ends are cut back
    to the centre of the last ball that fits into the vessel, except where the vessel leaves the scan.

    Returns:
        Points in RAS mm, ``STEP_MM`` apart, and the diameter in mm of the circle of each cross-section's area.
    """
    points = lumen.points_mm[path.nodes]
    # Rays must reach the wall from anywhere in the vessel, also from its ends, where the wall is close.
    near_mm = ndimage.maximum_filter1d(lumen.radius_mm[path.nodes], 2 * int(np.ceil(2 / lumen.voxel_mm)) + 1)
    smooth_mm = max(1.0, 1.5 * lumen.voxel_mm)
    points = smooth(points, smooth_mm)
    centroids, _ = cross_sections(lumen, points, _stretch(near_mm, len(points)))
    if path.parent is not None:
        centroids[0] = points[0]  # a side branch begins on its parent's centreline
    points = smooth(centroids, smooth_mm)
    _, diameter_mm = cross_sections(lumen, points, _stretch(near_mm, len(points)))

    start = _cap(lumen, points, diameter_mm) if path.parent is None and not lumen.at_border[path.nodes[0]] else 0
    end = _cap(lumen, points[::-1], diameter_mm[::-1]) if not lumen.at_border[path.nodes[-1]] else 0
    if start + end > len(points) - 2:
        return points, diameter_mm
    return points[start : len(points) - end], diameter_mm[start : len(points) - end]


def _cap(lumen: Lumen, points_mm: Points, diameter_mm: Values) -> int:
    """How many points lie before the centre of the last ball that fits into the end of the vessel at the first."""
    from_wall_mm = arc_length(points_mm) + 0.5 * lumen.voxel_mm
    end_radius_mm = diameter_mm[from_wall_mm <= END_MM].max(initial=0.0) / 2
    return int(np.searchsorted(from_wall_mm, end_radius_mm))


def _stretch(values: Values, count: int) -> Values:
    stretched: Values = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(values)), values)
    return stretched


def arc_length(points_mm: Points) -> Values:
    """Distance travelled along a polyline up to each of its points, mm."""
    travelled_mm: Values = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))]
    return travelled_mm


def smooth(points_mm: Points, sigma_mm: float) -> Points:
    """Resample a polyline to ``STEP_MM`` and smooth it with a Gaussian along its length; the ends stay where they are.

    A bend of radius R moves inwards by sigma^2 / 2R: 0.05 mm for a sigma of 1 mm and R of 10 mm.
    """
    at_mm = arc_length(points_mm)
    count = max(2, round(at_mm[-1] / STEP_MM) + 1)
    even = np.linspace(0, at_mm[-1], count)
    points = np.stack([np.interp(even, at_mm, points_mm[:, axis]) for axis in range(3)], axis=1)
    reach = min(count - 1, int(np.ceil(3 * sigma_mm / STEP_MM)))
    # Odd reflection (a half turn about the end point) holds the ends and does not shorten a straight line.
    padded = np.pad(points, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    smoothed: Points = ndimage.gaussian_filter1d(padded, sigma_mm / STEP_MM, axis=0)[reach : reach + count]
    return smoothed


def cross_sections(lumen: Lumen, points_mm: Points, bound_mm: Values) -> tuple[Points, Values]:
    """Centroid and equivalent diameter of the lumen in the plane across each point of a centreline.

    Rays leave each point in the plane; the occupancy, interpolated linearly, is integrated along each until it first
    falls to nothing. The integral keeps the area of a thin vessel, where the place of a 0.5 crossing would not. A ray
    that runs into another vessel (longer than 1.5 of the median) is cut there.
    """
    tangent = np.gradient(points_mm, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    helper = np.eye(3)[np.argmin(np.abs(tangent), axis=1)]
    across = np.cross(tangent, helper)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    beside = np.cross(tangent, across)

    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    direction = np.cos(angle)[:, None] * across[:, None] + np.sin(angle)[:, None] * beside[:, None]  # n rays 3
    limit_mm = 1.6 * bound_mm + 1.5 * lumen.voxel_mm
    step_mm = limit_mm / RAY_SAMPLES
    at_mm = (np.arange(RAY_SAMPLES) + 0.5) * step_mm[:, None]  # n samples
    sample = points_mm[:, None, None] + at_mm[:, None, :, None] * direction[:, :, None]  # n rays samples 3
    to_index = np.linalg.inv(lumen.affine)
    voxel = apply_affine(to_index, sample)
    occupancy = ndimage.map_coordinates(
        lumen.mask.view(np.uint8), np.moveaxis(voxel, -1, 0), order=1, mode="nearest", output=np.float32
    )
    occupancy = np.minimum.accumulate(occupancy, axis=2)

    squared = 2 * (occupancy * at_mm[:, None]).sum(axis=2) * step_mm[:, None]  # each ray's radius, squared
    ray_mm = np.sqrt(squared)
    ray_mm = np.minimum(ray_mm, 1.5 * np.median(ray_mm, axis=1, keepdims=True))
    area = np.maximum((ray_mm**2).mean(axis=1), 1e-12)
    shift = (direction * (ray_mm**3 * (2 / 3))[..., None]).mean(axis=1) / area[:, None]
    return points_mm + shift, 2 * np.sqrt(area)
