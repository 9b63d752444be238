import contextlib
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_factory import PATIENT, write_series
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from orientations import ALL_48, SHAPE, affine_of
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from shared.errors import InputError
from shared.io import archive
from shared.io.dicom import read_headers
from shared.io.volume import is_volume, read_volume
from shared.types import Volume

HU = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)
AXIAL = affine_of(np.diag([-1.0, -1.0, 1.0]))
CORONAL = affine_of(np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))
    return path


def stored(volume: Volume) -> np.ndarray:
    """Give the voxels as (column, row, slice) for the axial series of these tests."""
    return volume.array[::-1, ::-1, :]


def test_a_series_is_sorted_by_position_and_scaled_to_hu(tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", HU, AXIAL, slope=0.5, intercept=-2000)
    assert sorted(files) != files
    volume = read_volume(tmp_path / "series")
    assert np.array_equal(stored(volume), HU)
    assert volume.array.flags.f_contiguous
    assert volume.array.dtype == np.float32
    assert volume.source.format == "dicom"
    assert volume.source.dicom_files == tuple(files)
    assert volume.source.notes == ()
    assert np.allclose(volume.source.grid.affine, AXIAL)


def test_the_rescale_of_each_slice_is_its_own(tmp_path: Path) -> None:
    def edit(k: int, dataset: Dataset) -> None:
        dataset.RescaleIntercept = -1024 + 10 * k

    write_series(tmp_path, HU, AXIAL, edit=edit)
    assert np.array_equal(stored(read_volume(tmp_path)), HU + 10 * np.arange(SHAPE[2]))


def test_the_thickness_is_not_the_spacing(tmp_path: Path) -> None:
    write_series(tmp_path, HU, AXIAL)
    assert read_volume(tmp_path).spacing_mm == pytest.approx((0.4, 0.7, 1.1))


def test_a_zip_is_the_folder_and_its_headers_can_be_read_again(tmp_path: Path) -> None:
    write_series(tmp_path / "series", HU, AXIAL)
    path = pack(tmp_path / "series", tmp_path / "series.zip")
    volume = read_volume(path)
    assert is_volume(path)
    assert np.array_equal(stored(volume), HU)
    assert volume.source.dicom_files[0].parent == path / "series"
    headers = read_headers(volume.source)
    assert [header.InstanceNumber for header in headers] == list(range(1, SHAPE[2] + 1))
    assert {entry.name for entry in tmp_path.iterdir()} == {"series", "series.zip"}


def test_files_that_are_no_slices_are_passed_over(tmp_path: Path) -> None:
    def report(_: int, dataset: Dataset) -> None:
        del dataset.ImagePositionPatient

    def scout(_: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def colour(_: int, dataset: Dataset) -> None:
        dataset.SamplesPerPixel = 3

    for number, edit in enumerate((report, scout, colour), start=10):
        write_series(tmp_path / "deep" / str(number), HU, AXIAL, edit=edit, number=number)
    (tmp_path / "README.txt").write_text("a study")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    write_series(tmp_path / "deep" / "ct", HU, AXIAL)
    volume = read_volume(tmp_path)
    assert np.array_equal(stored(volume), HU)
    assert volume.source.notes == ()


def test_old_files_without_a_preamble_are_read(tmp_path: Path) -> None:
    for file in write_series(tmp_path, HU, AXIAL):
        raw = file.read_bytes()
        meta_length = int.from_bytes(raw[140:144], "little")
        file.write_bytes(raw[144 + meta_length :])  # explicit VR without a header: pydicom takes it by its VRs
    assert np.array_equal(stored(read_volume(tmp_path)), HU)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of a coronal series with most slices, a thick axial one and a thin axial one."""
    write_series(tmp_path / "a", HU, CORONAL, number=1, description="MPR cor")
    write_series(tmp_path / "b", HU[:, :, :4], AXIAL, number=2, description="Thorax 5.0")
    write_series(tmp_path / "c", HU[:, :, :8], AXIAL, number=4, description="CTA 0.6 Bv40")
    return tmp_path


def test_of_several_series_the_largest_axial_one_is_read_and_said(study: Path) -> None:
    volume = read_volume(study)
    assert volume.array.shape == (*SHAPE[:2], 8)
    (note,) = volume.source.notes
    assert note.startswith("of 3 series the largest axial was read: 4 'CTA 0.6 Bv40' (8 slices); there are 1 'MPR cor'")
    assert PATIENT not in note


@pytest.mark.parametrize("wanted", ["2", "thorax", "Thorax 5.0"])
def test_a_series_is_picked_by_number_or_description(study: Path, wanted: str) -> None:
    volume = read_volume(study, series=wanted)
    assert volume.array.shape == (*SHAPE[:2], 4)
    assert volume.source.notes == ("series read: 2 'Thorax 5.0' (4 slices)",)


def test_a_series_is_picked_by_uid(study: Path) -> None:
    uid = read_headers(read_volume(study, series="1").source)[0].SeriesInstanceUID
    assert read_volume(study, series=uid).source.notes == ("series read: 1 'MPR cor' (9 slices)",)


@pytest.mark.parametrize(("wanted", "how_many"), [("7", "none"), ("", "none"), ("o", "2"), ("0", "2")])
def test_a_series_that_is_not_there_or_not_one_lists_what_is(study: Path, wanted: str, how_many: str) -> None:
    with pytest.raises(InputError, match=f"{how_many} of its series match") as caught:
        read_volume(study, series=wanted)
    assert "1 'MPR cor' (9 slices); 2 'Thorax 5.0' (4 slices); 4 'CTA 0.6 Bv40' (8 slices)" in str(caught.value)


def test_where_no_series_is_axial_the_largest_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "a", HU, CORONAL, number=1)
    write_series(tmp_path / "b", HU[:, :, :4], CORONAL, number=2)
    volume = read_volume(tmp_path)
    assert volume.source.grid.shape == SHAPE
    assert "none is axial" in volume.source.notes[0]


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(tmp_path: Path) -> None:
    def edit(_: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [round(float(v), 1) for v in dataset.ImagePositionPatient]

    write_series(tmp_path, HU, affine_of(np.diag([-1.0, -1, 1]), (0.4, 0.4, 0.625)), edit=edit)
    assert read_volume(tmp_path).spacing_mm[2] == pytest.approx(0.625, abs=0.01)


def move(axis: int, slices: set[int], by_mm: float):
    def edit(k: int, dataset: Dataset) -> None:
        if k in slices:
            position = [float(v) for v in dataset.ImagePositionPatient]
            position[axis] += by_mm
            dataset.ImagePositionPatient = position

    return edit


def put(keyword: str, value: object, slices: set[int] | None = None):
    def edit(k: int, dataset: Dataset) -> None:
        if slices is None or k in slices:
            setattr(dataset, keyword, value)

    return edit


def smaller(k: int, dataset: Dataset) -> None:
    if k == 4:
        dataset.Rows, dataset.PixelData = SHAPE[1] - 1, dataset.PixelData[: 2 * SHAPE[0] * (SHAPE[1] - 1)]


def tilted(k: int, dataset: Dataset) -> None:
    move(1, {k}, k * 0.3)(k, dataset)


def drifting(k: int, dataset: Dataset) -> None:
    move(2, {k}, 0.05 * k * k)(k, dataset)


@pytest.mark.parametrize(
    ("edit", "skip", "problem"),
    [
        (
            None,
            (4,),
            r"slices are missing \(1 between two others\): IM013-3.dcm and IM087-3.dcm are 2.20 mm apart, others 1.10",
        ),
        (None, (4, 5), r"slices are missing \(2 between"),
        (
            move(2, {4}, -1.1),
            (),
            "1 of its slices are duplicated, such as IM[0-9]*-3.dcm and IM[0-9]*-3.dcm, at one position; keep",
        ),
        (
            move(2, {4}, 0.3),
            (),
            "its spacing is uneven: IM[0-9]*-3.dcm and IM[0-9]*-3.dcm are (1.40|0.80) mm apart, others 1.10 mm",
        ),
        (drifting, (), "its spacing is uneven"),
        (tilted, (), "the gantry was tilted: its slices are shifted 15.3 degrees"),
        (move(0, {4}, 0.5), (), "slice IM050-3.dcm lies 0.50 mm off the line"),
        (smaller, (), "slices of unequal size: IM[0-9]*-3.dcm is 13 x 1., "),
        (put("PixelSpacing", [0.5, 0.5], {2}), (), "differ in pixel spacing"),
        (put("PixelSpacing", [0.0, 0.5]), (), "pixel spacing 0.5 x 0 mm is not positive"),
        (put("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], {2}), (), "lie in different directions"),
        (put("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), (), "none is a slice with a position in space"),
        (
            put("ImageOrientationPatient", [1, 0, 0, 0, 1]),
            (),
            "9 DICOM files, but none is a slice with a position in space",
        ),
        (put("PixelData", b"\0\0", {3}), (), "slice IM013-3.dcm cannot be read"),
        (put("SeriesInstanceUID", generate_uid()), tuple(range(1, SHAPE[2])), "is a single slice"),
        (put("ImagePositionPatient", None), (), "9 DICOM files, but none is a slice with a position in space"),
        (put("NumberOfFrames", 20), (), "multi-frame DICOM"),
    ],
)
def test_a_series_that_is_no_even_stack_is_refused(tmp_path: Path, edit, skip: tuple[int, ...], problem: str) -> None:
    write_series(tmp_path, HU, AXIAL, edit=edit, skip=skip)
    with pytest.raises(InputError, match=problem) as caught:
        read_volume(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)
    assert PATIENT not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("spoiled", ["nan", "here"])
def test_a_position_that_is_no_number_is_refused(tmp_path: Path, spoiled: str) -> None:
    write_series(tmp_path, HU, AXIAL, edit=put("ImagePositionPatient", ["0000", "0", "0"]))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(b"0000\\0\\0", spoiled.ljust(4).encode() + b"\\0\\0"))
    with pytest.raises(InputError, match="none is a slice with a position in space|cannot be read"):
        read_volume(tmp_path)


def test_files_of_the_series_without_a_position_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path, HU, AXIAL, edit=put("ImagePositionPatient", None, {7, 8}))
    volume = read_volume(tmp_path)
    assert volume.source.grid.shape == (*SHAPE[:2], 7)
    assert volume.source.notes == ("2 files of the series are no grey slices with a position and were left out",)


def test_two_phases_in_one_series_are_refused(tmp_path: Path) -> None:
    uid = generate_uid()
    for phase in (1, 2):
        write_series(tmp_path / str(phase), HU, AXIAL, edit=put("SeriesInstanceUID", uid), number=phase)
    with pytest.raises(InputError, match="9 of its slices are duplicated.*one phase"):
        read_volume(tmp_path)


def test_a_truncated_slice_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, HU, AXIAL)
    files[5].write_bytes(files[5].read_bytes()[:-50])
    with pytest.raises(InputError, match=f"slice {files[5].name} cannot be read"):
        read_volume(tmp_path)


@given(st.integers(0, 1500), st.binary(min_size=1, max_size=8))
@limits(max_examples=80)
def test_whatever_bytes_of_a_slice_are_spoiled_it_reads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("spoiled")
    file = write_series(folder, HU[:, :, :3], AXIAL)[1]
    raw = file.read_bytes()
    file.write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    with contextlib.suppress(InputError):  # anything else, a warning as well, fails the test
        assert np.isfinite(read_volume(folder).array).all()


def test_a_single_dicom_file_says_why_it_is_refused(tmp_path: Path) -> None:
    file = write_series(tmp_path, HU, AXIAL)[0]
    with pytest.raises(InputError, match="one DICOM file, a single slice; give the folder"):
        read_volume(file)
    bare = file.rename(tmp_path / "IM0001")
    with pytest.raises(InputError, match="one DICOM file, a single slice; give the folder"):
        read_volume(bare)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "series", HU, AXIAL)
    path = pack(tmp_path / "series", tmp_path / "series.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no zip archive, or a truncated one"):
        read_volume(path)
    path.write_bytes(whole[:500] + b"\xff" * 200 + whole[700:])
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize(
    ("bound", "value", "problem"),
    [
        ("MAX_ZIP_BYTES", 4000, "holds 9 files"),
        ("MAX_ZIP_FILES", 8, "holds 9 files"),
        ("MAX_MEMBER_BYTES", 900, "holds"),
    ],
)
def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, problem: str
) -> None:
    write_series(tmp_path / "series", HU, AXIAL)
    path = pack(tmp_path / "series", tmp_path / "series.zip")
    monkeypatch.setattr(archive, bound, value)
    with pytest.raises(InputError, match=f"{problem}.*more than a"):
        read_volume(path)


def test_a_zip_cannot_write_outside_itself(tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", HU, AXIAL)
    path = tmp_path / "slip.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in files:
            packed.writestr(f"../../{file.name}", file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="no DICOM files"):
        read_volume(path)  # names that begin with a dot are passed over
    assert sorted(tmp_path.rglob("*")) == before


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack(write_series(tmp_path / "series", HU, AXIAL)[0].parent, tmp_path / "series.zip")
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(magic)
        while at >= 0:
            raw[at + offset] |= 1
            at = raw.find(magic, at + 4)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="encrypted"):
        read_volume(path)


def test_a_stack_in_any_direction_is_turned_as_nibabel_turns_it(tmp_path: Path) -> None:
    for n, directions in enumerate(d for d in ALL_48 if np.linalg.det(d) > 0):
        write_series(tmp_path / str(n), HU, affine_of(directions))
        expected = nib.as_closest_canonical(nib.Nifti1Image(HU, affine_of(directions)))
        volume = read_volume(tmp_path / str(n))
        assert np.array_equal(volume.array, expected.get_fdata())
        assert np.allclose(volume.affine, expected.affine, atol=1e-4)


def _of(modality: str):
    return lambda k, dataset: setattr(dataset, "Modality", modality)


def test_a_series_that_is_no_ct_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "mr", HU, AXIAL, edit=_of("MR"))
    with pytest.raises(InputError, match=r"is MR: its values are no Hounsfield units"):
        read_volume(tmp_path / "mr")


def test_a_smaller_ct_goes_before_a_larger_series_of_another_kind(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "pet", HU, AXIAL, edit=_of("PT"), number=1)
    write_series(tmp_path / "study" / "ct", HU[:, :, :-1], AXIAL, number=2)
    volume = read_volume(tmp_path / "study")
    assert volume.array.shape == HU[:, :, :-1].shape
    assert "series" in volume.source.notes[0]
