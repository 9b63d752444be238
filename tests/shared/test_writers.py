import csv
import json
import logging
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import trimesh
from dicom_factory import PATIENT, write_series
from orientations import ALL_48, LANDMARK, SHAPE, affine_of, landmark_array
from pydicom.dataset import Dataset
from trimesh import Trimesh

from shared.errors import InputError, SetupError
from shared.io import nifti
from shared.io.volume import from_array, read_volume
from shared.io.writers import write_csv, write_dicom_seg, write_json, write_mask, write_stl
from shared.types import Segmentation, Volume

AFFINE = affine_of(ALL_48[13])
GEOMETRY = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)


def segmented(volume: Volume) -> Segmentation:
    labels = (volume.array > 0).astype(np.uint8)
    return Segmentation(labels, volume.affine, {0: "background", 1: "LCA", 2: "RCA"}, volume.source)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 3)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_mask_keeps_the_header_of_its_scan_bit_for_bit(
    tmp_path: Path, kind: type, sform: int, qform: int, order: str
) -> None:
    header = kind.header_class(endianness=order)
    image = kind(landmark_array(), AFFINE, header)
    image.set_sform(AFFINE, code=sform)
    image.set_qform(AFFINE, code=qform)
    image.header.set_slope_inter(1.5, -3)
    nib.save(image, tmp_path / "scan.nii.gz")
    write_mask(segmented(read_volume(tmp_path / "scan.nii.gz")), tmp_path / "mask.nii.gz")
    scan, mask = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert type(mask) is kind
    for field in GEOMETRY:
        assert scan.header[field].tobytes() == mask.header[field].tobytes(), field
    assert mask.header["pixdim"][:4].tolist() == scan.header["pixdim"][:4].tolist()
    assert np.array_equal(mask.affine, scan.affine)
    assert mask.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj) == 1, landmark_array() > 0)


def test_a_mask_carries_no_text_of_the_scan(tmp_path: Path) -> None:
    image = nib.Nifti1Image(landmark_array(), AFFINE)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = PATIENT
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
    nib.save(image, tmp_path / "scan.nii")
    assert PATIENT.encode() in (tmp_path / "scan.nii").read_bytes()
    write_mask(segmented(read_volume(tmp_path / "scan.nii")), tmp_path / "mask.nii")
    assert PATIENT.encode() not in (tmp_path / "mask.nii").read_bytes()
    assert nib.load(tmp_path / "mask.nii").shape == SHAPE


def test_the_same_mask_is_the_same_file(tmp_path: Path) -> None:
    segmentation = segmented(from_array(landmark_array(), AFFINE))
    write_mask(segmentation, tmp_path / "a.nii.gz")
    write_mask(segmentation, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_is_written_slab_by_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "SLAB_BYTES", 2 * SHAPE[0] * SHAPE[1])
    write_mask(segmented(from_array(landmark_array(), AFFINE)), tmp_path / "a.nii")
    assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii").dataobj), landmark_array() > 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_mask_of_any_source_goes_into_any_format(tmp_path: Path, suffix: str) -> None:
    affine = affine_of(np.diag([-1.0, -1.0, 1.0]))
    write_series(tmp_path / "series", landmark_array(), affine)
    for name, volume in (
        ("dicom", read_volume(tmp_path / "series")),
        ("array", from_array(landmark_array(), affine)),
    ):
        write_mask(segmented(volume), tmp_path / f"{name}{suffix}")
        back = read_volume(tmp_path / f"{name}{suffix}")
        assert np.allclose(back.source.grid.affine, affine, atol=1e-4)
        assert np.array_equal(back.array > 0, volume.array > 0)


def test_an_itk_mask_lies_on_the_scans_own_grid(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(landmark_array().transpose())
    image.SetDirection([0.0, 0.8, 0.6, 1.0, 0.0, 0.0, 0.0, 0.6, -0.8])
    image.SetSpacing([0.3, 0.35, 0.7])
    image.SetOrigin([1.0 / 3, -200.1, 7e-3])
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    write_mask(segmented(read_volume(tmp_path / "scan.nrrd")), tmp_path / "mask.nrrd")
    both = sitk.ReadImage(str(tmp_path / "scan.nrrd")) > 0
    assert np.array_equal(
        sitk.GetArrayFromImage(both), sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nrrd")))
    )
    sitk.Mask(image, sitk.ReadImage(str(tmp_path / "mask.nrrd")))  # raises where the grids differ


def test_a_format_that_is_not_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"mask\.png: masks are not written in this format; end its name in .nii.gz"):
        write_mask(segmented(from_array(landmark_array(), AFFINE)), tmp_path / "mask.png")
    assert list(tmp_path.iterdir()) == []


def test_a_dicom_seg_names_what_it_shows_in_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "series", landmark_array(), affine_of(np.eye(3)))
    volume = read_volume(tmp_path / "series")
    labels = np.zeros(SHAPE, np.uint8)
    labels[LANDMARK], labels[1, 2, 3] = 1, 3
    names = {0: "background", 1: "LCA", 2: "RCA", 3: "unassigned artery", 4: "something else"}
    with caplog.at_level(logging.DEBUG):
        write_dicom_seg(
            Segmentation(labels, volume.affine, names, volume.source), tmp_path / "seg.dcm", description="Arteries"
        )
    assert PATIENT not in caplog.text
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    slices = pydicom.dcmread(volume.source.dicom_files[0])
    assert (seg.SeriesDescription, seg.SegmentationType, seg.Modality) == ("Arteries", "BINARY", "SEG")
    assert seg.StudyInstanceUID == slices.StudyInstanceUID
    assert seg.FrameOfReferenceUID == slices.FrameOfReferenceUID
    assert seg.PatientName == PATIENT  # a SEG that its patient's folder cannot take is of no use
    described = [
        (s.SegmentNumber, s.SegmentLabel, s.SegmentedPropertyTypeCodeSequence[0].CodeValue) for s in seg.SegmentSequence
    ]
    assert described == [
        (1, "LCA", "50018008"),
        (2, "RCA", "13647002"),
        (3, "unassigned artery", "41801008"),
        (4, "something else", "85756007"),
    ]
    assert seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "Skiagram"
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert seg.NumberOfFrames == 2


def test_a_dicom_seg_from_a_zip_and_of_an_empty_mask(tmp_path: Path) -> None:
    import shutil

    write_series(tmp_path / "series", landmark_array(), affine_of(np.eye(3)))
    shutil.make_archive(str(tmp_path / "series"), "zip", tmp_path / "series")
    volume = read_volume(tmp_path / "series.zip")
    empty = Segmentation(np.zeros(SHAPE, np.uint8), volume.affine, {1: "LCA"}, volume.source)
    write_dicom_seg(empty, tmp_path / "seg.dcm")
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert (found.NumberOfFrames, found.pixel_array.max()) == (1, 0)
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == ["LCA"]


def test_slices_with_a_frame_of_reference_each_are_one_stack(tmp_path: Path) -> None:
    def edit(k: int, dataset: Dataset) -> None:
        dataset.FrameOfReferenceUID = f"1.2.3.{k + 1}"

    write_series(tmp_path / "series", landmark_array(), affine_of(np.eye(3)), edit=edit)
    write_dicom_seg(segmented(read_volume(tmp_path / "series")), tmp_path / "seg.dcm")
    assert highdicom.seg.segread(tmp_path / "seg.dcm").NumberOfFrames == 3


def test_a_dicom_seg_needs_a_series_with_identities(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no DICOM series; leave DICOM SEG off"):
        write_dicom_seg(segmented(from_array(landmark_array(), AFFINE)), tmp_path / "seg.dcm")

    def anonymise(_: int, dataset: Dataset) -> None:
        dataset.StudyInstanceUID = ""

    write_series(tmp_path / "series", landmark_array(), affine_of(np.eye(3)), edit=anonymise)
    with pytest.raises(InputError, match="its slices have no StudyInstanceUID"):
        write_dicom_seg(segmented(read_volume(tmp_path / "series")), tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_an_stl_is_a_solid_of_the_right_size_in_lps(tmp_path: Path) -> None:
    box = trimesh.creation.box((2.0, 3.0, 4.0))
    write_stl(Trimesh(box.vertices + np.array([10, 20, 30]), box.faces, process=False), tmp_path / "box.stl")
    read = trimesh.load_mesh(tmp_path / "box.stl")
    assert read.is_watertight
    assert read.volume == pytest.approx(24.0)
    assert read.center_mass == pytest.approx([-10, -20, 30])
    assert b"SPACE=LPS" in (tmp_path / "box.stl").read_bytes()[:80]


def test_an_empty_mesh_is_an_empty_stl(tmp_path: Path) -> None:
    write_stl(Trimesh(), tmp_path / "none.stl")
    assert len((tmp_path / "none.stl").read_bytes()) == 84


def test_json_holds_plain_values(tmp_path: Path) -> None:
    data = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": Path("x.nii"),
        "d": float("nan"),
        5: (True, None),
        "e": np.bool_(True),
        "f": {"g": np.array([[1.5, np.inf]])},
    }
    write_json(data, tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": "x.nii",
        "d": None,
        "5": [True, None],
        "e": True,
        "f": {"g": [[1.5, None]]},
    }
    assert text.endswith("}\n")


def test_csv_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    write_csv([{"case": "a, b", "dice": 0.5}, {"case": "c", "note": "é"}], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"case": "a, b", "dice": "0.5", "note": ""},
            {"case": "c", "dice": "", "note": "é"},
        ]
    write_csv([], tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "\n"
