"""Synthetic DICOM radiographs for tests: one picture stored in every way that scanners know."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)

PATIENT = "Doe^Phantom"


def film(height: int = 48, width: int = 40) -> np.ndarray:
    """A picture in 0..1 that looks the same in no two orientations: a bright bone with soft tissue and noise."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    tissue = 0.35 * np.exp(-(((x - 0.45) / 0.4) ** 2) - ((y - 0.5) / 0.7) ** 2)
    bone = 0.55 * np.exp(-(((x - 0.3 - 0.25 * y) / 0.09) ** 2))
    noise = 0.02 * np.random.default_rng(0).random((height, width))
    picture = tissue + bone + noise
    return (picture - picture.min()) / np.ptp(picture)


def dicom(
    picture: np.ndarray,
    *,
    bits: int = 12,
    photometric: str = "MONOCHROME2",
    signed: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    edit: Callable[[Dataset], None] = lambda dataset: None,
) -> bytes:
    """Store a picture in 0..1 as a DX file; ``edit`` may add a window or spoil it before its pixels are coded."""
    top = (1 << bits) - 1
    shown = 1 - picture if photometric == "MONOCHROME1" else picture
    stored = np.round(shown * top).astype(np.int64) - (1 << (bits - 1) if signed else 0)
    return dicom_of(stored, bits=bits, photometric=photometric, signed=signed, syntax=syntax, edit=edit)


def dicom_of(
    stored: np.ndarray,
    *,
    bits: int,
    photometric: str = "MONOCHROME2",
    signed: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    edit: Callable[[Dataset], None] = lambda dataset: None,
) -> bytes:
    """Store whole numbers ``y x`` or ``y x 3`` as a DX file, however they are meant."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.Modality = PATIENT, "4711", "DX"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (1 if stored.ndim == 2 else 3), photometric
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    allocated = 8 if bits <= 8 else 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    pixels = stored.astype(f"<{'i' if signed else 'u'}{allocated // 8}")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    edit(dataset)
    if syntax == JPEGBaseline8Bit:
        coded = BytesIO()
        Image.fromarray(pixels).save(coded, "JPEG", quality=100)
        dataset.PixelData, dataset["PixelData"].VR = encapsulate([coded.getvalue()]), "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def lut(first: int, table: np.ndarray, bits: int = 16) -> Dataset:
    """Make the item of a modality or VOI LUT sequence; entries of 8 bits are packed as bytes."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % (1 << 16), first, bits])
    item.add_new("LUTData", "OW", table.astype("<u1" if bits == 8 else "<u2").tobytes())
    item.ModalityLUTType = "US"
    return item
