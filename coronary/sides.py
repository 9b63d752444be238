"""Which voxels are the left coronary artery (LCA) and which the right (RCA), and where each leaves the aorta.

Nothing but the artery mask is needed: the left tree lies to the patient's left of the right one and behind it; both
ostia are thick, high, and close to one another on the aortic root.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from coronary.centreline import Lumen, Points, arc_length, farthest, lumen_from_mask, pieces, trace, wall_cost
from shared.geometry import apply_affine, bounding_box, crop
from shared.postprocess import label_components
from shared.types import Affine, LabelArray

LCA, RCA, UNKNOWN = 1, 2, 3
SIDE_NAMES = {LCA: "LCA", RCA: "RCA", UNKNOWN: "unknown"}

RIGHT_AND_FRONT = np.array([1.0, 0.5, 0.0])  # the direction from the left tree to the right one, RAS
MIN_SHARE = 0.15  # a second tree has at least this share of the first one's volume
MIN_APART_MM = 15.0  # between the middles of the two trees along that direction; narco119 (data/README.md): 75 mm
MIN_LEAN_MM = 5.0  # a lone tree's middle lies at least this far from its ostium, to its own side
# A lone piece is two trees grown together when a quarter of it lies on either side of its highest part. A left tree
# has nothing to the right of its ostium, a right one little more than its last branches to the left.
TOP_MM, FAR_LEFT_MM, FAR_RIGHT_MM, TWO_TREES_SHARE = 10.0, 25.0, 15.0, 0.25

END_MM, MIN_END_MM = 10.0, 1.0  # stretch of a free end whose thickness speaks for an ostium; left main stems are short
# What a mm of height, or of nearness to the other ostium, is worth in mm of diameter when ends are compared: a heart's
# height (some 80 mm) outweighs the 2 mm between a thick vessel and an ostium that happens to be narrow.
HEIGHT_WEIGHT, NEARNESS_WEIGHT = 0.05, 0.05


def label_sides(mask: Bool[np.ndarray, "x y z"], affine: Affine) -> LabelArray:
    """Tell the left coronary tree from the right.

    Args:
        mask: arteries, ``x y z`` (what is not 0 counts).
        affine: voxel index to RAS mm.

    Returns:
        1 where LCA, 2 where RCA, 3 where there is one tree only and its course does not say which (``SIDE_NAMES``).
    """
    labels = np.zeros(mask.shape, np.uint8)
    if not mask.any():
        return labels
    box = bounding_box(mask, 0.0, (1.0, 1.0, 1.0))
    part, part_affine = crop(mask, affine, box)
    part = part > 0
    components, sizes = label_components(part)
    index = np.argwhere(part)
    number = components[part].astype(np.int64) - 1
    points_mm = apply_affine(part_affine, index.astype(np.float64))

    large = np.flatnonzero(sizes >= MIN_SHARE * sizes[0])
    rightness = np.array([(points_mm[number == piece] @ RIGHT_AND_FRONT).mean() for piece in large])
    side = np.zeros(len(index), np.uint8)
    if np.ptp(rightness) >= MIN_APART_MM:
        is_left = rightness < (rightness.min() + rightness.max()) / 2
        for piece, left in zip(large, is_left, strict=True):
            side[number == piece] = LCA if left else RCA
    else:
        side[number == 0] = _sides_of_one_piece(lumen_from_mask(components == 1, part_affine))
    labels[box][part] = _join_pieces(side, number, points_mm)
    return labels


def _sides_of_one_piece(lumen: Lumen) -> UInt8[np.ndarray, " n"]:
    """A side for every node of a lumen that is one piece: one tree, or two grown together."""
    x_mm, z_mm = lumen.points_mm[:, 0], lumen.points_mm[:, 2]
    top_x_mm = x_mm[z_mm >= z_mm.max() - TOP_MM].mean()
    far_left, far_right = x_mm < top_x_mm - FAR_LEFT_MM, x_mm > top_x_mm + FAR_RIGHT_MM
    if min(far_left.mean(), far_right.mean()) >= TWO_TREES_SHARE:
        # Where they touch is thinner than the trees are, so a way through it is dear: each node goes to the seed
        # that is cheaper to reach.
        seeds = [int(np.argmax(np.where(far, lumen.radius_mm, 0))) for far in (far_left, far_right)]
        to_left, to_right = dijkstra(wall_cost(lumen), indices=seeds)
        return np.where(to_left <= to_right, LCA, RCA).astype(np.uint8)

    (root,) = ostia({UNKNOWN: lumen}).values()
    lean_mm = x_mm.mean() - x_mm[root]
    side = LCA if lean_mm <= -MIN_LEAN_MM else RCA if lean_mm >= MIN_LEAN_MM else UNKNOWN
    return np.full(len(x_mm), side, np.uint8)


def _join_pieces(
    side: UInt8[np.ndarray, " n"], number: Int64[np.ndarray, " n"], points_mm: Points
) -> UInt8[np.ndarray, " n"]:
    """Give every piece without a side (0) that of the nearest voxel that has one."""
    missing = side == 0
    if not missing.any():
        return side
    present = [label for label in SIDE_NAMES if (side == label).any()]
    gap_mm = np.stack([cKDTree(points_mm[side == label]).query(points_mm[missing])[0] for label in present])
    nearest_mm = np.full((len(present), number.max() + 1), np.inf)
    for row, gap in zip(nearest_mm, gap_mm, strict=True):
        np.minimum.at(row, number[missing], gap)
    joined = side.copy()
    joined[missing] = np.array(present, np.uint8)[nearest_mm.argmin(axis=0)][number[missing]]
    return joined


def ostia(lumens: Mapping[int, Lumen]) -> dict[int, int]:
    """Choose the free end of each tree's largest piece that most looks like its ostium: a node for each lumen.

    An ostium is thick and high; where there are two trees, theirs are close to one another.
    """
    candidates = {side: _ends(lumen) for side, lumen in lumens.items()}
    best, best_score = dict.fromkeys(lumens, 0), -np.inf
    for choice in product(*candidates.values()):
        ends_mm = [lumen.points_mm[node] for lumen, (node, _) in zip(lumens.values(), choice, strict=True)]
        score = sum(diameter for _, diameter in choice) + HEIGHT_WEIGHT * sum(float(end[2]) for end in ends_mm)
        if len(ends_mm) == 2:
            score -= NEARNESS_WEIGHT * float(np.linalg.norm(ends_mm[0] - ends_mm[1]))
        if score > best_score:
            best, best_score = {side: node for side, (node, _) in zip(lumens, choice, strict=True)}, score
    return best


def _ends(lumen: Lumen) -> list[tuple[int, float]]:
    """The free ends of a lumen's largest piece, each with the mean diameter over its last ``END_MM``."""
    start = farthest(lumen, int(pieces(lumen)[0][0]))
    paths = trace(lumen, start, MIN_END_MM)
    walks = [path.nodes[::-1] for path in paths]
    if paths:
        walks.append(paths[0].nodes)
    found = []
    for nodes in walks:
        near = arc_length(lumen.points_mm[nodes]) <= END_MM
        found.append((int(nodes[0]), 2 * float(lumen.radius_mm[nodes[near]].mean())))
    return found or [(start, 0.0)]
