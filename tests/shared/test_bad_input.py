"""Every broken scan ends in one line that names the file and what to do. DICOM's are in test_dicom_series.py."""

import contextlib
import errno
import gzip
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from orientations import ALL_48, SHAPE, affine_of

from shared.errors import InputError
from shared.io import nifti
from shared.io.volume import is_volume, read_volume

HU = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)
AFFINE = affine_of(ALL_48[13])


def image(array: np.ndarray = HU) -> nib.Nifti1Image:
    """A good NIfTI, to be spoiled."""
    made = nib.Nifti1Image(array, AFFINE)
    made.set_sform(AFFINE, 1)
    made.set_qform(AFFINE, 1)
    return made


def nifti_with(array: np.ndarray = HU, **fields: object) -> bytes:
    """The bytes of a good NIfTI with header fields overwritten behind nibabel's back."""
    raw = bytearray(image(array).to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    raw[:348] = header.binaryblock
    return bytes(raw)


def with_voxel(value: float, count: int = 1) -> np.ndarray:
    array = HU.astype(np.float32)
    array.ravel()[:count] = value
    return array


def turned_sform() -> bytes:
    made = image()
    made.set_sform(affine_of(ALL_48[20]), 2)
    made.header["pixdim"][1:4] = np.linalg.norm(AFFINE[:3, :3], axis=0)
    return made.to_bytes()


def sheared(degrees: float) -> bytes:
    affine = AFFINE.copy()
    affine[:3, 2] += affine[:3, 1] / 0.7 * 1.1 * np.tan(np.radians(degrees))
    made = nib.Nifti1Image(HU, affine)
    made.set_qform(None, 0)
    made.set_sform(affine, 1)
    return made.to_bytes()


GOOD = image().to_bytes()
NAMES_BOTH = r"its sform \(code 2\) and qform \(code 1\) disagree by up to \d+\.\d mm; keep the right one"
NIFTIS: dict[str, tuple[bytes, str]] = {
    "nan": (image(with_voxel(np.nan, 7)).to_bytes(), "7 of 1287 voxels are NaN or infinite; set them to a number"),
    "inf": (image(with_voxel(-np.inf)).to_bytes(), "1 of 1287 voxels are NaN or infinite"),
    "beyond float32": (nib.Nifti1Image(np.full(SHAPE, 1e200), AFFINE).to_bytes(), "1287 of 1287 voxels are NaN"),
    "2D": (image(HU[:, :, 0]).to_bytes(), r"is 2D \(13 x 11\), not 3D; give a 3D scan"),
    "2D as 3D": (image(HU[:, :, :1]).to_bytes(), "13 x 11 x 1 is not that of a volume"),
    "4D": (image(np.stack([HU] * 2, -1)).to_bytes(), r"is 4D \(13 x 11 x 9 x 2\), not 3D; give one frame"),
    "5D": (image(HU[..., None, None].repeat(3, 4)).to_bytes(), "is 5D .* not 3D; give one frame"),
    "no dimensions": (nifti_with(dim=[0] * 8), "dimensions .* make no sense"),
    "negative dimension": (nifti_with(dim=[3, -5, 11, 9, 1, 1, 1, 1]), "dimensions .* make no sense"),
    "zero spacing": (nifti_with(pixdim=[1, 0, 0.7, 1.1, 0, 0, 0, 0]), "spacing 0 x 0.7 x 1.1 mm is not positive"),
    "negative spacing": (
        nifti_with(pixdim=[1, 0.4, -0.7, 1.1, 0, 0, 0, 0]),
        "spacing 0.4 x -0.7 x 1.1 mm is not positive",
    ),
    "nan spacing": (nifti_with(pixdim=[1, np.nan, 0.7, 1.1, 0, 0, 0, 0]), "is not positive"),
    "spacings disagree": (
        nifti_with(qform_code=0, pixdim=[1, 1, 1, 1, 0, 0, 0, 0]),
        "sform says a spacing of .* pixdim 1 x 1 x 1",
    ),
    "no affine": (nifti_with(sform_code=0, qform_code=0), "has no orientation .* convert it again from DICOM"),
    "zero sform": (nifti_with(qform_code=0, srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "spacing 0 x 0 x 0 mm"),
    "degenerate": (nifti_with(srow_y=[0.4, 0, 0, 0], srow_x=[0, 0.7, 1.1, 0], srow_z=[0] * 4), "degenerate"),
    "nan sform": (nifti_with(srow_x=[np.nan] * 4), "no finite 4x4 matrix"),
    "bad quaternion": (nifti_with(sform_code=0, quatern_b=2.0), "qform quaternion is not a rotation"),
    "disagreeing": (turned_sform(), NAMES_BOTH),
    "sheared": (sheared(12), "12.0 degrees from perpendicular"),
    "microns": (nifti_with(xyzt_units=3), "its spatial unit is the micron; convert it to mm"),
    "colour": (
        nib.Nifti1Image(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE).to_bytes(),
        "colour values",
    ),
    "complex": (nib.Nifti1Image(HU.astype(np.complex64), AFFINE).to_bytes(), "complex64 values, not CT numbers"),
    "unknown type": (nifti_with(datatype=77), "data type code 77 is unknown"),
    "truncated": (GOOD[:-100], "is truncated: 100 bytes are missing"),
    "header only": (GOOD[:348], "is truncated"),
    "half a header": (GOOD[:200], "is truncated"),
    "three bytes": (GOOD[:3], "is not a NIfTI file"),
    "empty": (b"", "is empty; get the file again"),
    "text": (b"patient,scan\n1,2\n" * 50, "is not a NIfTI file|not gzip"),
    "pair's header": (nifti_with(magic=b"ni1\0"), "no single-file NIfTI"),
    "voxels in the header": (nifti_with(vox_offset=10), "voxels begin inside the header"),
    "huge": (nifti_with(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "32767 x 32767 x 32767 voxels cannot fit"),
}


def refused(path: Path) -> str:
    """Read a scan that must be refused; gives the message after checking that it is a line for people."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "; " in message.removeprefix(f"{path}: ")
    assert caught.value.exit_status == 1
    return message


@pytest.mark.parametrize("name", NIFTIS)
def test_a_broken_nifti_says_what_is_wrong_and_what_to_do(tmp_path: Path, name: str) -> None:
    raw, problem = NIFTIS[name]
    path = tmp_path / "scan.nii"
    path.write_bytes(raw)
    assert_matches(problem, refused(path))


@pytest.mark.parametrize("name", [name for name in NIFTIS if NIFTIS[name][0]])
def test_a_broken_nifti_is_refused_when_packed_as_well(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(NIFTIS[name][0]))
    refused(path)


def assert_matches(pattern: str, message: str) -> None:
    assert re.search(pattern, message), message


PACKED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    ("name", "raw", "problem"),
    [
        ("scan.nii.gz", PACKED[: len(PACKED) // 2], "is truncated: its gzip stream ends too early; copy or download"),
        ("scan.nii.gz", PACKED[:-8], "is truncated"),
        ("scan.nii.gz", PACKED[:-4] + b"\1\2\3\4", "is damaged"),
        ("scan.nii.gz", PACKED[:400] + b"\xff" * 40 + PACKED[440:], "is damaged|is truncated"),
        ("scan.nii.gz", GOOD, "is not gzip-compressed; rename it if it is a plain .nii"),
        ("scan.nii.gz", b"just a text file\n", "is not gzip-compressed"),
        ("scan.nii.gz", b"", "is empty"),
        ("scan.nii.gz", gzip.compress(GOOD[:-500]), "is truncated: 500 bytes are missing"),
        ("scan.nii", PACKED, "is gzip-compressed; rename it to .nii.gz"),
        ("scan.nrrd", b"a text file", "its header cannot be understood; get it again"),
        ("scan.mha", b"a text file", "its header cannot be understood"),
        ("scan.zip", b"a text file", "no zip archive"),
        ("scan.png", b"a picture", "is of a kind that is not read; give .nii"),
        ("scan", b"a text file", "is of a kind that is not read; give .nii"),
    ],
)
def test_a_file_that_is_not_what_it_is_called(tmp_path: Path, name: str, raw: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(raw)
    assert_matches(problem, refused(tmp_path / name))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_itk_file_is_refused(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(HU), str(path), compress)
    path.write_bytes(path.read_bytes()[:-300])
    assert_matches("its voxels cannot be read: truncated or damaged", refused(path))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_files_that_are_no_scan_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(HU[0]), str(path))
    assert_matches("is 2D", refused(path))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([HU] * 3), isVector=False), str(path))
    assert_matches("is 4D", refused(path))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([HU] * 3, -1), isVector=True), str(path))
    assert_matches("3 values per voxel", refused(path))
    sitk.WriteImage(sitk.GetImageFromArray(with_voxel(np.nan)), str(path))
    assert_matches("1 of 1287 voxels are NaN", refused(path))


def test_an_nrrd_with_sheared_or_flat_axes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nrrd"
    head = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 13 11 9\n"
    tail = "kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    for directions, problem in (
        ("(1,0,0) (0,1,0) (0,0.3,1)", "16.7 degrees from perpendicular"),
        ("(1,0,0) (2,0,0) (0,0,1)", "degenerate|cannot be understood"),
        ("(0,0,0) (0,1,0) (0,0,1)", "is no finite 4x4 matrix|is not positive"),
    ):
        path.write_bytes(f"{head}space directions: {directions}\n{tail}".encode() + HU.tobytes())
        assert_matches(problem, refused(path))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert_matches("no such file or folder; check the name", refused(tmp_path / "scan.nii.gz"))
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "scan.nii.gz")


def test_an_empty_folder_and_one_without_dicom_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_matches("holds no DICOM files; give the folder", refused(tmp_path / "empty"))
    (tmp_path / "empty" / "scan.nii.gz").write_bytes(PACKED)
    assert_matches("holds no DICOM files; give the folder", refused(tmp_path / "empty"))


def deny(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("made", ["scan.nii", "folder"])
def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    path = tmp_path / made
    if made == "folder":
        path.mkdir()
    else:
        path.write_bytes(GOOD)
    with monkeypatch.context() as patched:
        for place, function in ((Path, "open"), (os, "scandir"), (os, "listdir")):
            patched.setattr(place, function, deny)
        message = refused(path)
        assert is_volume(path)
    assert_matches("cannot be read: permission denied; check the file and its permissions", message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_the_system_does_not_let_us_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "scan.nii"
    path.mkdir() if kind == "folder" else path.write_bytes(GOOD)
    path.chmod(0)
    try:
        assert_matches("permission denied", refused(path))
    finally:
        path.chmod(0o700)


def test_a_scan_that_does_not_fit_in_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    (tmp_path / "scan.nii").write_bytes(GOOD)
    monkeypatch.setattr(nifti, "Canvas", no_memory)
    assert_matches("does not fit in this machine's memory", refused(tmp_path / "scan.nii"))


def test_a_quaternions_rounding_next_to_a_half_turn_is_no_disagreement(tmp_path: Path) -> None:
    affine = np.diag([-0.35, -0.35, 0.5, 1.0])
    affine[:3, 3] = 90, 90, -130
    made = nib.Nifti1Image(np.zeros((512, 512, 4), np.int16), affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    made.header["quatern_d"] = np.float32(0.9999999)  # half a float32 step off: a turn of 0.05 degrees
    nib.save(made, tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").array.shape == (512, 512, 4)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=40))
@limits(max_examples=150)
def test_whatever_bytes_are_spoiled_it_reads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    assert_reads_or_says_why(
        tmp_path_factory.mktemp("spoiled") / "scan.nii", GOOD[:at] + noise + GOOD[at + len(noise) :]
    )


@given(st.integers(0, len(PACKED) - 1), st.binary(min_size=1, max_size=40))
@limits(max_examples=100)
def test_whatever_packed_bytes_are_spoiled_it_reads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    raw = PACKED[:at] + noise + PACKED[at + len(noise) :]
    assert_reads_or_says_why(tmp_path_factory.mktemp("spoiled") / "scan.nii.gz", raw)


@given(st.integers(0, 347), st.binary(min_size=1, max_size=8))
@limits(max_examples=200)
def test_whatever_header_bytes_are_spoiled_it_reads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("spoiled") / "scan.nii"
    assert_reads_or_says_why(path, GOOD[:at] + noise + GOOD[at + len(noise) :])


def assert_reads_or_says_why(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with contextlib.suppress(InputError):  # anything else, a warning as well, fails the test
        assert np.isfinite(read_volume(path).array).all()
