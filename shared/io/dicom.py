"""A DICOM series as a volume: find the slices, choose the series, sort them, check their geometry, read them.

Nothing is guessed: slices that are missing, doubled, tilted or unevenly spaced are named and refused. The distance
between slices comes from their positions; SliceThickness is not the spacing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float64
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from shared.errors import InputError
from shared.io.archive import Files
from shared.io.checks import MAX_SHEAR_DEG, Canvas, as_float32, check_grid, format_mm, format_shape, lps_to_ras
from shared.io.dicom_file import PREAMBLE_BYTES, looks_dicom
from shared.io.no_warnings import no_warnings
from shared.types import Affine, Source, Volume

# A slice may lie this far from where an even spacing puts it: positions are often rounded to 0.1 mm.
POSITION_TOLERANCE_MM = 0.1
COSINE_TOLERANCE = 1e-3
AXIAL_COSINE = 0.8  # a series whose normal is within 37 degrees of head-feet counts as axial
SAME_PLACE_MM = 0.01
USED = (
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType", "NumberOfFrames", "SamplesPerPixel"),
    "Modality",
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
)
AGAIN = "export the whole series once more"


@dataclass(frozen=True, slots=True)
class Slice:
    """One picture of a series: its file's name in the folder or zip, and its header."""

    name: str
    header: pydicom.Dataset

    @property
    def position_mm(self) -> Float64[np.ndarray, "3"]:
        """Centre of the first pixel, LPS mm."""
        return np.array(self.header.ImagePositionPatient, dtype=np.float64)

    @property
    def cosines(self) -> Float64[np.ndarray, "6"]:
        """Direction along a row, then along a column, LPS; unit vectors though the file rounds them."""
        rounded = np.array(self.header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        directions: Float64[np.ndarray, "6"] = (rounded / np.linalg.norm(rounded, axis=1, keepdims=True)).ravel()
        return directions

    @property
    def normal(self) -> Float64[np.ndarray, "3"]:
        """Direction across the slices, LPS."""
        return np.cross(self.cosines[:3], self.cosines[3:])


def read_series(path: Path, series: str | None = None) -> Volume:
    """Read one series of a folder (and the folders below it) or of a .zip as a RAS+ volume in HU.

    Args:
        path: the folder or zip.
        series: SeriesInstanceUID, SeriesNumber, or part of SeriesDescription; else the largest axial series is read.

    Raises:
        InputError: no series, no such series, or one that is not CT or not an even stack of slices of one size.
    """
    with Files(path) as files:
        found, unplaced = _find(path, files)
        chosen, notes = _choose(path, found, series)
        slices = _sorted(path, chosen)
        if left_out := unplaced[_uid(slices[0].header)]:
            notes = (*notes, f"{left_out} files of the series are no grey slices with a position and were left out")
        shape = (int(slices[0].header.Columns), int(slices[0].header.Rows), len(slices))
        grid = check_grid(path, shape, _affine(path, slices))
        canvas = Canvas(path, grid)
        for k, one in enumerate(slices):
            canvas.fill(k, _hounsfield(path, files, one))
    names = tuple(files.path(one.name) for one in slices)
    return canvas.volume(Source(grid, "dicom", path, dicom_files=names, notes=notes))


def read_headers(source: Source) -> list[pydicom.Dataset]:
    """Read the headers of a source's slices, in the order of its grid's last axis; also from a zip.

    Raises:
        InputError: a file is gone or damaged.
    """
    assert source.path is not None
    with Files(source.path) as files:
        names = [file.relative_to(source.path).as_posix() for file in source.dicom_files]
        return [_parse(source.path, files, name) for name in names]


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Turn what pydicom and zipfile raise on one slice into a line that names it; their warnings are not for people."""
    try:
        with no_warnings():
            yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like on damaged data
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(path, f"slice {name} cannot be read: {reason}", AGAIN) from error


def _parse(path: Path, files: Files, name: str) -> pydicom.Dataset:
    with _reading(path, name), files.open(name) as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        for keyword in USED:  # pydicom converts a value, and complains of it, when it is first asked for
            header.get(keyword)
        return header


def _find(path: Path, files: Files) -> tuple[list[list[Slice]], Counter[str]]:
    """Group the slices by series; counts what else each series holds."""
    found: dict[str, list[Slice]] = {}
    unplaced: Counter[str] = Counter()
    multiframe = False
    for name in files.names():
        with _reading(path, name):
            head = files.head(name, PREAMBLE_BYTES)
        if not looks_dicom(head) or name.rpartition("/")[2] == "DICOMDIR":
            continue
        header = _parse(path, files, name)
        if _is_slice(header):
            found.setdefault(_uid(header), []).append(Slice(name, header))
        else:
            unplaced[_uid(header)] += 1
            multiframe |= _frames(header) > 1
    if not found:
        read = unplaced.total()
        what = f"{read} DICOM files, but none is a slice with a position in space" if read else "no DICOM files"
        what = "multi-frame DICOM, which is not read" if multiframe else what
        raise InputError(path, f"holds {what}", "give the folder of a CT series, or convert it with dcm2niix")
    return list(found.values()), unplaced


def _is_slice(header: pydicom.Dataset) -> bool:
    """Say whether this is a grey picture of one frame with a place in space, and no scout view."""
    sizes = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    placed = all(_holds(header.get(key), n) for key, n in sizes.items())
    if placed:
        directions = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        placed = bool(np.abs(np.linalg.norm(directions, axis=1) - 1).max() < COSINE_TOLERANCE)
    sized = all(isinstance(header.get(key), int) and header.get(key) for key in ("Rows", "Columns"))
    grey = header.get("SamplesPerPixel", 1) == 1 and _frames(header) == 1
    return placed and sized and grey and "LOCALIZER" not in str(header.get("ImageType"))


def _holds(value: Any, count: int) -> bool:
    """Say whether a header's value is so many finite numbers."""
    numbers = isinstance(value, MultiValue) and len(value) == count and all(isinstance(item, float) for item in value)
    return numbers and all(math.isfinite(item) for item in value)


def _frames(header: pydicom.Dataset) -> int:
    frames = header.get("NumberOfFrames") or 1
    return frames if isinstance(frames, int) else 0


def _uid(header: pydicom.Dataset) -> str:
    return str(header.get("SeriesInstanceUID") or "")


def _choose(path: Path, found: list[list[Slice]], wanted: str | None) -> tuple[list[Slice], tuple[str, ...]]:
    """Pick the series that was asked for, else the largest axial one; says what it picked and what it left."""
    listing = "; ".join(_describe(slices) for slices in found)
    if wanted is None:
        of_ct = [slices for slices in found if _modality(slices) == "CT"] or found
        axial = [slices for slices in of_ct if abs(slices[0].normal[2]) > AXIAL_COSINE]
        chosen = max(axial or of_ct, key=len)
        if len(found) == 1:
            return chosen, ()
        which = "largest axial" if axial else "largest (none is axial)"
        return chosen, (f"of {len(found)} series the {which} was read: {_describe(chosen)}; there are {listing}",)
    hits = [slices for slices in found if _matches(slices[0].header, wanted.strip())]
    if len(hits) != 1:
        problem = f"{len(hits) or 'none'} of its series match {wanted!r}"
        raise InputError(path, problem, f"give --series the number, UID or description of one of: {listing}")
    return hits[0], (f"series read: {_describe(hits[0])}",)


def _modality(slices: list[Slice]) -> str:
    """Give a series' modality; one that does not say counts as CT."""
    return str(slices[0].header.get("Modality") or "CT")


def _matches(header: pydicom.Dataset, wanted: str) -> bool:
    if wanted in (str(header.get("SeriesInstanceUID")), str(header.get("SeriesNumber"))):
        return True
    return bool(wanted) and wanted.casefold() in str(header.get("SeriesDescription") or "").casefold()


def _describe(slices: list[Slice]) -> str:
    header = slices[0].header
    number, name = header.get("SeriesNumber"), str(header.get("SeriesDescription") or "unnamed")
    return f"{'?' if number is None else number} {name!r} ({len(slices)} slices)"


def _sorted(path: Path, slices: list[Slice]) -> list[Slice]:
    """Sort along the normal, after checking that all are of one size, direction and pixel spacing."""
    first = slices[0]
    if _modality(slices) != "CT":
        problem = f"series {_describe(slices)} is {_modality(slices)}: its values are no Hounsfield units"
        raise InputError(path, problem, "give the folder of a CT series")
    if len(slices) < 2:
        raise InputError(path, f"series {_describe(slices)} is a single slice", AGAIN)
    size = (first.header.Columns, first.header.Rows)
    for one in slices:
        own = (one.header.Columns, one.header.Rows)
        if own != size:
            problem = f"slices of unequal size: {one.name} is {format_shape(own)}, {first.name} {format_shape(size)}"
            raise InputError(path, problem, AGAIN)
        if np.abs(one.cosines - first.cosines).max() > COSINE_TOLERANCE:
            raise InputError(path, f"slices {one.name} and {first.name} lie in different directions", AGAIN)
        if not np.allclose(one.header.PixelSpacing, first.header.PixelSpacing, rtol=1e-3, atol=0):
            raise InputError(path, f"slices {one.name} and {first.name} differ in pixel spacing", AGAIN)
    return sorted(slices, key=lambda one: float(one.position_mm @ first.normal))


def _affine(path: Path, slices: list[Slice]) -> Affine:
    """Give the affine from (column, row, slice) to RAS mm: DICOM PS3.3 C.7.6.2.1.1, with the slice step measured.

    Raises:
        InputError: doubled, missing, unevenly spaced or sideways shifted slices, or a tilted gantry.
    """
    first = slices[0]
    rows_mm, columns_mm = (float(value) for value in first.header.PixelSpacing)
    if not (rows_mm > 0 and columns_mm > 0):
        raise InputError(path, f"its pixel spacing {format_mm((columns_mm, rows_mm))} is not positive", AGAIN)
    positions = np.array([one.position_mm for one in slices])
    _check_spacing(path, slices, (positions - positions[0]) @ first.normal)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    tilt_deg = float(np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))))
    if tilt_deg > MAX_SHEAR_DEG:
        problem = f"the gantry was tilted: its slices are shifted {tilt_deg:.1f} degrees from their normal"
        raise InputError(path, problem, "straighten it first, for example with dcm2niix")
    sideways = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if sideways.max() > POSITION_TOLERANCE_MM:
        worst = slices[int(sideways.argmax())].name
        raise InputError(path, f"slice {worst} lies {sideways.max():.2f} mm off the line of the others", AGAIN)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = first.cosines[:3] * columns_mm, first.cosines[3:] * rows_mm
    lps[:3, 2], lps[:3, 3] = step, positions[0]
    return lps_to_ras(lps)


def _check_spacing(path: Path, slices: list[Slice], along_mm: Float64[np.ndarray, " n"]) -> None:
    """Refuse doubled, missing and unevenly spaced slices; names the two between which it happens."""
    gaps = np.diff(along_mm)
    usual = float(np.median(gaps))

    def pair(k: int) -> str:
        return f"{slices[k].name} and {slices[k + 1].name}"

    doubled = np.flatnonzero(gaps < SAME_PLACE_MM)
    if len(doubled):
        problem = f"{len(doubled)} of its slices are duplicated, such as {pair(int(doubled[0]))}, at one position"
        raise InputError(path, problem, "keep one slice (one phase, one reconstruction) for each position")
    if np.abs(along_mm - np.linspace(0, along_mm[-1], len(along_mm))).max() <= POSITION_TOLERANCE_MM:
        return
    worst = int(np.abs(gaps - usual).argmax())
    missing = round(float(gaps[worst] / usual)) - 1
    apart = f"{pair(worst)} are {gaps[worst]:.2f} mm apart, others {usual:.2f} mm"
    if missing >= 1 and abs(gaps[worst] - (missing + 1) * usual) < 0.1 * usual:
        raise InputError(path, f"slices are missing ({missing} between two others): {apart}", AGAIN)
    raise InputError(path, f"its spacing is uneven: {apart}", "resample it to even slices first, or use another series")


def _hounsfield(path: Path, files: Files, one: Slice) -> Float64[np.ndarray, "column row 1"]:
    """Decode one slice and apply its rescale slope and intercept."""
    with _reading(path, one.name), files.open(one.name) as file:
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file from before there were file headers
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        raw = dataset.pixel_array.transpose()[:, :, None]
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        if raw.shape[:2] != (one.header.Columns, one.header.Rows):
            raise ValueError(f"its pixels are {format_shape(raw.shape[:2])}, its header says otherwise")
        return as_float32(raw, 1.0 if slope is None else float(slope), float(intercept or 0.0))
