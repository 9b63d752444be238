import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from orientations import ALL_48, SHAPE, affine_of, oblique_affines

from shared.errors import InputError
from shared.io import nifti
from shared.io.volume import from_array, from_sitk, is_volume, read_volume, stem
from shared.types import Grid, Source

RNG = np.random.default_rng(0)
HU = RNG.integers(-1000, 2000, SHAPE).astype(np.int16)
AFFINE = affine_of(ALL_48[13])


def save(path: Path, array: np.ndarray = HU, affine: np.ndarray = AFFINE, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(array, affine), path)
    return path


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "u2", "i4", "f4", ">f8"])
def test_a_nifti_reads_as_nibabel_reads_it(tmp_path: Path, name: str, kind: type, dtype: str) -> None:
    array = RNG.integers(0, 100, SHAPE).astype(dtype)
    image = kind(array, AFFINE)
    image.header.set_data_dtype(dtype)
    plain = tmp_path / "plain.nii"
    nib.save(image, plain)
    path = tmp_path / name
    path.write_bytes(gzip_bytes(plain.read_bytes()) if name.lower().endswith("gz") else plain.read_bytes())
    volume = read_volume(path)
    theirs = nib.as_closest_canonical(nib.load(plain))
    assert volume.array.dtype == np.float32
    assert volume.array.flags.f_contiguous
    assert np.array_equal(volume.array, theirs.get_fdata(dtype=np.float32))
    assert np.array_equal(volume.affine, theirs.affine)
    assert np.array_equal(volume.source.grid.affine, nib.load(plain).affine)
    assert volume.source.grid.shape == SHAPE
    assert volume.source.format == "nifti"
    assert volume.source.path == path


def gzip_bytes(raw: bytes) -> bytes:
    import gzip

    return gzip.compress(raw, 1)


@given(
    oblique_affines(),
    st.tuples(*[st.integers(2, 9)] * 3),
    st.floats(1e-3, 10),
    st.floats(-2000, 2000),
    st.sampled_from(["u1", "i2", "i4"]),
)
@limits(max_examples=40)
def test_scaled_values_of_any_grid_read_as_nibabel_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    affine: np.ndarray,
    shape: tuple[int, ...],
    slope: float,
    inter: float,
    dtype: str,
) -> None:
    path = tmp_path_factory.mktemp("scaled") / "scan.nii"
    image = nib.Nifti1Image(RNG.integers(0, 250, shape).astype(dtype), affine)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    theirs = nib.as_closest_canonical(nib.load(path)).get_fdata()
    assert np.allclose(read_volume(path).array, theirs, rtol=1e-5, atol=1e-3)


def test_many_slabs_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "scan.nii.gz")
    whole = read_volume(path).array
    monkeypatch.setattr(nifti, "SLAB_BYTES", 2 * SHAPE[0] * SHAPE[1] * 2)  # two slices, and one left over
    assert np.array_equal(read_volume(path).array, whole)


def test_reading_holds_the_volume_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((128, 128, 128), np.int16)
    path = save(tmp_path / "scan.nii.gz", array)
    read_volume(path)  # imports are no part of it
    monkeypatch.setattr(nifti, "SLAB_BYTES", 1 << 18)
    tracemalloc.start()
    volume = read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < volume.array.nbytes + array.nbytes / 2


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(HU, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    nib.save(image, tmp_path / "scan.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").array, nib.as_closest_canonical(image).get_fdata())


def test_a_single_frame_of_4d_is_a_volume(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii", HU[..., None, None]))
    assert volume.source.grid.shape == SHAPE
    assert np.array_equal(volume.array, read_volume(save(tmp_path / "flat.nii")).array)


@pytest.mark.parametrize("code", ["sform", "qform"])
def test_one_affine_of_the_two_is_enough(tmp_path: Path, code: str) -> None:
    image = nib.Nifti1Image(HU, AFFINE)
    image.set_sform(AFFINE, code=int(code == "sform"))
    image.set_qform(AFFINE, code=int(code == "qform"))
    nib.save(image, tmp_path / "scan.nii")
    assert np.allclose(read_volume(tmp_path / "scan.nii").source.grid.affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_itk_formats_read_as_the_nifti_of_the_same_scan(tmp_path: Path, suffix: str, compress: bool) -> None:
    expected = read_volume(save(tmp_path / "scan.nii.gz"))
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")), str(path), compress)
    volume = read_volume(path)
    assert np.array_equal(volume.array, expected.array)
    assert np.allclose(volume.affine, expected.affine, atol=1e-4)
    assert volume.source.format == suffix[1:].replace("mhd", "mha")


def test_an_image_in_memory_is_the_same_volume(tmp_path: Path) -> None:
    expected = read_volume(save(tmp_path / "scan.nii.gz"))
    volume = from_sitk(sitk.ReadImage(str(tmp_path / "scan.nii.gz")))
    assert np.array_equal(volume.array, expected.array)
    assert np.allclose(volume.affine, expected.affine, atol=1e-4)
    assert volume.source.path is None


def test_an_array_with_an_affine_is_copied() -> None:
    array = HU.astype(np.float32)
    volume = from_array(array, np.eye(4))
    assert np.array_equal(volume.array, array)
    assert not np.shares_memory(volume.array, array)
    assert volume.source == Source(volume.source.grid)
    assert volume.source.grid.shape == SHAPE
    source = Source(Grid(SHAPE, np.eye(4)), path=Path("scan.nii"))
    assert from_array(array, np.eye(4), source=source).source is source


@pytest.mark.parametrize(
    ("array", "affine", "problem"),
    [
        (np.zeros((4, 4)), np.eye(4), "shape 4 x 4"),
        (np.zeros((4, 4, 1)), np.eye(4), "shape 4 x 4 x 1"),
        (np.zeros((4, 4, 4), complex), np.eye(4), "complex128"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "64 of 64 voxels are NaN"),
        (np.full((4, 4, 4), 1e300), np.eye(4), "64 of 64 voxels are NaN or infinite"),
        (np.zeros((4, 4, 4)), np.eye(3), "4x4"),
        (np.zeros((4, 4, 4)), np.full((4, 4), np.nan), "4x4"),
        (np.zeros((4, 4, 4)), np.diag([1.0, 0, 1, 1]), "spacing 1 x 0 x 1 mm"),
        (np.zeros((4, 4, 4)), np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "degenerate"),
        (np.zeros((4, 4, 4)), np.array([[1.0, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "11.3 degrees"),
    ],
)
def test_an_array_that_is_no_scan_is_refused(array: np.ndarray, affine: np.ndarray, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        from_array(array, affine)


def test_a_colour_image_in_memory_is_refused() -> None:
    with pytest.raises(InputError, match="3 values per voxel"):
        from_sitk(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3))
    with pytest.raises(InputError, match="is 2D"):
        from_sitk(sitk.Image([4, 4], sitk.sitkInt16))


def test_what_is_a_volume(tmp_path: Path) -> None:
    for name in ("a.nii", "b.NII.GZ", "c.nrrd", "d.mha", "e.mhd", "f.zip", ".hidden.nii", "g.txt", "h.png", "i.dcm"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.nii").write_bytes(b"")
    assert sorted(p.name for p in tmp_path.iterdir() if is_volume(p)) == [
        "a.nii",
        "b.NII.GZ",
        "c.nrrd",
        "d.mha",
        "e.mhd",
        "f.zip",
        "series",
    ]
    assert not is_volume(tmp_path / "absent.nii")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "a"), ("1.img.nii.gz", "1.img"), ("b.NRRD", "b"), ("c.zip", "c"), ("v1.2", "v1"), ("plain", "plain")],
)
def test_a_scan_is_named_without_its_format(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected


def test_a_folder_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "1.2.840").mkdir()
    assert stem(tmp_path / "1.2.840") == "1.2.840"
