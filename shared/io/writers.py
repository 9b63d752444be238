"""Scans' results out: masks on the input's grid, DICOM SEG, STL. Each appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import igzip
from jaxtyping import UInt8

from shared.errors import InputError, SetupError
from shared.geometry import from_ras
from shared.io.atomic import whole
from shared.io.checks import lps_to_ras
from shared.io.dicom import read_headers
from shared.io.nifti import nifti_bytes
from shared.io.no_warnings import no_warnings
from shared.io.tables import write_csv as write_csv
from shared.io.tables import write_json as write_json
from shared.report import product_version
from shared.types import Grid, Segmentation, Source, Space

if TYPE_CHECKING:
    from trimesh import Trimesh

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")
# SNOMED CT concepts by the names that labels bear, as keywords of pydicom's dictionary (CID 3015).
CONCEPTS = {
    "LCA": "LeftCoronaryArtery",
    "RCA": "RightCoronaryArtery",
    "coronary artery": "CoronaryArtery",
    "unassigned artery": "CoronaryArtery",
}
NO_SEG = "leave DICOM SEG off and use the .nii.gz mask"
SEG_SERIES_NUMBER = 9001  # beyond what a scanner counts to
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


def write_dicom_seg(
    segmentation: Segmentation,
    path: Path | str,
    *,
    description: str = "Skiagram segmentation",
    algorithm: str = "Skiagram",
    concepts: Mapping[int, str] | None = None,
) -> None:
    """Write the labels as a DICOM Segmentation (binary) that refers to the slices they were found on.

    Every named label but 0 is a segment of the same number; empty frames are left out. Where nothing is labelled, the
    first slice alone says so, for a segmentation must have a frame. The file repeats patient and study from the
    slices, as DICOM demands; nothing of them is logged.

    Args:
        segmentation: labels whose source is a DICOM series.
        path: where to write, usually .dcm.
        description: SeriesDescription, at most 64 characters.
        algorithm: the algorithm's name in the algorithm identification; its version is Skiagram's.
        concepts: for each label, the keyword of a SNOMED CT concept in pydicom's dictionary; `CONCEPTS` by name else.

    Raises:
        InputError: the source is no DICOM series, or its slices lack what a segmentation must repeat.
        SetupError: the file cannot be written.
    """
    path, source = Path(path), segmentation.source
    if not source.dicom_files:
        raise InputError(source.path or "the array", "is no DICOM series", "leave DICOM SEG off, or give the series")
    names = {label: name for label, name in sorted(segmentation.names.items()) if label}
    keywords = {label: (concepts or {}).get(label, CONCEPTS.get(name, "Tissue")) for label, name in names.items()}
    frames = from_ras(segmentation.labels, source.grid).transpose(2, 1, 0)  # slice row column
    with no_warnings():  # of pydicom's, about values the scanner wrote
        slices = _referable(source)
        if not frames.any():
            slices, frames = slices[:1], frames[:1]
        try:
            segments = [_segment(label, name, keywords[label], algorithm) for label, name in names.items()]
            result = _dicom_seg(slices, np.ascontiguousarray(frames), segments, description, algorithm)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(source.path or "", f"a DICOM SEG cannot refer to it: {reason}", NO_SEG) from error
        with whole(path) as aside:
            result.save_as(aside)


def _referable(source: Source) -> list[Any]:
    """Read the slices' headers and check that a segmentation can refer to them."""
    slices = read_headers(source)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not all(header.get(keyword) for header in slices):
            raise InputError(source.path or "", f"its slices have no {keyword}, which a DICOM SEG refers to", NO_SEG)
    for header in slices:  # some anonymisers give each slice a frame of its own, though they are one stack
        header.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    return slices


def _dicom_seg(
    slices: list[Any], frames: UInt8[np.ndarray, "slice row column"], segments: list[Any], description: str, model: str
) -> Any:
    import highdicom as hd

    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SEG_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Skiagram",
        manufacturer_model_name=model,
        software_versions=product_version(),
        device_serial_number="0",
        content_description=description,
        series_description=description,
        omit_empty_frames=bool(frames.any()),
    )


def _segment(label: int, name: str, keyword: str, algorithm: str) -> Any:
    """Describe one segment by coded concepts: category from CID 7150, type from SNOMED CT."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=label,
        segment_label=name,
        segmented_property_category=codes.SCT.Tissue if keyword == "Tissue" else codes.SCT.AnatomicalStructure,
        segmented_property_type=getattr(codes.SCT, keyword),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm, version=product_version(), family=codes.DCM.ArtificialIntelligence
        ),
    )


def write_stl(mesh: Trimesh, path: Path | str, *, space: Space = "RAS") -> None:
    """Write a mesh as a binary STL file in LPS mm, which is what 3D Slicer and most viewers take STL to be.

    Args:
        mesh: its normals face outwards.
        path: appears whole or not at all.
        space: in which the mesh's vertices are.

    Raises:
        SetupError: the file cannot be written.
    """
    triangles = np.asarray(mesh.triangles, np.float32)
    if space == "RAS":
        triangles = triangles * np.array([-1, -1, 1], np.float32)
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    records = np.zeros(len(triangles), record)
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    records["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    records["corners"] = triangles
    # Slicer reads the coordinate system from this header (SPACE=...); it must not begin with "solid".
    header = b"Skiagram. Research software, not a medical device. mm; SPACE=LPS".ljust(80)
    with whole(path) as aside, aside.open("wb") as file:
        file.write(header)
        file.write(np.uint32(len(records)).tobytes())
        file.write(records.tobytes())
