"""Result types and array shapes that every task shares.

A volume is ``x y z`` in RAS+: the first index grows towards the patient's right, the second towards the front,
the third towards the head. Affines map voxel indices (of voxel centres) to RAS millimetres. A picture is ``y x``; a
box is ``x1 y1 x2 y2`` in pixels of the picture as displayed, where pixel i reaches from i to i + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

Affine = Float64[np.ndarray, "4 4"]
VolumeArray = Float32[np.ndarray, "x y z"]
LabelArray = UInt8[np.ndarray, "x y z"]
MaskArray = Bool[np.ndarray, "x y z"]
PictureArray = Float32[np.ndarray, "y x"]
Boxes = Float32[np.ndarray, "n 4"]
Polygon = Float32[np.ndarray, "corner 2"]
Space = Literal["RAS", "LPS"]
Format = Literal["nifti", "nrrd", "mha", "dicom", "array"]
PictureFormat = Literal["png", "jpeg", "tiff", "bmp", "dicom", "array"]
SpacingOrigin = Literal[
    "PixelSpacing", "ImagerPixelSpacing", "ImagerPixelSpacing over magnification", "NominalScannedPixelSpacing"
]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie: ``shape`` (3 ints) and a 4x4 ``affine`` from voxel index to RAS mm."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each index axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel, mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@dataclass(frozen=True, slots=True)
class Source:
    """The grid and file a volume came from, so that results can go back onto exactly that.

    ``grid`` is as stored (not turned to RAS+). ``header`` is the NIfTI header where there was one;
    ``dicom_files`` are the slices of a DICOM series in the order of ``grid``'s last axis.
    """

    grid: Grid
    format: Format = "array"
    path: Path | None = None
    header: Any = None
    dicom_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()  # what the reader chose or noticed, for people


@dataclass(frozen=True, slots=True)
class Volume:
    """A scan: ``array`` float32 ``x y z`` in RAS+ (HU for CT), its ``affine``, and where it came from."""

    array: VolumeArray
    affine: Affine
    source: Source

    @property
    def grid(self) -> Grid:
        """The RAS+ grid that ``array`` lies on."""
        x, y, z = self.array.shape
        return Grid((x, y, z), self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z, mm."""
        return self.grid.spacing_mm


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A label map: ``labels`` uint8 ``x y z`` in RAS+ on its volume's grid; ``names`` maps label to name.

    An empty map is a finding: ``findings`` then says why nothing was painted.
    """

    labels: LabelArray
    affine: Affine
    names: Mapping[int, str]
    source: Source
    findings: tuple[str, ...] = field(default=())

    @property
    def grid(self) -> Grid:
        """The RAS+ grid that ``labels`` lies on."""
        x, y, z = self.labels.shape
        return Grid((x, y, z), self.affine)


@dataclass(frozen=True, slots=True)
class PictureSource:
    """What a picture came from: its file (None if from memory), and what its reader saw.

    ``spacing_from`` is the DICOM attribute the spacing stands in; "over magnification" is in the patient's plane.
    ``chroma`` is how far from grey the file was: the mean over its pixels of the largest less the smallest of red,
    green and blue, in 0..1.
    """

    format: PictureFormat = "array"
    path: Path | None = None
    spacing_from: SpacingOrigin | None = None
    chroma: float = 0.0
    notes: tuple[str, ...] = ()  # what the reader chose or noticed, for people


@dataclass(frozen=True, slots=True)
class Radiograph:
    """A picture as displayed, bone bright: ``array`` float32 ``y x`` in 0..1, windowed once.

    ``spacing_mm`` is the distance between pixels down and across, where the file knows it.
    """

    array: PictureArray
    spacing_mm: tuple[float, float] | None = None
    source: PictureSource = field(default_factory=PictureSource)

    @property
    def width_px(self) -> int:
        """Columns of the picture as displayed."""
        return int(self.array.shape[1])

    @property
    def height_px(self) -> int:
        """Rows of the picture as displayed."""
        return int(self.array.shape[0])


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found on a picture of ``width_px`` by ``height_px``: one box, score in 0..1 and label each.

    ``boxes_px`` are ``x1 y1 x2 y2`` in pixels of the picture as given; ``names`` maps label to name. ``polygons_px``
    are outlines, ``x y`` a corner, one for each box, or None where the model draws none. No boxes is a finding:
    ``findings`` then says why, if there is a reason.

    Raises:
        ValueError: the parts are not of one length, or a box is not from top left to bottom right, or not finite.
    """

    boxes_px: Boxes
    scores: Float32[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    names: Mapping[int, str]
    width_px: int
    height_px: int
    polygons_px: tuple[Polygon, ...] | None = None
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = self.boxes_px.shape == (count, 4) and self.scores.shape == self.labels.shape == (count,)
        if not shapes or (self.polygons_px is not None and len(self.polygons_px) != count):
            raise ValueError(f"boxes {self.boxes_px.shape}, {count} scores, {len(self.labels)} labels do not belong")
        if not (np.isfinite(self.boxes_px).all() and (self.boxes_px[:, :2] <= self.boxes_px[:, 2:]).all()):
            raise ValueError("boxes must be finite, x1 <= x2 and y1 <= y2")
        if unknown := set(self.labels.tolist()) - set(self.names):
            raise ValueError(f"labels {sorted(unknown)} have no name")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Int64[np.ndarray, " kept"] | Bool[np.ndarray, " n"]) -> Self:
        """Return only those detections, by place or by yes and no, in that order."""
        places = np.arange(len(self))[which]
        polygons = None if self.polygons_px is None else tuple(self.polygons_px[k] for k in places)
        return replace(
            self, boxes_px=self.boxes_px[places], scores=self.scores[places], labels=self.labels[places],
            polygons_px=polygons,
        )  # fmt: skip
