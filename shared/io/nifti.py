"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz): streamed in slabs, headers kept for the way back.

nibabel parses the header; the voxels are read here, because igzip inflates three times as fast as zlib and because a
slab at a time needs no second copy of a large scan.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from jaxtyping import UInt8
from nibabel import Nifti1Header, Nifti2Header
from nibabel.spatialimages import HeaderDataError

from shared.errors import InputError
from shared.io.checks import Canvas, as_float32, check_grid, farthest_corner_mm, format_mm, format_shape
from shared.types import Affine, Grid, Source, Volume

SLAB_BYTES = 1 << 24
GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1100  # deflate cannot do better than 1032 to 1
# A quaternion in float32 next to a half turn is off by up to 7e-4 rad, 0.2 mm at the corner of a scan.
QFORM_TOLERANCE_MM = 0.25
HEADER_SIZES: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
NO_NUMBERS = "give the scan's own file with one number per voxel"
INFLATE_ERRORS: tuple[type[Exception], ...] = (igzip.BadGzipFile, zlib.error, cast(type[Exception], IsalError))
COPY_AGAIN = "copy or download it again"


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file as a RAS+ volume.

    Raises:
        InputError: not a NIfTI file, truncated, not 3D, without a trustworthy affine, or with non-finite voxels.
    """
    with _opened(path) as file:
        header = _header(path, file)
        with _understood(path):
            shape = _shape(path, header)
            grid = check_grid(path, shape, _affine(path, header, shape))
            dtype = _dtype(path, header, shape)
            slope, intercept = header.get_slope_inter()
            start = int(header["vox_offset"])
        _skip(path, file, start - int(header["sizeof_hdr"]))
        canvas = Canvas(path, grid)
        per_slab = max(1, SLAB_BYTES // (shape[0] * shape[1] * dtype.itemsize))
        for first in range(0, shape[2], per_slab):
            count = min(per_slab, shape[2] - first)
            raw = _exactly(path, file, shape[0] * shape[1] * count * dtype.itemsize)
            slab = np.frombuffer(raw, dtype).reshape((shape[0], shape[1], count), order="F")
            canvas.fill(first, as_float32(slab, 1.0 if slope is None else slope, intercept or 0.0))
        file.read(1)  # reaches the end of a gzip stream, where its checksum is compared
    return canvas.volume(Source(grid, "nifti", path, header))


def nifti_bytes(labels: UInt8[np.ndarray, "i j k"], grid: Grid, header: Any = None) -> Iterator[bytes]:
    """Give the bytes of a uint8 NIfTI file, header first, then slab by slab.

    ``labels`` are in the grid's stored orientation. With a NIfTI ``header`` (the input's) its qform, sform, codes and
    pixdim are kept bit for bit; free text and extensions are not, for they may name the patient.
    """
    if isinstance(header, Nifti1Header):
        out = header.copy()
        for text in ("descrip", "aux_file", "intent_name"):
            out[text] = b""
        if int(out["sizeof_hdr"]) == 348:
            out["db_name"] = b""
        out.set_intent("none")
    else:
        out = Nifti1Header()
        out.set_sform(grid.affine, code=1)
        out.set_qform(grid.affine, code=1, strip_shears=True)
        out.set_xyzt_units("mm")
    out.set_data_dtype(np.uint8)
    out.set_data_shape(labels.shape)
    out["scl_slope"], out["scl_inter"] = 1, 0
    out["cal_min"], out["cal_max"] = 0, 0
    out["magic"] = out.single_magic
    start = int(out["sizeof_hdr"]) + 4
    out["vox_offset"] = start
    yield out.binaryblock + b"\0" * 4
    per_slab = max(1, SLAB_BYTES // (labels.shape[0] * labels.shape[1]))
    for first in range(0, labels.shape[2], per_slab):
        yield labels[:, :, first : first + per_slab].tobytes(order="F")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file, inflating .nii.gz, and turn what goes wrong while it is read into one line."""
    with path.open("rb") as raw:
        gzipped = raw.read(2) == GZIP_MAGIC
        if not raw.seek(0, os.SEEK_END):
            raise InputError(path, "is empty", "get the file again")
        raw.seek(0)
        if path.name.lower().endswith(".gz") and not gzipped:
            raise InputError(path, "is not gzip-compressed", "rename it if it is a plain .nii, else get the file again")
        if gzipped and not path.name.lower().endswith(".gz"):
            raise InputError(path, "is gzip-compressed", "rename it to .nii.gz")
        try:
            if gzipped:
                with igzip.IGzipFile(fileobj=raw, mode="rb") as inflated:
                    yield inflated
            else:
                yield raw
        except EOFError as error:
            raise InputError(path, "is truncated: its gzip stream ends too early", COPY_AGAIN) from error
        except INFLATE_ERRORS as error:
            raise InputError(path, f"is damaged: {error}", COPY_AGAIN) from error


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turn what nibabel and numpy raise on header fields that make no sense into one line."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            path, f"its header makes no sense: {(str(error) or type(error).__name__).splitlines()[0]}", COPY_AGAIN
        ) from error


def _exactly(path: Path, file: Any, count: int) -> bytearray:
    """Read ``count`` bytes, no fewer."""
    buffer = bytearray(count)
    view, got = memoryview(buffer), 0
    while got < count:
        read = file.readinto(view[got:])
        if not read:
            raise InputError(path, f"is truncated: {count - got} bytes are missing", COPY_AGAIN)
        got += read
    return buffer


def _skip(path: Path, file: Any, count: int) -> None:
    """Pass over header extensions."""
    if count < 0:
        raise InputError(path, "its header says the voxels begin inside the header", COPY_AGAIN)
    while count:
        step = min(count, SLAB_BYTES)
        _exactly(path, file, step)
        count -= step


def _header(path: Path, file: Any) -> Any:
    """Parse the header, of either version and either byte order."""
    first = file.read(4)
    for order in ("<", ">"):
        kind = HEADER_SIZES.get(int(np.frombuffer(first, f"{order}i4")[0])) if len(first) == 4 else None
        if kind is not None:
            break
    if kind is None:
        raise InputError(path, "is not a NIfTI file", "give a .nii or .nii.gz written by a NIfTI tool")
    size = 348 if kind is Nifti1Header else 540
    block = first + bytes(_exactly(path, file, size - 4))
    header = kind(block, endianness=order, check=False)
    if header["magic"].item().rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
        raise InputError(path, "is no single-file NIfTI (an Analyze or .hdr/.img pair?)", "convert it to .nii.gz")
    return header


def _shape(path: Path, header: Any) -> tuple[int, int, int]:
    """Give the three sizes; axes of one voxel after the third are dropped."""
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise InputError(path, f"its header's dimensions {dims} make no sense", COPY_AGAIN)
    shape = tuple(dims[1 : dims[0] + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        remedy = "give one frame of it as a 3D file" if len(shape) > 3 else "give a 3D scan"
        raise InputError(path, f"is {len(shape)}D ({format_shape(shape)}), not 3D", remedy)
    x, y, z = shape
    return x, y, z


def _dtype(path: Path, header: Any, shape: tuple[int, int, int]) -> np.dtype[Any]:
    """Give the stored number type; checks that the file can hold as many."""
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise InputError(path, f"its data type code {int(header['datatype'])} is unknown", NO_NUMBERS) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "colour" if dtype.names else f"{dtype}"
        raise InputError(path, f"its voxels are {kind} values, not CT numbers", NO_NUMBERS)
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    size = path.stat().st_size
    if path.name.lower().endswith(".gz"):
        size *= MAX_DEFLATE_RATIO
    if needed > size:
        raise InputError(path, f"is truncated: {format_shape(shape)} voxels cannot fit in it", COPY_AGAIN)
    return dtype


def _affine(path: Path, header: Any, shape: tuple[int, int, int]) -> Affine:
    """Give the sform, else the qform; refuses a file in which they, or the spacing beside them, disagree."""
    spacing = header["pixdim"][1:4].astype(np.float64)
    if not (spacing > 0).all():
        raise InputError(path, f"its spacing {format_mm(spacing)} is not positive", "correct its header")
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise InputError(path, f"its spatial unit is the {unit}", "convert it to mm")
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError) as error:
        raise InputError(path, "its qform quaternion is not a rotation", "correct its header") from error
    if sform is None and qform is None:
        raise InputError(
            path,
            "has no orientation (sform_code and qform_code are both 0), so left and right are unknown",
            "convert it again from DICOM, for example with dcm2niix",
        )
    if sform is None:
        return np.asarray(qform, dtype=np.float64)
    check_grid(path, shape, sform)
    if qform is not None and (apart := farthest_corner_mm(shape, sform, qform)) > QFORM_TOLERANCE_MM:
        raise InputError(
            path,
            f"its sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])}) "
            f"disagree by up to {apart:.1f} mm",
            "keep the right one: set the other's code to 0",
        )
    said = np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(said - spacing) * np.array(shape) > QFORM_TOLERANCE_MM).any():
        problem = f"its sform says a spacing of {format_mm(said)}, its pixdim {format_mm(spacing)}"
        raise InputError(path, problem, "correct the one that is wrong")
    return np.asarray(sform, dtype=np.float64)
