"""Synthetic DICOM series for tests: small, with every knob that scanners and exports get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Edit = Callable[[int, Dataset], None]
PATIENT = "Doe^Phantom"


def write_series(
    folder: Path,
    hu: np.ndarray,
    affine: np.ndarray,
    *,
    edit: Edit | None = None,
    skip: tuple[int, ...] = (),
    slope: float = 1.0,
    intercept: float = -1024.0,
    number: int = 3,
    description: str = "CTA 0.6 Bv40",
) -> list[Path]:
    """Write ``hu`` (column, row, slice) with its affine to RAS mm; returns the files in slice order.

    ``edit(k, dataset)`` may spoil slice k. The file names sort in another order than the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for k in range(hu.shape[2]):
        if k in skip:
            continue
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PatientName, dataset.PatientID, dataset.PatientSex, dataset.PatientBirthDate = PATIENT, "1", "O", ""
        dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20200101", "120000", "", ""
        dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.Laterality = "", "none", ""
        dataset.SeriesNumber, dataset.SeriesDescription, dataset.InstanceNumber = number, description, k + 1
        dataset.PositionReferenceIndicator = ""
        dataset.ImagePositionPatient = [round(float(v), 9) for v in lps[:3, 3] + k * lps[:3, 2]]
        directions = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
        dataset.ImageOrientationPatient = [round(float(v), 12) for v in directions]
        dataset.PixelSpacing = [round(float(spacing[1]), 9), round(float(spacing[0]), 9)]
        dataset.SliceThickness = round(1.5 * float(spacing[2]), 6)  # never the spacing
        dataset.Rows, dataset.Columns = hu.shape[1], hu.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.PixelData = np.round((hu[:, :, k].T - intercept) / slope).astype("<i2").tobytes()
        if edit:
            edit(k, dataset)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / f"IM{(k * 37 + 3) % 101:03d}-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files
