"""Result types and array shapes that every task shares.

A volume is ``x y z`` in RAS+: the first index grows towards the patient's right, the second towards the front,
the third towards the head. Affines map voxel indices (of voxel centres) to RAS millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

Affine = Float64[np.ndarray, "4 4"]
VolumeArray = Float32[np.ndarray, "x y z"]
LabelArray = UInt8[np.ndarray, "x y z"]
MaskArray = Bool[np.ndarray, "x y z"]
Space = Literal["RAS", "LPS"]
Format = Literal["nifti", "nrrd", "mha", "dicom", "array"]


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
