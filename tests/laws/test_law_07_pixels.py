"""Law 7: MONOCHROME1 and 2, 8, 12 and 16 bit, with and without VOI LUT, give the same picture."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from radiograph_factory import dicom, dicom_of, film, lut

from shared.io.radiograph import from_array, read_radiograph

FILM = film()
SAME = from_array(FILM).array
QUANTUM = 1 / 255  # of the coarsest file, 8 bits


def assert_same(raw: bytes, tolerance: float = QUANTUM) -> None:
    found = read_radiograph(raw)
    assert found.array.dtype == np.float32
    assert found.array.shape == FILM.shape
    np.testing.assert_allclose(found.array, SAME, atol=tolerance)


def wide_window(shape: str, bits: int, signed: bool) -> Callable[[Dataset], None]:
    """A window wider than the values, so that it clips none."""
    top = 1 << bits

    def edit(dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth = (0 if signed else top / 2), 1.5 * top
        dataset.VOILUTFunction = shape

    return edit


@given(
    bits=st.sampled_from([8, 10, 12, 14, 16]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    signed=st.booleans(),
    window=st.sampled_from([None, "LINEAR", "LINEAR_EXACT"]),
    slope=st.sampled_from([None, 0.25, 1.0, 3.0]),
    intercept=st.integers(-3000, 3000),
)
def test_the_way_values_are_stored_does_not_show(
    bits: int, photometric: str, signed: bool, window: str | None, slope: float | None, intercept: int
) -> None:
    def edit(dataset: Dataset) -> None:
        if window:
            wide_window(window, bits, signed)(dataset)
        if slope:
            dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
            if window:
                dataset.WindowCenter = slope * float(dataset.WindowCenter) + intercept
                dataset.WindowWidth = max(slope, 1) * float(dataset.WindowWidth)

    assert_same(dicom(FILM, bits=bits, photometric=photometric, signed=signed, edit=edit))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("entry_bits", [8, 12, 16])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_that_straightens_what_was_stored_bent(
    photometric: str, bits: int, entry_bits: int, sequence: str
) -> None:
    """Stored as the square root; the table squares it again. Bent tables are what windows cannot say."""
    top = (1 << bits) - 1
    table = np.round((np.arange(top + 1) / top) ** 2 * ((1 << entry_bits) - 1))
    shown = 1 - FILM if photometric == "MONOCHROME1" else FILM

    def edit(dataset: Dataset) -> None:
        setattr(dataset, sequence, [lut(0, table, entry_bits)])

    raw = dicom_of(np.round(np.sqrt(shown) * top), bits=bits, photometric=photometric, edit=edit)
    assert_same(raw, tolerance=3 * QUANTUM)  # bent and straightened in 8 bits


def test_a_table_for_signed_values_over_the_whole_of_16_bits() -> None:
    values = np.round(FILM * 65535) - 32768

    def edit(dataset: Dataset) -> None:
        dataset.VOILUTSequence = [lut(-32768, np.arange(65536))]

    assert_same(dicom_of(values, bits=16, signed=True, edit=edit), tolerance=1e-4)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_sigmoid_bends_as_the_standard_says(photometric: str) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 1800, 2000, "SIGMOID"

    stored = np.round((1 - FILM if photometric == "MONOCHROME1" else FILM) * 4095)
    bent = 1 / (1 + np.exp(-4 * (stored - 1800) / 2000))
    expected = from_array(1 - bent if photometric == "MONOCHROME1" else bent).array
    found = read_radiograph(dicom(FILM, photometric=photometric, edit=edit)).array
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - SAME).max() > 0.05


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_narrow_window_clips_before_it_is_inverted(photometric: str) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.WindowCenter, dataset.WindowWidth = [1500, 99], [1000, 7]  # the first is the one to use
        dataset.VOILUTFunction = "LINEAR_EXACT"

    stored = np.round((1 - FILM if photometric == "MONOCHROME1" else FILM) * 4095)
    expected = from_array(np.clip(stored, 1000, 2000) * (-1 if photometric == "MONOCHROME1" else 1)).array
    found = read_radiograph(dicom(FILM, photometric=photometric, edit=edit)).array
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compression_does_not_show(photometric: str, bits: int, syntax: str) -> None:
    raw = dicom(FILM, bits=bits, photometric=photometric, syntax=syntax, edit=wide_window("LINEAR", bits, False))
    assert_same(raw)
    plain = read_radiograph(dicom(FILM, bits=bits, photometric=photometric, edit=wide_window("LINEAR", bits, False)))
    np.testing.assert_array_equal(read_radiograph(raw).array, plain.array)


def test_lossy_compression_hardly_shows() -> None:
    assert_same(dicom(FILM, bits=8, syntax=JPEGBaseline8Bit), tolerance=0.03)


def test_padding_is_background_and_does_not_count() -> None:
    """A collimated film: its surround is one value, beyond the others, black however it is stored."""
    around = np.zeros(FILM.shape, bool)
    around[:6], around[:, :4] = True, True
    for photometric, value in (("MONOCHROME1", 0), ("MONOCHROME2", 60000)):
        stored = np.round((1 - FILM if photometric == "MONOCHROME1" else FILM) * 4095) + 20000
        stored[around] = value

        def edit(dataset: Dataset, value: int = value) -> None:
            dataset.add_new("PixelPaddingValue", "US", value)

        found = read_radiograph(dicom_of(stored, bits=16, photometric=photometric, edit=edit)).array
        assert (found[around] == 0).all()
        expected = from_array(FILM[6:, 4:]).array
        np.testing.assert_allclose(found[6:, 4:], expected, atol=QUANTUM)


def test_a_range_of_padding_is_background() -> None:
    stored = np.round(FILM * 4095) + 100
    stored[:5] = np.arange(50, 90).reshape(1, -1)[:, : FILM.shape[1]]

    def edit(dataset: Dataset) -> None:
        dataset.add_new("PixelPaddingValue", "US", 99)
        dataset.add_new("PixelPaddingRangeLimit", "US", 50)

    found = read_radiograph(dicom_of(stored, bits=16, edit=edit)).array
    np.testing.assert_allclose(found[5:], from_array(FILM[5:]).array, atol=QUANTUM)
    assert (found[:5] == 0).all()


def test_an_overlay_in_the_unused_bits_does_not_show() -> None:
    stored = np.round(FILM * 4095).astype(np.int64)
    stored[::3] |= 0xF000

    def edit(dataset: Dataset) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11

    assert_same(dicom_of(stored, bits=16, edit=edit))


def png(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_picture_file_gives_what_dicom_gives(kind: str) -> None:
    assert_same(png(np.round(FILM * 255).astype(np.uint8), kind))
    assert_same(png(np.round(FILM * 4095).astype(np.uint16), kind))  # 12 bits in 16
    assert_same(png(np.round(FILM * 65535).astype(np.uint16), kind))
    grey = np.round(FILM * 255).astype(np.uint8)
    assert_same(png(np.stack([grey] * 3, -1), kind))


def test_a_grey_picture_stored_as_dicom_colour() -> None:
    grey = np.round(FILM * 255)
    raw = dicom_of(np.stack([grey] * 3, -1), bits=8, photometric="RGB")
    assert_same(raw)
    assert read_radiograph(raw).source.chroma == 0


def test_the_picture_is_spread_to_the_whole_of_0_to_1() -> None:
    for raw in (dicom(0.4 + 0.2 * FILM, bits=16), png(np.round(1000 + 900 * FILM).astype(np.uint16))):
        found = read_radiograph(raw).array
        assert (found.min(), found.max()) == (0, 1)
        np.testing.assert_allclose(found, SAME, atol=QUANTUM)


def test_one_dead_pixel_changes_no_other() -> None:
    spoilt = film(200, 160)
    expected = from_array(spoilt).array
    spoilt[100, 80] = 40.0
    found = from_array(spoilt).array
    others = np.ones(found.shape, bool)
    others[100, 80] = False
    np.testing.assert_allclose(found[others], expected[others], atol=0.01)
