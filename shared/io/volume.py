"""Scans in: NIfTI, NRRD, MHA, a DICOM series as a folder or a zip, an array, a SimpleITK image.

Whatever it was, out comes a `Volume`: float32, RAS+, x fastest in memory, with the stored grid beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from shared.errors import InputError
from shared.io import dicom
from shared.io.checks import Canvas, check_grid, format_shape, lps_to_ras
from shared.io.dicom_file import is_dicom
from shared.io.nifti import read_nifti
from shared.types import Affine, Format, Grid, Source, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_FORMATS: dict[str, Format] = {".nrrd": "nrrd", ".mha": "mha", ".mhd": "mha"}
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_FORMATS, ".zip")
TAKEN = "give .nii, .nii.gz, .nrrd, .mha, .mhd, a DICOM series folder or a .zip of one"


def read_volume(path: Path | str, *, series: str | None = None) -> Volume:
    """Read a scan as float32 ``x y z`` in RAS+; ``series`` picks one of a folder's DICOM series.

    Raises:
        InputError: it cannot be used; the message names the file, what is wrong and what to do.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(path, "no such file or folder", "check the name")
        suffix = _suffix(path)
        if path.is_dir() or suffix == ".zip":
            return dicom.read_series(path, series)
        if suffix in NIFTI_SUFFIXES:
            return read_nifti(path)
        if suffix in ITK_FORMATS:
            return _read_itk(path)
        if suffix == ".dcm" or is_dicom(path):
            raise InputError(path, "is one DICOM file, a single slice", "give the folder that holds the whole series")
        raise InputError(path, "is of a kind that is not read", TAKEN)
    except MemoryError as error:
        raise InputError(path, "does not fit in this machine's memory", "crop it or use a larger machine") from error
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0].lower()
        raise InputError(path, f"cannot be read: {reason}", "check the file and its permissions") from error


def from_array(array: Shaped[np.ndarray, "x y z"], affine: Affine, *, source: Source | None = None) -> Volume:
    """Make a volume of an array with an affine from its indices to RAS mm; the array is copied.

    Raises:
        InputError: not 3D, not numbers, non-finite, or the affine is unusable.
    """
    path = source.path if source and source.path else "the array"
    if array.dtype.kind not in "biuf":
        raise InputError(path, f"its values are {array.dtype}, not numbers", "give one number per voxel")
    grid = check_grid(path, array.shape, affine)
    canvas = Canvas(path, grid)
    canvas.fill(0, array)
    return canvas.volume(source or Source(grid))


def from_sitk(image: Any, *, path: Path | None = None) -> Volume:
    """Make a volume of a 3D scalar SimpleITK image (LPS mm).

    Raises:
        InputError: not 3D, colour, non-finite, or a degenerate direction.
    """
    import SimpleITK as sitk  # noqa: N813

    where = path or Path("the image")
    grid = _itk_grid(where, image)
    array = sitk.GetArrayViewFromImage(image).transpose().reshape(grid.shape, order="F")
    kind: Format = ITK_FORMATS[_suffix(path)] if path else "array"
    return from_array(array, grid.affine, source=Source(grid, kind, path))


def is_volume(path: Path | str) -> bool:
    """Say whether `read_volume` takes this: a known suffix, or a folder with a DICOM file directly in it.

    So is a folder that may not be listed: `read_volume` then says why.
    """
    path = Path(path)
    if path.name.startswith("."):
        return False
    if path.is_dir():
        try:
            return any(entry.is_file() and is_dicom(entry) for entry in path.iterdir())
        except OSError:
            return True
    return path.is_file() and _suffix(path) in SUFFIXES


def stem(path: Path | str) -> str:
    """Give a scan's name without the suffix of its format: ``scan.nii.gz`` is ``scan``; a folder keeps its name."""
    path = Path(path)
    return path.name if path.is_dir() else path.name[: len(path.name) - len(_suffix(path))]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def _read_itk(path: Path) -> Volume:
    """Read NRRD or MetaImage with SimpleITK, whose many-line errors become one."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()
    failing = "its header cannot be understood"
    try:
        reader.ReadImageInformation()
        _itk_grid(path, reader)
        failing = "its voxels cannot be read: truncated or damaged"
        image = reader.Execute()
    except RuntimeError as error:
        traces = re.findall(r"^\[nrrd\] \w+: (.+)$", str(error), re.MULTILINE)
        reason = f" ({traces[-1]})" if traces else ""
        raise InputError(path, failing + reason, "get it again, or convert it to .nii.gz") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    return from_sitk(image, path=path)


def _itk_grid(path: Path, image: Any) -> Grid:
    """Give the stored grid of an image, or of a reader that knows its header; refuses colour and what is not 3D."""
    shape = tuple(image.GetSize())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(path, f"is {len(shape)}D ({format_shape(shape)}), not 3D", "give one 3D scan")
    per_voxel = "GetNumberOfComponents" if hasattr(image, "GetNumberOfComponents") else "GetNumberOfComponentsPerPixel"
    components = getattr(image, per_voxel)()
    if components != 1:
        raise InputError(path, f"has {components} values per voxel (colour?)", "give one number per voxel")
    axes = image.GetDimension()
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3] * np.array(image.GetSpacing()[:3])
    lps[:3, 3] = image.GetOrigin()[:3]
    return check_grid(path, shape, lps_to_ras(lps))
