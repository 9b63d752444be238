"""Radiographs in: PNG, JPEG, TIFF, BMP and DICOM CR/DX, from a file or from memory.

Whatever it was, out comes a `Radiograph`: one float picture in 0..1 as displayed (EXIF orientation applied, bone
bright), windowed once, the same in training and in prediction. The content says the format, not the name.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Shaped
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from shared.errors import InputError
from shared.io.dicom_file import PREAMBLE_BYTES, is_dicom, looks_dicom
from shared.io.no_warnings import no_warnings
from shared.io.windowing import Grey, spread
from shared.types import PictureFormat, PictureSource, Radiograph

# Of what Pillow reads; MPO is a JPEG with a preview behind it, as cameras write.
FORMATS: dict[str, PictureFormat] = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "TIFF": "tiff", "BMP": "bmp"}
SUFFIXES: dict[str, PictureFormat] = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff", ".bmp": "bmp",
    ".dcm": "dicom", ".dicom": "dicom",
}  # fmt: skip
NOT_PICTURES = {b"GIF8": "a GIF", b"RIFF": "a WebP", b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive"}
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TAKEN = "give a PNG, JPEG, TIFF or DICOM file"
AGAIN = "export or copy it again"

MAX_PIXELS = 100_000_000  # a 14 x 17 inch film scanned at 600 dpi has 86 million
MAX_FILE_BYTES = 1 << 30
MIN_SIDE_PX = 16  # smaller than any icon: nothing can be seen on it


def read_radiograph(
    source: Path | str | bytes | BinaryIO, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Read a radiograph as float32 ``y x`` in 0..1, bone bright.

    Args:
        source: a path, the bytes of a file, or a file open for reading.
        name: what errors call it; the path, or "the picture" where there is none.
        max_pixels: more are refused before anything is decoded.

    Raises:
        InputError: it cannot be used; the message names the file, what is wrong and what to do. It never holds what
            a DICOM file says of the patient.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    where = name or (str(path) if path else "the picture")
    try:
        raw = _bytes(source, where)
        if looks_dicom(raw[:PREAMBLE_BYTES]):
            from shared.io.radiograph_dicom import read_dicom

            found = read_dicom(raw, where, max_pixels)
        else:
            found = _read_picture(raw, where, max_pixels)
    except MemoryError as error:
        raise InputError(where, "does not fit in this machine's memory", "make it smaller") from error
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0].lower()
        raise InputError(where, f"cannot be read: {reason}", "check the file and its permissions") from error
    named = SUFFIXES.get(Path(name or path or "").suffix.lower())
    notes = found.source.notes
    if named and named != found.source.format:
        notes = (*notes, f"its name says {named}, its content is {found.source.format}, which counts")
    return replace(found, source=replace(found.source, path=path, notes=notes))


def from_array(array: Shaped[np.ndarray, "y x ..."], *, spacing_mm: tuple[float, float] | None = None) -> Radiograph:
    """Make a radiograph of an array ``y x`` (grey, bone bright) or ``y x 3`` (RGB in 0..255).

    Raises:
        InputError: another shape, not numbers, not finite, or too small.
    """
    if array.dtype.kind not in "buif" or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        shape = " x ".join(map(str, array.shape))
        what = f"its shape {shape} of {array.dtype} is not that of a picture"
        raise InputError("the array", what, "give numbers y x, or y x 3 for RGB in 0..255")
    check_size("the array", array.shape[1], array.shape[0], MAX_PIXELS)
    grey, chroma = (array, 0.0) if array.ndim == 2 else (to_grey(array), chroma_of(array / 255))
    return _shown("the array", grey, PictureSource("array", chroma=chroma), spacing_mm)


def as_radiograph(image: Any) -> Radiograph:
    """Take a ``Radiograph``, an array, a path, bytes or an open file as a ``Radiograph``.

    Raises:
        InputError: it cannot be used.
    """
    if isinstance(image, Radiograph):
        return image
    return from_array(image) if isinstance(image, np.ndarray) else read_radiograph(image)


def is_radiograph(path: Path | str) -> bool:
    """Say whether `read_radiograph` takes this file: a known suffix, or it begins as DICOM files do."""
    path = Path(path)
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    return path.suffix.lower() in SUFFIXES or is_dicom(path)


def check_size(where: str, width_px: int, height_px: int, max_pixels: int) -> None:
    """Refuse a picture too small to show anything or too large to decode; before it is decoded.

    Raises:
        InputError: it is.
    """
    size = f"{width_px} x {height_px} px"
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise InputError(where, f"{size} are too few to see anything on", "give the original picture")
    if width_px * height_px > max_pixels:
        raise InputError(where, f"{size} are more than the {max_pixels:,} that are read", "make it smaller")


def to_grey(rgb: Shaped[np.ndarray, "y x 3"]) -> Float[np.ndarray, "y x"]:
    """Give the luma of red, green and blue (ITU-R BT.601)."""
    luma: Float[np.ndarray, "y x"] = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    return luma


def chroma_of(rgb: Shaped[np.ndarray, "y x 3"]) -> float:
    """Say how far from grey a picture in 0..1 is: largest less smallest channel, in the mean."""
    return float((rgb.max(axis=2) - rgb.min(axis=2)).mean())


def _bytes(source: Path | str | bytes | BinaryIO, where: str) -> bytes:
    """Read the whole file, bounded."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise InputError(where, "no such file", "check the name")
        if path.is_dir():
            raise InputError(where, "is a folder", "give one picture, or predict on the folder")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    else:
        raw = source if isinstance(source, bytes) else source.read(MAX_FILE_BYTES + 1)
    if not raw:
        raise InputError(where, "is empty", AGAIN)
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(where, f"is larger than {MAX_FILE_BYTES >> 30} GiB", "give one picture, not a series")
    return raw


def _read_picture(raw: bytes, where: str, max_pixels: int) -> Radiograph:
    """Read what Pillow reads; its size is known before its pixels are decoded."""
    with no_warnings():  # of Pillow's, about sizes and metadata
        try:
            image = Image.open(BytesIO(raw), formats=("PNG", "JPEG", "TIFF", "BMP"))
        except UnidentifiedImageError:
            if raw.startswith(TIFF_HEADS):
                raise _odd_tiff(where) from None
            known = next((what for head, what in NOT_PICTURES.items() if raw.startswith(head)), None)
            problem = f"is {known}, which is not read" if known else "is no picture, or its beginning is damaged"
            raise InputError(where, problem, TAKEN) from None
        except Image.DecompressionBombError:
            raise InputError(where, f"has more than the {max_pixels:,} px that are read", "make it smaller") from None
        except Exception as error:
            raise _damaged(where, error) from None
        with image:
            check_size(where, *image.size, max_pixels)
            if getattr(image, "is_animated", False) and image.format != "MPO":
                several = "is animated" if image.format == "PNG" else "holds several pages"
                raise InputError(where, several, "save the one picture to look at as a file of its own")
            if image.format == "TIFF" and _is_misread(image):
                raise _odd_tiff(where)
            try:
                grey, chroma = _decode(image)
            except (InputError, MemoryError):
                raise
            except Exception as error:  # decoders raise whatever they like on damaged data
                raise _damaged(where, error) from None
            return _shown(where, grey, PictureSource(FORMATS[str(image.format)], chroma=chroma))


def _decode(image: Image.Image) -> tuple[Grey, float]:
    """Give an image's grey values as displayed and its chroma; transparent pixels show the black behind them."""
    image.load()
    # Pillow heeds that for 8 bits, not for 16.
    white_is_zero = image.mode.startswith("I;16") and _tag(image, ExifTags.Base.PhotometricInterpretation) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return (np.iinfo(values.dtype).max - values if white_is_zero else values), 0.0
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    if image.mode == "L":
        return np.asarray(image), 0.0
    rgb = image.convert("RGB")
    few = np.asarray(rgb)[::4, ::4]  # enough for a mean
    return np.asarray(rgb.convert("L")), chroma_of(few / np.float32(255))


def _is_misread(image: Image.Image) -> bool:
    """Say whether Pillow 13 would take a TIFF's values for others: signed bytes, or colours in planes of words."""
    signed = _tag(image, ExifTags.Base.SampleFormat) == 2
    bits, planes = _tag(image, ExifTags.Base.BitsPerSample), _tag(image, ExifTags.Base.PlanarConfiguration)
    return (signed and bits == 8) or (planes == 2 and bits != 8 and len(image.getbands()) > 1)


def _tag(image: Image.Image, tag: ExifTags.Base) -> int | None:
    """Give a TIFF's tag, the first of its values where it has one for each colour; None in other formats."""
    found = getattr(image, "tag_v2", {}).get(tag)
    return found[0] if isinstance(found, tuple) else found


def _odd_tiff(where: str) -> InputError:
    problem = "is a TIFF that is damaged, or of a kind that is not read"
    return InputError(where, problem, "save it as a PNG of 8 or 16 bits")


def _shown(where: str, grey: Grey, source: PictureSource, spacing_mm: tuple[float, float] | None = None) -> Radiograph:
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise InputError(where, "some of its pixels are NaN or infinite", "set them to a number first")
    return Radiograph(spread(grey.astype(np.uint8) if grey.dtype == bool else grey), spacing_mm, source)


def _damaged(where: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(where, f"is damaged or truncated ({reason})", AGAIN)
