"""Radiographs in: what each format shows, spacing, and where it comes from. Bad ones: test_bad_radiograph.py."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi, apply_windowing
from radiograph_factory import dicom, dicom_of, film, lut

from shared.errors import InputError
from shared.io.radiograph import from_array, is_radiograph, read_radiograph
from shared.io.windowing import apply_table, apply_window, percentiles, spread

FILM = film()
GREY = np.round(FILM * 255).astype(np.uint8)
SAME = from_array(GREY).array
PHOTO = np.stack([GREY, np.roll(GREY, 7, 0), np.roll(GREY, 9, 1)], -1)


def coded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def close(raw: bytes, expected: np.ndarray, atol: float = 1e-6) -> bool:
    return np.allclose(read_radiograph(raw).array, expected, atol=atol)


def test_from_a_path_from_bytes_and_from_an_open_file_alike(tmp_path: Path) -> None:
    raw = coded(GREY)
    path = tmp_path / "film.png"
    path.write_bytes(raw)
    from_path = read_radiograph(path)
    assert from_path.source.path == path
    assert (from_path.width_px, from_path.height_px) == (40, 48)
    assert from_path.source.format == "png"
    assert from_path.source.notes == ()
    assert from_path.spacing_mm is None
    with path.open("rb") as file:
        for found in (read_radiograph(str(path)), read_radiograph(raw), read_radiograph(file, name="upload")):
            np.testing.assert_array_equal(found.array, from_path.array)
    assert read_radiograph(raw).source.path is None


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_of_a_grey_picture_shows_the_same(kind: str, mode: str) -> None:
    image = Image.fromarray(GREY)
    image = image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else image.convert(mode)
    raw = coded(image, kind, **({"quality": 100} if kind == "JPEG" else {}))
    expected = from_array(np.asarray(Image.fromarray(GREY).convert("1"))).array if mode == "1" else SAME
    assert close(raw, expected, atol=0.04 if kind == "JPEG" else 0.012)
    assert read_radiograph(raw).source.chroma < 0.01


def test_colour_becomes_luma_and_is_measured() -> None:
    found = read_radiograph(coded(PHOTO))
    np.testing.assert_allclose(found.array, from_array(PHOTO).array, atol=0.01)
    assert found.source.chroma == pytest.approx(np.ptp(PHOTO / 255, axis=2).mean(), rel=0.2)
    assert read_radiograph(coded(GREY)).source.chroma == 0
    stored = dicom_of(PHOTO.astype(int), bits=8, photometric="RGB")
    np.testing.assert_allclose(read_radiograph(stored).array, found.array, atol=0.01)
    assert read_radiograph(stored).source.chroma == pytest.approx(np.ptp(PHOTO / 255, axis=2).mean(), rel=1e-3)


def test_transparent_pixels_are_black() -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:10] = 0
    raw = coded(np.stack([GREY, GREY, GREY, alpha], -1))
    found = read_radiograph(raw).array
    assert (found[:10] == 0).all()
    np.testing.assert_allclose(found, from_array(np.where(alpha, GREY, 0)).array, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "bits"), [("JPEG", 8), ("PNG", 8), ("PNG", 16), ("TIFF", 8), ("TIFF", 16)])
def test_exif_orientation_is_applied(orientation: int, kind: str, bits: int) -> None:
    image = Image.fromarray(GREY if bits == 8 else GREY.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    found = read_radiograph(coded(image, kind, exif=exif, **options)).array
    tagged = Image.fromarray(GREY)
    tagged.getexif()[0x0112] = orientation
    expected = from_array(np.asarray(ImageOps.exif_transpose(tagged))).array
    assert found.shape == expected.shape == ((48, 40) if orientation < 5 else (40, 48))
    np.testing.assert_allclose(found, expected, atol=0.04 if kind == "JPEG" else 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_inverted(dtype: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    top = np.iinfo(dtype).max
    file = BytesIO()
    tifffile.imwrite(file, np.round((1 - FILM) * top).astype(dtype), photometric="miniswhite")
    assert close(file.getvalue(), from_array(FILM).array, atol=0.005)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_a_tiff_of_signed_or_float_values(dtype: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = BytesIO()
    tifffile.imwrite(file, (FILM * 4000 - 1000).astype(dtype))
    assert close(file.getvalue(), from_array(FILM).array, atol=0.005)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (FILM, {}),
        (GREY.astype(np.int8), {}),
        (np.stack([GREY.astype(np.uint16)] * 3), {"photometric": "rgb", "planarconfig": "separate"}),
        (GREY.astype(">u2"), {"photometric": "miniswhite", "byteorder": ">"}),
    ],
    ids=["float64", "signed bytes", "planes of words", "white zero, big endian"],
)
def test_a_tiff_that_would_be_misread_is_refused(array: np.ndarray, options: dict[str, str]) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = BytesIO()
    tifffile.imwrite(file, array, **options)
    with pytest.raises(InputError, match="is a TIFF that is damaged, or of a kind that is not read; save it as a PNG"):
        read_radiograph(file.getvalue())


@pytest.mark.parametrize(
    "options", [{"byteorder": ">"}, {"bigtiff": True}, {"tile": (16, 16)}, {"compression": "zlib"}]
)
def test_tiffs_of_16_bits_however_laid_out(options: dict[str, object]) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = BytesIO()
    tifffile.imwrite(file, np.round(FILM * 65535).astype(np.uint16), **options)
    assert close(file.getvalue(), from_array(FILM).array, atol=1e-4)


def test_a_name_that_says_another_format_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    path.write_bytes(coded(GREY))
    assert read_radiograph(path).source.notes == ("its name says jpeg, its content is png, which counts",)
    path.write_bytes(dicom(FILM))
    assert read_radiograph(path).source.format == "dicom"


def test_a_camera_picture_with_a_preview_behind_it_is_read() -> None:
    raw = coded(Image.fromarray(GREY), "MPO", save_all=True, append_images=[Image.new("L", (20, 20))], quality=100)
    assert Image.open(BytesIO(raw)).format == "MPO"
    found = read_radiograph(raw)
    assert found.source.format == "jpeg"
    np.testing.assert_allclose(found.array, SAME, atol=0.04)


def test_from_array_takes_numbers_and_refuses_the_rest() -> None:
    assert from_array(FILM > 0.5).array.max() == 1
    assert from_array(np.zeros((20, 20))).array.max() == 0
    assert from_array(FILM, spacing_mm=(0.1, 0.2)).spacing_mm == (0.1, 0.2)
    for spoilt in (np.zeros((20, 20), complex), np.zeros((20, 20, 4)), np.zeros((3, 20)), np.full((20, 20), np.nan)):
        with pytest.raises(InputError, match=r"^the array: .*; "):
            from_array(spoilt)


@pytest.mark.parametrize(
    ("tags", "spacing_mm", "origin"),
    [
        ({}, None, None),
        ({"PixelSpacing": [0.1, 0.2]}, (0.1, 0.2), "PixelSpacing"),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2), "ImagerPixelSpacing"),
        ({"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2), "ImagerPixelSpacing"),
        ({"PixelSpacing": [0.09, 0.18], "ImagerPixelSpacing": [0.1, 0.2]}, (0.09, 0.18), "PixelSpacing"),
        (
            {"ImagerPixelSpacing": [0.11, 0.22], "EstimatedRadiographicMagnificationFactor": 1.1},
            (0.1, 0.2),
            "ImagerPixelSpacing over magnification",
        ),
        (
            {"ImagerPixelSpacing": [0.15, 0.15], "DistanceSourceToDetector": 1500, "DistanceSourceToPatient": 1000},
            (0.1, 0.1),
            "ImagerPixelSpacing over magnification",
        ),
        ({"ImagerPixelSpacing": [0.1, 0.1], "DistanceSourceToDetector": 1000}, (0.1, 0.1), "ImagerPixelSpacing"),
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "NominalScannedPixelSpacing"),
        ({"PixelSpacing": [0, 0]}, None, None),
        ({"PixelSpacing": [-1, 1], "NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "NominalScannedPixelSpacing"),
    ],
)
def test_pixel_spacing_and_where_it_stands(
    tags: dict[str, object], spacing_mm: tuple[float, float] | None, origin: str | None
) -> None:
    def edit(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    found = read_radiograph(dicom(FILM, edit=edit))
    assert found.spacing_mm == (pytest.approx(spacing_mm) if spacing_mm else None)
    assert found.source.spacing_from == origin
    assert any("at the detector" in note for note in found.source.notes) == (origin == "ImagerPixelSpacing")


@pytest.mark.parametrize(
    ("center", "width"), [(2000, 0), (90000, 100), (-5000, 300)], ids=["of no width", "above", "below"]
)
def test_a_window_that_shows_nothing_is_left_out_and_noted(center: int, width: int) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth = center, width

    found = read_radiograph(dicom(FILM, edit=edit))
    np.testing.assert_allclose(found.array, from_array(FILM).array, atol=0.001)
    assert found.source.notes == (
        f"its window ({center}, {width}) shows a single value; all its values are shown instead",
    )


def test_a_lut_is_preferred_to_a_window() -> None:
    table = np.where(np.arange(4096) > 2000, 1000, 0)

    def edit(dataset: Dataset) -> None:
        dataset.VOILUTSequence = [lut(0, table)]
        dataset.WindowCenter, dataset.WindowWidth = 500, 10

    assert set(np.unique(read_radiograph(dicom(FILM, edit=edit)).array)) == {0, 1}


def test_a_palette_and_pixels_without_a_transfer_syntax() -> None:
    def edit(dataset: Dataset) -> None:
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", (np.arange(256) * 257).astype("<u2").tobytes())

    raw = dicom_of(GREY.astype(int), bits=8, photometric="PALETTE COLOR", edit=edit)
    assert close(raw, SAME, atol=1e-4)
    bare = raw[raw.index(b"\x08\x00\x16\x00") :]  # as before there were file headers
    assert close(bare, SAME, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "kind", "mode"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "JPEG lossless", "RGB"),
        ("SC_rgb_rle.dcm", "RLE", "RGB"),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "baseline JPEG", "RGB"),
        ("SC_rgb_jls_lossy_line.dcm", "near-lossless JPEG-LS", "RGB"),
    ],
)
def test_colour_files_of_other_makers(file: str, kind: str, mode: str) -> None:
    """Colour bars that pydicom carries: 100 x 100, ten of them, the first red."""
    path = get_testdata_file(file, download=False)
    assert path is not None
    found = read_radiograph(path)
    assert found.array.shape == (100, 100)
    assert found.source.chroma > 0.3
    columns = [found.array[row, 50] for row in (5, 25, 45)]  # red is brighter than blue, green brighter than both
    assert columns[1] > columns[0] > columns[2]


def test_files_to_read_are_known_by_suffix_or_by_content(tmp_path: Path) -> None:
    for name in ("a.png", "a.JPG", "a.jpeg", "a.tif", "a.TIFF", "a.bmp", "a.dcm"):
        (tmp_path / name).write_bytes(b"")
        assert is_radiograph(tmp_path / name)
    (tmp_path / "1.2.840.4711").write_bytes(dicom(FILM))
    assert is_radiograph(tmp_path / "1.2.840.4711")
    for name in ("a.txt", ".a.png", "DICOMDIR", "a.nii.gz"):
        (tmp_path / name).write_bytes(dicom(FILM) if name == "DICOMDIR" else b"text")
        assert not is_radiograph(tmp_path / name)
    assert not is_radiograph(tmp_path)
    assert not is_radiograph(tmp_path / "missing.png")


@given(
    arrays(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]), st.integers(1, 300)),
    st.floats(0, 100, allow_subnormal=False),
)
def test_percentiles_are_those_of_numpy(values: np.ndarray, percent: float) -> None:
    values = np.nan_to_num(values, posinf=0, neginf=0)
    assert percentiles(values, (percent,)) == pytest.approx([np.percentile(values, percent)], rel=1e-6, abs=1e-6)


@given(
    values=arrays(np.int16, (16, 20), elements=st.integers(-2000, 2000)),
    center=st.floats(-1500, 1500),
    width=st.floats(30, 5000),  # narrower, and pydicom's sigmoid overflows
    shape=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_are_those_of_pydicom(values: np.ndarray, center: float, width: float, shape: str) -> None:
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.PixelRepresentation, dataset.BitsStored = "MONOCHROME2", 0, 8
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = round(center, 3), round(width, 3), shape
    found = apply_window(values, round(center, 3), round(width, 3), shape)
    np.testing.assert_allclose(found, apply_windowing(values, dataset) / 255, atol=2e-6)


@given(
    values=arrays(np.int32, (16, 20), elements=st.integers(-300, 800)),
    first=st.integers(-100, 400),
    table=arrays(np.uint16, st.integers(2, 300)),
)
def test_tables_are_those_of_pydicom(values: np.ndarray, first: int, table: np.ndarray) -> None:
    dataset, item = Dataset(), Dataset()
    item.add_new("LUTDescriptor", "SS", [len(table), first, 16])
    item.add_new("LUTData", "US", table.tolist())
    dataset.VOILUTSequence = [item]
    np.testing.assert_array_equal(apply_table(values, first, table), apply_voi(values, dataset))


@given(arrays(np.float64, (16, 24), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_spread_picture_is_in_order_and_in_range(values: np.ndarray) -> None:
    found = spread(values)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert found.max() == (1 if np.ptp(values) > 0 else 0)
    order = np.argsort(values, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()


def test_windows_at_their_limits() -> None:
    values = np.array([[0, 9, 10, 11, 60000]])
    assert apply_window(values, 10, 1).tolist() == [[0, 0, 1, 1, 1]]
    assert apply_window(values, 10, 0.5, "LINEAR_EXACT").tolist() == [[0, 0, 0.5, 1, 1]]
    assert apply_window(values, 10, 0.01, "SIGMOID").tolist() == [[0, 0, 0.5, 1, 1]]
    for width, shape in ((0.5, "LINEAR"), (0, "LINEAR_EXACT"), (np.nan, "SIGMOID"), (9, "CUBIC")):
        with pytest.raises(ValueError, match="window"):
            apply_window(values, 10, width, shape)


def test_raw_detector_data_is_noted() -> None:
    def edit(dataset: Dataset) -> None:
        dataset.PresentationIntentType = "FOR PROCESSING"

    assert any("raw data (FOR PROCESSING)" in note for note in read_radiograph(dicom(FILM, edit=edit)).source.notes)


def test_threads_that_read_leave_the_processs_warnings_as_they_were(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(coded(GREY))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_radiograph, [path] * 200))
    assert list(warnings.filters) == before
