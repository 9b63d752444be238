"""The coronary tree of a mask: sides, branches, lengths, diameters, narrowings.

``build_tree`` takes a mask of arteries, ``measure`` a segmentation whose sides are known. What they measure is the
mask: where it takes in calcified plaque, the diameter is not the lumen's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from coronary.centreline import Lumen, Nodes, Path, arc_length, farthest, lumen_from_mask, pieces, refine, trace
from coronary.narrowing import Narrowing, find_narrowings
from coronary.sides import LCA, RCA, SIDE_NAMES, UNKNOWN, label_sides, ostia
from shared.geometry import bounding_box, crop
from shared.types import Affine, LabelArray, MaskArray, Segmentation

__all__ = ["SIDE_NAMES", "Branch", "Narrowing", "Tree", "TreeOptions", "build_tree", "label_sides", "measure"]

SCHEMA_VERSION = 1
MAX_PIECES = 50  # of one side that are traced; a real segmentation falls into far fewer
MAX_VOLUME_ML = 100.0  # of one side; real ones hold less than 10 ml


@dataclass(frozen=True)
class TreeOptions:
    """Physical thresholds of the tree."""

    min_branch_mm: float = 2.0  # a side branch runs this far outside one and a half radii of its parent
    max_gap_mm: float = 15.0  # a piece farther from the rest of its side has no parent
    min_narrowing_percent: float = 25.0  # CAD-RADS: below 25 % is minimal
    min_narrowing_length_mm: float = 1.0


@dataclass(frozen=True)
class Branch:
    """One vessel from where it leaves its parent (or from the ostium) to its tip.

    The first branch of a side is the longest way from its ostium. ``gap_mm`` is positive for a piece of the mask that
    does not touch its parent. ``diameter_mm`` is that of a circle of the cross-section's area; inside the parent it
    repeats the first value outside.
    """

    id: int
    side: str  # LCA, RCA or unknown
    parent: int | None
    generation: int  # 0 at the ostium, then one more than the parent's
    points_mm: Float64[np.ndarray, "n 3"]  # RAS
    diameter_mm: Float64[np.ndarray, " n"]
    length_mm: float
    mean_diameter_mm: float
    min_diameter_mm: float
    gap_mm: float = 0.0
    narrowings: tuple[Narrowing, ...] = ()


@dataclass(frozen=True)
class Tree:
    """All branches, sides in turn and parents first, and the volume of each side's mask."""

    branches: tuple[Branch, ...]
    volume_mm3: dict[str, float]  # of each side that is there
    notes: tuple[str, ...] = field(default=())  # what could not be told or measured, for people

    @property
    def length_mm(self) -> float:
        """Length of all branches together, mm."""
        return float(sum(branch.length_mm for branch in self.branches))

    @property
    def narrowings(self) -> tuple[tuple[Branch, Narrowing], ...]:
        """Every narrowing with its branch, the gravest first."""
        found = [(branch, narrowing) for branch in self.branches for narrowing in branch.narrowings]
        return tuple(sorted(found, key=lambda pair: -pair[1].percent))

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON takes it, to a thousandth of a mm; points are RAS mm."""
        branches = []
        for branch in self.branches:
            entry = {name: value for name, value in vars(branch).items() if name != "narrowings"}
            entry["narrowings"] = [asdict(narrowing) for narrowing in branch.narrowings]
            branches.append(entry)
        return {
            "schema_version": SCHEMA_VERSION,
            "coordinates": "RAS mm",
            "length_mm": round(self.length_mm, 3),
            "volume_mm3": {side: round(volume, 3) for side, volume in self.volume_mm3.items()},
            "branches": _rounded(branches),
            "notes": list(self.notes),
        }

    COLUMNS = (
        "branch", "side", "parent", "generation", "length_mm", "mean_diameter_mm", "min_diameter_mm", "gap_mm",
        "narrowings", "worst_narrowing_percent",
    )  # fmt: skip
    """Of the CSV file, so that a tree without branches leaves a table without rows."""

    def to_rows(self) -> list[dict[str, str | int | float]]:
        """One row a branch, for a CSV file; an absent parent is an empty string."""
        return [
            {
                "branch": branch.id,
                "side": branch.side,
                "parent": "" if branch.parent is None else branch.parent,
                "generation": branch.generation,
                "length_mm": round(branch.length_mm, 2),
                "mean_diameter_mm": round(branch.mean_diameter_mm, 2),
                "min_diameter_mm": round(branch.min_diameter_mm, 2),
                "gap_mm": round(branch.gap_mm, 2),
                "narrowings": len(branch.narrowings),
                "worst_narrowing_percent": round(max((n.percent for n in branch.narrowings), default=0.0), 1),
            }
            for branch in self.branches
        ]


def _rounded(value: Any) -> Any:
    """Numbers of a nested structure to three decimals, arrays as lists."""
    if isinstance(value, np.ndarray):
        return np.round(value.astype(float), 3).tolist()
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def build_tree(mask: Bool[np.ndarray, "x y z"], affine: Affine, *, options: TreeOptions | None = None) -> Tree:
    """Tell the sides of an artery mask apart (``label_sides``) and measure its tree.

    Args:
        mask: arteries, ``x y z`` (what is not 0 counts); an empty one gives an empty tree.
        affine: voxel index to RAS mm, oblique or mirrored as it may be.
        options: thresholds; the defaults where None.
    """
    part, part_affine = _crop(mask, affine)
    return _measure_labels(label_sides(part, part_affine), part_affine, options or TreeOptions())


def measure(segmentation: Segmentation, *, options: TreeOptions | None = None) -> Tree:
    """Measure the tree of a segmentation, by its own LCA and RCA labels where it has them.

    Labels named otherwise count as artery whose side is still to be told.
    """
    side_of_name = {name.lower(): side for side, name in SIDE_NAMES.items()}
    side_of = np.zeros(256, np.uint8)
    for label, name in segmentation.names.items():
        side_of[label] = side_of_name.get(name.lower(), UNKNOWN)
    side_of[1:][side_of[1:] == 0] = UNKNOWN  # a label without a name is artery all the same
    side_of[0] = 0
    part, affine = _crop(segmentation.labels, segmentation.affine)
    labels = side_of[part]
    if (labels == UNKNOWN).any() and not ((labels == LCA) | (labels == RCA)).any():
        labels = label_sides(labels > 0, affine)
    return _measure_labels(labels, affine, options or TreeOptions())


def _crop(labels: LabelArray | MaskArray, affine: Affine) -> tuple[LabelArray | MaskArray, Affine]:
    """Leave the empty surroundings out; the voxel's margin tells an edge of the crop from one of the scan."""
    return crop(labels, affine, bounding_box(labels, 1.0, (1.0, 1.0, 1.0))) if labels.any() else (labels, affine)


def _measure_labels(labels: LabelArray, affine: Affine, options: TreeOptions) -> Tree:
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    counts = np.bincount(labels[labels > 0], minlength=4)
    volume_mm3 = {name: 1000 * voxel_ml * int(counts[side]) for side, name in SIDE_NAMES.items() if counts[side]}
    notes = []
    lumens: dict[int, Lumen] = {}
    for side, name in SIDE_NAMES.items():
        if counts[side] * voxel_ml > MAX_VOLUME_ML:
            notes.append(f"{name}: {counts[side] * voxel_ml:.0f} ml cannot be a coronary tree; it was not traced")
        elif counts[side]:
            lumens[side] = lumen_from_mask(labels == side, affine)
    if UNKNOWN in lumens and len(volume_mm3) == 1:
        notes.append("one tree only, and neither its course nor its ostium says whether it is the LCA or the RCA")
    elif UNKNOWN in lumens:
        notes.append("what is labelled neither LCA nor RCA was measured as a tree of its own, of unknown side")

    roots = ostia({side: lumen for side, lumen in lumens.items() if side != UNKNOWN})
    if UNKNOWN in lumens:
        roots |= ostia({UNKNOWN: lumens[UNKNOWN]})
    branches: list[Branch] = []
    for side, lumen in lumens.items():
        grower = _Grower(lumen, SIDE_NAMES[side], options, first_id=len(branches))
        branches += grower.grow(roots[side])
        notes += grower.notes
    return Tree(tuple(branches), volume_mm3, tuple(notes))


class _Grower:
    """Makes one side's branches: the piece with the ostium first, then the pieces that do not touch it."""

    def __init__(self, lumen: Lumen, side: str, options: TreeOptions, first_id: int) -> None:
        self.lumen, self.side, self.options, self.first_id = lumen, side, options, first_id
        self.branches: list[Branch] = []
        self.notes: list[str] = []

    def grow(self, root: int) -> list[Branch]:
        others = pieces(self.lumen)[1:]
        self._add_piece(trace(self.lumen, root, self.options.min_branch_mm), None, 0.0)
        if len(others) > MAX_PIECES:
            self.notes.append(f"{self.side}: {len(others) - MAX_PIECES} small pieces were counted but not traced")
        for nodes in others[:MAX_PIECES]:
            self._add_detached(nodes)
        if not self.branches:
            self.notes.append(f"{self.side}: no piece is {self.options.min_branch_mm:g} mm long; no branch traced")
        return self.branches

    def _add_detached(self, nodes: Nodes) -> None:
        """Trace a piece from the point nearest to the tree so far, and hang it on the branch nearest to that."""
        if len(nodes) * self.lumen.voxel_mm * np.sqrt(3) < self.options.min_branch_mm:
            return
        parent, gap_mm, root = None, 0.0, farthest(self.lumen, int(nodes[0]))
        if self.branches:
            owner = np.repeat(np.arange(len(self.branches)), [len(branch.points_mm) for branch in self.branches])
            tree = cKDTree(np.concatenate([branch.points_mm for branch in self.branches]))
            gaps_mm, nearest = tree.query(self.lumen.points_mm[nodes])
            closest = int(np.argmin(gaps_mm))
            if gaps_mm[closest] <= self.options.max_gap_mm:
                parent, gap_mm = int(owner[nearest[closest]]), float(gaps_mm[closest])
                root = int(nodes[closest])
        self._add_piece(trace(self.lumen, root, self.options.min_branch_mm), parent, gap_mm)

    def _add_piece(self, paths: Iterable[Path], parent: int | None, gap_mm: float) -> None:
        base = len(self.branches)
        for path in paths:
            if path.parent is None:
                self._add(path, parent, gap_mm)
            else:
                self._add(path, base + path.parent, 0.0)

    def _add(self, path: Path, parent: int | None, gap_mm: float) -> None:
        points_mm, diameter_mm = refine(self.lumen, path)
        own = 0  # the first point that is this branch's own, outside its parent
        if parent is not None and path.parent is not None:
            trunk = self.branches[parent]
            to_trunk_mm, nearest = cKDTree(trunk.points_mm).query(points_mm)
            points_mm[0] = trunk.points_mm[nearest[0]]
            parted = to_trunk_mm >= (trunk.diameter_mm[nearest] + diameter_mm) / 2  # the two no longer share a wall
            own = int(np.argmax(parted)) if parted.any() else len(points_mm) - 1
            diameter_mm[:own] = diameter_mm[own]
        found = find_narrowings(
            points_mm[own:],
            diameter_mm[own:],
            self.lumen.voxel_mm,
            self.options.min_narrowing_percent,
            self.options.min_narrowing_length_mm,
        )
        before_mm = float(arc_length(points_mm)[own])
        narrowings = tuple(
            replace(narrowing, position_mm=narrowing.position_mm + before_mm)
            for narrowing in found
            if not self._is_cut_by_the_scan(narrowing)
        )
        self.branches.append(
            Branch(
                id=self.first_id + len(self.branches),
                side=self.side,
                parent=None if parent is None else self.first_id + parent,
                generation=0 if parent is None else self.branches[parent].generation + 1,
                points_mm=points_mm,
                diameter_mm=diameter_mm,
                length_mm=float(arc_length(points_mm)[-1]),
                mean_diameter_mm=float(diameter_mm[own:].mean()),
                min_diameter_mm=float(diameter_mm[own:].min()),
                gap_mm=gap_mm,
                narrowings=narrowings,
            )
        )

    def _is_cut_by_the_scan(self, narrowing: Narrowing) -> bool:
        """Whether the vessel there runs half outside the scan, and only looks thin."""
        edge_mm = self.lumen.points_mm[self.lumen.at_border]
        away_mm = np.linalg.norm(edge_mm - np.array(narrowing.point_mm), axis=1)
        return bool((away_mm < narrowing.reference_diameter_mm / 2 + self.lumen.voxel_mm).any())
