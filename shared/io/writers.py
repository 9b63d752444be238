"""Results out: masks on the input's grid, DICOM SEG, STL, JSON, CSV. Each appears whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from jaxtyping import Float, Integer, UInt8

from shared.errors import SetupError
from shared.geometry import from_ras
from shared.io.atomic import whole
from shared.io.checks import lps_to_ras
from shared.io.nifti import nifti_bytes
from shared.types import Grid, Segmentation

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")
FASTEST = 1  # igzip's levels run to 3; masks are nearly all zero, so more effort gains little


def write_mask(segmentation: Segmentation, path: Path | str) -> None:
    """Write the labels as uint8 on the input's exact stored grid; the suffix says the format.

    .nii and .nii.gz keep a NIfTI input's affines, codes and spacing bit for bit. The same mask gives the same bytes.

    Raises:
        SetupError: a suffix that is not written, or the file cannot be written.
    """
    path = Path(path)
    grid, header = segmentation.source.grid, segmentation.source.header
    stored = from_ras(segmentation.labels, grid)
    name = path.name.lower()
    if not name.endswith(NIFTI_SUFFIXES + ITK_SUFFIXES):
        raise SetupError(f"{path}: masks are not written in this format; end its name in .nii.gz, .nii, .nrrd or .mha")
    with whole(path) as aside:
        if name.endswith(ITK_SUFFIXES):
            _write_itk(stored, grid, aside)
            return
        with aside.open("wb") as file:
            if name.endswith(".gz"):
                with igzip.IGzipFile("", "wb", FASTEST, file, mtime=0) as packed:  # no name, no time
                    packed.writelines(nifti_bytes(stored, grid, header))
            else:
                file.writelines(nifti_bytes(stored, grid, header))


def _write_itk(stored: UInt8[np.ndarray, "i j k"], grid: Grid, path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose()))
    affine = lps_to_ras(grid.affine)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


def write_json(data: Any, path: Path | str) -> None:
    """Write plain data as indented JSON; numpy scalars and arrays become numbers and lists, NaN becomes null.

    Raises:
        SetupError: the file cannot be written.
    """
    with whole(path) as aside:
        aside.write_text(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Give what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path | str) -> None:
    """Write rows as a table; its columns are the rows' keys in the order they first appear.

    Raises:
        SetupError: the file cannot be written.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_stl(
    vertices_mm: Float[np.ndarray, "vertices 3"], faces: Integer[np.ndarray, "triangles 3"], path: Path | str
) -> None:
    """Write a mesh in RAS mm as binary STL in LPS mm, which DICOM tools and 3D Slicer expect; its header says so.

    Raises:
        SetupError: the file cannot be written.
    """
    corners = np.asarray(vertices_mm, np.float32)[faces] * np.array([-1, -1, 1], np.float32)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    triangles = np.zeros(len(corners), record)
    triangles["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    triangles["corners"] = corners
    with whole(path) as aside, aside.open("wb") as file:
        file.write(b"Skiagram; SPACE=LPS; mm".ljust(80))
        file.write(np.uint32(len(triangles)).astype("<u4").tobytes())
        file.write(triangles.tobytes())
