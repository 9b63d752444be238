"""Law 1: a landmark in mm survives read, resample and write; masks come back on the input's exact grid and affine."""

from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_factory import write_series
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from orientations import ALL_48, LANDMARK, SHAPE, affine_of, centre_mm, code, landmark_array, oblique_affines

from shared.geometry import resample_to_grid, resample_to_spacing
from shared.io.volume import read_volume
from shared.io.writers import write_dicom_seg, write_mask
from shared.types import Segmentation, Volume

LPS = np.array([-1.0, -1.0, 1.0])
# A right-handed half of the 48: slices sorted along their normal make no left-handed grid.
DICOM_24 = [directions for directions in ALL_48 if np.linalg.det(directions) > 0]


def write_scan(path: Path, affine: np.ndarray) -> np.ndarray:
    """Write the landmark in the path's format without the code under test; returns the landmark in RAS mm."""
    array = landmark_array()
    if path.suffix in (".nrrd", ".mha"):
        image = sitk.GetImageFromArray(array.transpose())
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin((LPS * affine[:3, 3]).tolist())
        image.SetDirection((LPS[:, None] * affine[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(array, affine), path)
    return affine[:3, :3] @ np.array(LANDMARK) + affine[:3, 3]


def segment(volume: Volume, spacing_mm: float) -> Segmentation:
    """Do what a predictor does around its network: to the working spacing, and back as probabilities."""
    bright = (volume.array > 0).astype(np.float32)
    working, affine = resample_to_spacing(bright, volume.affine, spacing_mm)
    back = resample_to_grid(working, affine, volume.grid)
    return Segmentation((back >= 0.5).astype(np.uint8), volume.affine, {1: "landmark"}, volume.source)


def check(path: Path, affine: np.ndarray, share: float) -> None:
    """Follow the landmark from the file to the mask's file, which another library reads."""
    landmark = write_scan(path, affine)
    volume = read_volume(path)
    assert np.allclose(centre_mm(volume.array > 0, volume.affine), landmark, atol=0.01)
    finest = min(volume.spacing_mm)
    segmentation = segment(volume, share * finest)
    mask = path.with_name(f"mask{''.join(path.suffixes)}")
    write_mask(segmentation, mask)
    if path.suffix in (".nrrd", ".mha"):
        image, source = sitk.ReadImage(str(mask)), sitk.ReadImage(str(path))
        assert image.GetSize() == source.GetSize()
        for get in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert np.allclose(getattr(image, get)(), getattr(source, get)(), rtol=1e-14, atol=1e-14)
        found = [
            LPS * image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]])
            for index in np.argwhere(sitk.GetArrayFromImage(image) == 1)
        ]
        centre = np.mean(found, axis=0)
    else:
        image, source = nib.load(mask), nib.load(path)
        assert image.shape == source.shape
        assert np.array_equal(image.affine, source.affine)
        assert image.get_data_dtype() == np.uint8
        centre = centre_mm(np.asarray(image.dataobj) == 1, image.affine)
    assert np.linalg.norm(centre - landmark) < finest


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("directions", ALL_48, ids=code)
def test_every_orientation(tmp_path: Path, directions: np.ndarray, suffix: str) -> None:
    check(tmp_path / f"scan{suffix}", affine_of(directions), 0.8)


@given(oblique_affines(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]), st.floats(0.5, 1.2))
@limits(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_oblique_affines(tmp_path: Path, affine: np.ndarray, suffix: str, share: float) -> None:
    check(tmp_path / f"scan{suffix}", affine, share)


def check_dicom(folder: Path, affine: np.ndarray) -> None:
    """Follow the landmark through a DICOM series to a DICOM SEG, and compare that with the series slice by slice."""
    files = write_series(folder / "series", landmark_array(), affine)
    landmark = affine[:3, :3] @ np.array(LANDMARK) + affine[:3, 3]
    volume = read_volume(folder / "series")
    assert volume.source.dicom_files == tuple(files)
    assert np.allclose(volume.source.grid.affine, affine, atol=1e-5)
    assert np.allclose(centre_mm(volume.array > 0, volume.affine), landmark, atol=0.01)
    series = sitk.ImageSeriesReader()
    series.SetFileNames([str(file) for file in files])
    theirs = series.Execute()
    assert np.allclose(theirs.TransformIndexToPhysicalPoint(LANDMARK), LPS * landmark, atol=0.01)

    labels = (volume.array > 0).astype(np.uint8)
    write_dicom_seg(Segmentation(labels, volume.affine, {1: "LCA"}, volume.source), folder / "mask.dcm")
    read = highdicom.seg.segread(folder / "mask.dcm")
    mask = read.get_volume(combine_segments=True)
    assert np.allclose(centre_mm(mask.array == 1, mask.affine), LPS * landmark, atol=0.01)
    of_slice = dict(zip((str(uid) for uid in sop_uids(files)), range(SHAPE[2]), strict=True))
    for frame, item in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence, strict=True):
        referenced = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert abs(of_slice[referenced] - LANDMARK[2]) <= 1
        assert np.array_equal(frame, landmark_array()[:, :, of_slice[referenced]].T > 0)
        position = item.PlanePositionSequence[0].ImagePositionPatient
        expected = LPS * (affine[:3, :3] @ [0, 0, of_slice[referenced]] + affine[:3, 3])
        assert np.allclose(position, expected, atol=1e-4)
    assert len(read.pixel_array) == 3


def sop_uids(files: list[Path]) -> list[str]:
    import pydicom

    return [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]


@pytest.mark.parametrize("directions", DICOM_24, ids=code)
def test_dicom_series_and_dicom_seg(tmp_path: Path, directions: np.ndarray) -> None:
    check_dicom(tmp_path, affine_of(directions))


@given(oblique_affines().filter(lambda affine: np.linalg.det(affine[:3, :3]) > 0))
@limits(max_examples=8)
def test_oblique_dicom_series_and_dicom_seg(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray) -> None:
    check_dicom(tmp_path_factory.mktemp("oblique"), affine)
