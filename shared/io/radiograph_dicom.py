"""A DICOM radiograph as a picture: modality LUT, then VOI LUT or window, then MONOCHROME1 (DICOM PS3.4, N.2).

Nothing that the file says of the patient gets into an error or a log: pydicom's own texts quote values, so none is
passed on.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pydicom
from jaxtyping import Bool, Shaped
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from shared.errors import InputError, SetupError, SkiagramError
from shared.io.no_warnings import no_warnings
from shared.io.radiograph import AGAIN, check_size, chroma_of, to_grey
from shared.io.windowing import Grey, WindowShape, apply_table, apply_window, spread
from shared.types import PictureSource, Radiograph, SpacingOrigin

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values, such as a name

NO_RADIOGRAPHS = {
    "CT": "a CT slice", "MR": "an MR slice", "PT": "a PET slice", "NM": "a nuclear medicine picture",
    "US": "an ultrasound picture", "SEG": "a segmentation", "RTDOSE": "a dose grid",
}  # fmt: skip
DEFLATED = b"1.2.840.10008.1.2.1.99"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
# A JPEG's frame headers SOF0 to SOF15 (less DHT, JPG and DAC), and JPEG-LS's SOF55: ITU-T T.81, T.87.
SOF = (*(0xC0 + n for n in range(16) if n not in (4, 8, 12)), 0xF7)
J2K_START = b"\xff\x4f\xff\x51"  # SOC, then SIZ: ITU-T T.800
JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"  # ITU-T T.800, I.5.1
MAX_SPACING_MM = 10.0


def read_dicom(raw: bytes, where: str, max_pixels: int) -> Radiograph:
    """Read the bytes of a DICOM file as a radiograph; ``where`` is what errors call it.

    The first VOI LUT, or else the first window, is the one used. Padding outside the exposed field becomes 0.

    Raises:
        InputError: it is no single radiograph of at most ``max_pixels``, or is damaged.
        SetupError: the decoder of its pixels is not installed.
    """
    if DEFLATED in raw:  # inflated whole by pydicom, however large; the file's header may be long, too
        raise InputError(where, "is a deflated DICOM file, which is not read", "store it uncompressed or as JPEG 2000")
    with _damage(where, "its DICOM header"):
        header = pydicom.dcmread(BytesIO(raw), force=True)
        _check_kind(where, header, max_pixels)
        spacing_mm, origin, notes = _spacing(header)
        if header.get("PresentationIntentType") == "FOR PROCESSING":
            notes = (*notes, "it is the detector's raw data (FOR PROCESSING), not the picture to look at")
        _check_coding(where, header)
    with _damage(where, f"its pixels ({header.file_meta.TransferSyntaxUID.name})"):
        pixels = pixel_array(header)
    if header.PhotometricInterpretation not in GREY:
        with _damage(where, "its colours"):
            rgb, top = _colours(pixels, header)
        source = PictureSource("dicom", None, origin, chroma_of(rgb / np.float32(top)), notes)
        return Radiograph(spread(to_grey(rgb)), spacing_mm, source)
    with _damage(where, "its look-up table or window"):
        padding = _padding(pixels, header)
        values, note = _values_of_interest(_modality(pixels, header), header)
    picture = spread(values, padding, inverted=header.PhotometricInterpretation == "MONOCHROME1")
    return Radiograph(picture, spacing_mm, PictureSource("dicom", None, origin, 0.0, notes + note))


@contextmanager
def _damage(where: str, part: str) -> Iterator[None]:
    """Turn what pydicom and its decoders raise into a line without what they quote; their warnings are not shown."""
    try:
        with no_warnings():
            yield
    except (SkiagramError, MemoryError):
        raise
    except BaseException as error:  # damaged data raises whatever it likes, OSError included
        panic = type(error).__name__ == "PanicException"  # pylibjpeg-rle's, which is no Exception
        if not (isinstance(error, Exception) or panic):
            raise
        problem = f"{part} cannot be read: damaged or truncated ({type(error).__name__})"
        raise InputError(where, problem, AGAIN) from None


def _check_kind(where: str, header: pydicom.Dataset, max_pixels: int) -> None:
    """Refuse what is no single picture, what another machine made, and what is too large."""
    modality = str(header.get("Modality") or "")
    if modality in NO_RADIOGRAPHS and "LOCALIZER" not in str(header.get("ImageType")):
        raise InputError(where, f"is {NO_RADIOGRAPHS[modality]}, no radiograph", "give a CR or DX file")
    frames = header.get("NumberOfFrames") or 1
    if frames != 1:
        raise InputError(where, f"holds {int(frames)} frames, not one picture", "export the one frame to look at")
    if "PixelData" not in header:
        raise InputError(where, "holds no picture, or is cut off before it", "give a CR or DX file")
    photometric = header.get("PhotometricInterpretation")
    if photometric not in GREY + COLOUR:
        raise InputError(where, "does not say how its values are shown (PhotometricInterpretation)", AGAIN)
    if photometric in GREY and header.get("HighBit", header.BitsStored - 1) != header.BitsStored - 1:
        raise InputError(where, f"has {header.BitsStored} bits up to bit {header.HighBit}, not from bit 0", AGAIN)
    check_size(where, int(header.Columns), int(header.Rows), max_pixels)


def _check_coding(where: str, header: pydicom.Dataset) -> None:
    """Check that the pixels' coding is known, and that they are no larger than the header says, before decoding."""
    if not hasattr(header, "file_meta") or not header.file_meta.get("TransferSyntaxUID"):
        _guess_uncompressed(where, header)
    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax) if syntax.is_compressed else None
    except NotImplementedError:
        raise InputError(where, f"is coded as {syntax.name}, which is not read", "store it uncompressed") from None
    if decoder is None:
        return
    if not decoder.is_available:
        wanted = " or ".join(decoder.missing_dependencies) or "a decoder"
        raise SetupError(f"{where}: is coded as {syntax.name}, but no decoder is installed; install {wanted}")
    if syntax == RLELossless:
        return  # its decoder goes by the header
    size = _codestream_size(next(generate_frames(header.PixelData, number_of_frames=1)))
    own = (int(header.Columns), int(header.Rows))
    if size is None:
        raise InputError(where, f"its pixels ({syntax.name}) do not say how large they are", AGAIN)
    if size != own:
        coded, said = (" x ".join(map(str, pair)) for pair in (size, own))
        what = f"its pixels are {coded} px, its header says {said} px"
        raise InputError(where, what, AGAIN)


def _guess_uncompressed(where: str, header: pydicom.Dataset) -> None:
    """Give a file from before there were file headers the transfer syntax it shows, if its pixels are plainly raw."""
    expected = header.Rows * header.Columns * header.get("SamplesPerPixel", 1) * header.BitsAllocated // 8
    implicit, little = header.original_encoding
    if len(header.PixelData) != expected + expected % 2:
        raise InputError(where, "does not say how its pixels are coded (no transfer syntax)", AGAIN)
    if not hasattr(header, "file_meta"):
        header.file_meta = pydicom.dataset.FileMetaDataset()
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Give columns and rows as a JPEG, JPEG-LS or JPEG 2000 codestream itself says; None if it is none of them."""
    start = _codestream_start(frame)
    if frame.startswith(J2K_START, start):
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return right - left, bottom - top
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame):
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in SOF:
            rows, columns = struct.unpack_from(">2H", frame, at + 5)
            return columns, rows
        at += 1 if marker == 0xFF else 2 + length
    return None


def _codestream_start(frame: bytes) -> int:
    """Give where a codestream begins: in a JP2 file behind boxes that may hold anything (ITU-T T.800, I.4)."""
    at = 0
    while frame.startswith(JP2_START) and at + 16 <= len(frame):
        length, kind, long = struct.unpack_from(">I4sQ", frame, at)
        head = 16 if length == 1 else 8
        if kind == b"jp2c":
            return at + head
        at += max(long if length == 1 else length, head)
    return 0


def _padding(stored: Grey, header: pydicom.Dataset) -> Bool[np.ndarray, "y x"] | None:
    """Give the pixels outside the exposed field (DICOM PS3.3, C.7.5.1.1.2); None if there are none, or no others."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    other = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if other is None else other)))
    found = (stored >= low) & (stored <= high)
    return found if found.any() and not found.all() else None


def _modality(stored: Grey, header: pydicom.Dataset) -> Grey:
    """Apply the modality LUT, or rescale slope and intercept (DICOM PS3.3, C.11.1)."""
    if header.get("ModalityLUTSequence"):
        return apply_table(stored, *_table(header.ModalityLUTSequence[0]))
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    slope, intercept = 1.0 if slope is None else float(slope), float(intercept or 0)
    if (slope, intercept) == (1, 0):
        return stored
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ValueError("a rescale that leaves nothing")
    return stored * np.float64(slope) + intercept


def _values_of_interest(values: Grey, header: pydicom.Dataset) -> tuple[Grey, tuple[str, ...]]:
    """Apply the first VOI LUT, or else the first window; one that shows a single value is noted and left out."""
    if header.get("VOILUTSequence"):
        shown, what = apply_table(values, *_table(header.VOILUTSequence[0])), "VOI LUT"
    elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        center, width = (float(np.atleast_1d(header[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
        shape: WindowShape = str(header.get("VOILUTFunction") or "LINEAR").upper()  # type: ignore[assignment]
        what = f"window ({center:g}, {width:g})"
        shown = apply_window(values, center, width, shape) if width > 0 else np.zeros_like(values)
    else:
        return values, ()
    if np.ptp(shown) == 0 < np.ptp(values):
        return values, (f"its {what} shows a single value; all its values are shown instead",)
    return shown, ()


def _table(item: pydicom.Dataset) -> tuple[int, Shaped[np.ndarray, " n"]]:
    """Give a LUT's first mapped value and its entries, which may be 16-bit words or bytes (DICOM PS3.3, C.11.1.1)."""
    entries, first, _ = (int(value) for value in item.LUTDescriptor)
    entries = entries or 1 << 16
    data: Any = item["LUTData"].value
    words = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data, "<u2"))
    table = words.view(np.uint8) if len(words) < entries <= 2 * len(words) else words
    if len(table) < entries:
        raise ValueError(f"{len(table)} of {entries} entries")
    return first, table[:entries]


def _colours(pixels: Shaped[np.ndarray, "y x ..."], header: pydicom.Dataset) -> tuple[Shaped[np.ndarray, "y x 3"], int]:
    """Give red, green and blue, and the largest value they may have."""
    rgb = apply_color_lut(pixels, header) if header.PhotometricInterpretation == "PALETTE COLOR" else pixels
    top = np.iinfo(rgb.dtype).max if rgb is not pixels else (1 << int(header.BitsStored)) - 1
    return rgb[..., :3], int(top)


def _spacing(
    header: pydicom.Dataset,
) -> tuple[tuple[float, float] | None, SpacingOrigin | None, tuple[str, ...]]:
    """Give the distance between pixels down and across, mm, and the attribute it stands in.

    ImagerPixelSpacing is at the detector; over the radiographic magnification it is at the patient. PixelSpacing may
    be either, but where it differs from ImagerPixelSpacing it was calibrated (DICOM PS3.3, 10.7.1).
    """
    calibrated, imager = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    if calibrated and calibrated != imager:
        return calibrated, "PixelSpacing", ()
    if imager and (magnification := _magnification(header)):
        return (imager[0] / magnification, imager[1] / magnification), "ImagerPixelSpacing over magnification", ()
    if imager:
        note = "its pixel spacing is that at the detector: lengths in the patient are some percent shorter"
        return imager, "ImagerPixelSpacing", (note,)
    scanned = _pair(header, "NominalScannedPixelSpacing")
    return scanned, ("NominalScannedPixelSpacing" if scanned else None), ()


def _magnification(header: pydicom.Dataset) -> float | None:
    """Give how much larger the detector's picture is than the patient: as stated, or of the distances to the source."""
    stated = header.get("EstimatedRadiographicMagnificationFactor")
    detector, patient = header.get("DistanceSourceToDetector"), header.get("DistanceSourceToPatient")
    found = float(stated) if stated else float(detector) / float(patient) if detector and patient else 0.0
    return found if 1 <= found < 10 else None


def _pair(
    header: pydicom.Dataset,
    keyword: Literal["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"],
) -> tuple[float, float] | None:
    """Give a spacing that makes sense; some files hold zeros."""
    values = [float(value) for value in np.atleast_1d(header.get(keyword) or [])]
    sensible = len(values) == 2 and all(0 < value < MAX_SPACING_MM for value in values)
    return (values[0], values[1]) if sensible else None
