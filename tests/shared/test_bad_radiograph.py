"""Every broken picture ends in one line that names the file and what to do, and never the patient."""

import logging
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from radiograph_factory import PATIENT, dicom, dicom_of, film, lut

from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.io.radiograph_dicom import _codestream_size

FILM = film()
GREY = np.round(FILM * 255).astype(np.uint8)


def coded(array: np.ndarray, kind: str, **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def frames(kind: str) -> bytes:
    file = BytesIO()
    more = [Image.fromarray(255 - GREY)]
    Image.fromarray(GREY).save(file, kind, save_all=True, append_images=more)
    return file.getvalue()


def with_tags(**tags: object) -> bytes:
    def edit(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return dicom(FILM, edit=edit)


def vast_png(side: int) -> bytes:
    """A PNG of a few hundred bytes that claims to hold side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def no_syntax(raw: bytes) -> bytes:
    """A compressed file without its preamble and file header."""
    return raw[raw.index(b"\x08\x00\x16\x00") :]


def deflated(raw: bytes, before: int = 2) -> bytes:
    """A deflated file, with so many bytes before it says so."""
    dataset = dcmread(BytesIO(raw))
    dataset.file_meta.FileMetaInformationVersion = bytes(before)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def short_lut() -> Dataset:
    item = lut(0, np.arange(4096))
    item.LUTData = item.LUTData[:100]
    return item


def empty_lut() -> Dataset:
    item = Dataset()
    item.LUTExplanation = PATIENT
    return item


SHOWN = coded(GREY, "PNG")
J2K = dicom(FILM, syntax=JPEG2000Lossless)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty; export or copy it again"),
    "text": (b"file,label\n1,2\n" * 9, "is no picture, or its beginning is damaged; give a PNG, JPEG, TIFF or DICOM"),
    "gif": (coded(GREY, "GIF"), "is a GIF, which is not read; give a PNG"),
    "webp": (coded(GREY, "WEBP"), "is a WebP, which is not read; give a PNG"),
    "pdf": (b"%PDF-1.7 ...", "is a PDF, which is not read; give a PNG"),
    "one pixel": (coded(GREY[:1, :1], "PNG"), "1 x 1 px are too few to see anything on; give the original"),
    "a line": (coded(GREY[:2], "PNG"), "40 x 2 px are too few"),
    "vast": (vast_png(60000), "60000 x 60000 px are more than the .* that are read|has more than the"),
    "larger than is read": (vast_png(11000), "11000 x 11000 px are more than the 100,000,000 that are read"),
    "animated png": (frames("PNG"), "is animated; save the one picture"),
    "pages": (frames("TIFF"), "holds several pages; save the one picture"),
    "truncated png": (SHOWN[: len(SHOWN) // 2], "is damaged or truncated"),
    "truncated jpeg": (coded(GREY, "JPEG")[:-200], "is damaged or truncated"),
    "truncated tiff": (coded(GREY, "TIFF")[:-200], "is damaged or truncated|is a TIFF that is damaged"),
    "not finite": (coded(np.where(FILM > 0.5, np.nan, FILM).astype(np.float32), "TIFF"), "pixels are NaN or infinite"),
    "truncated dicom": (dicom(FILM)[:-200], "its pixels .Explicit VR Little Endian. cannot be read: damaged or trunc"),
    "truncated jpeg 2000": (J2K[:-800], "holds no picture, or is cut off before it"),
    "dicom head alone": (dicom(FILM)[:400], "holds no picture, or is cut off before it; give a CR or DX file"),
    "dicom with text behind its preamble": (bytes(128) + b"DICM" + b"text" * 99, "DICOM|holds no picture"),
    "no transfer syntax": (no_syntax(J2K), "does not say how its pixels are coded .no transfer syntax.; export"),
    "deflated": (deflated(dicom(FILM)), "is a deflated DICOM file, which is not read; store it uncompressed"),
    "deflated behind a long header": (deflated(dicom(FILM), 5000), "is a deflated DICOM file, which is not read"),
    "frames": (with_tags(NumberOfFrames=3), "holds 3 frames, not one picture; export the one frame"),
    "ct": (with_tags(Modality="CT"), "is a CT slice, no radiograph; give a CR or DX file"),
    "no photometric": (with_tags(PhotometricInterpretation=None), "does not say how its values are shown"),
    "no rows": (with_tags(Rows=None), "its DICOM header cannot be read"),
    "no pixels": (with_tags(PixelData=None), "holds no picture"),
    "tiny": (with_tags(Rows=1, Columns=1), "1 x 1 px are too few"),
    "large": (with_tags(Rows=60000, Columns=60000), "60000 x 60000 px are more than"),
    "other size": (with_tags(Rows=480), "its pixels .* cannot be read"),
    "shifted bits": (with_tags(HighBit=15), "has 12 bits up to bit 15, not from bit 0"),
    "short lut": (with_tags(VOILUTSequence=[short_lut()]), "its look-up table or window cannot be read"),
    "empty lut": (with_tags(VOILUTSequence=[empty_lut()]), "its look-up table or window cannot be read"),
    "empty modality lut": (with_tags(ModalityLUTSequence=[empty_lut()]), "its look-up table or window cannot be"),
    "window of an unknown shape": (
        with_tags(WindowCenter=2000, WindowWidth=2000, VOILUTFunction="CUBIC"),
        "its look-up table or window cannot be read",
    ),
    "flat rescale": (with_tags(RescaleSlope=0, RescaleIntercept=0), "its look-up table or window cannot be read"),
    "palette without colours": (dicom_of(GREY, bits=8, photometric="PALETTE COLOR"), "its colours cannot be read"),
}


def refused(source: Path | bytes, *, name: str) -> str:
    """Read what must be refused; gives the message after checking that it is a line for people, of no patient."""
    with pytest.raises(InputError) as caught:
        read_radiograph(source, name=name if isinstance(source, bytes) else None)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert "; " in message.removeprefix(f"{name}: ")
    assert not any(part in message for part in (*PATIENT.split("^"), "4711"))
    assert caught.value.__cause__ is None or "Doe" not in str(caught.value.__cause__)
    return message


@pytest.mark.parametrize("case", BAD)
def test_a_broken_picture_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    raw, problem = BAD[case]
    path = tmp_path / "film.png"
    path.write_bytes(raw)
    with caplog.at_level(logging.DEBUG):
        message = refused(path, name=str(path))
        assert refused(raw, name="upload") == message.replace(str(path), "upload")
    assert re.search(problem, message), message
    assert "Doe" not in caplog.text
    assert "Doe" not in "".join(capfd.readouterr())


def test_what_is_not_there_or_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file; check the name" in refused(tmp_path / "film.png", name=str(tmp_path / "film.png"))
    assert "is a folder; give one picture" in refused(tmp_path, name=str(tmp_path))
    path = tmp_path / "film.png"
    path.write_bytes(SHOWN)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", deny)
        message = refused(path, name=str(path))
    assert "cannot be read: permission denied; check the file and its permissions" in message


def test_a_limit_on_pixels_is_kept_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "convert", decode)
    monkeypatch.setattr("shared.io.radiograph_dicom.pixel_array", decode)
    for raw in (SHOWN, coded(GREY, "JPEG"), dicom(FILM)):
        with pytest.raises(InputError, match="40 x 48 px are more than the 1,900 that are read; make it smaller"):
            read_radiograph(raw, max_pixels=1900)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_a_frame_larger_than_the_header_says_is_refused_before_it_is_decoded(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of a bomb says little, the codestream much: decoders go by the codestream."""
    raw = dicom(FILM, bits=8, syntax=syntax)
    assert read_radiograph(raw).array.shape == FILM.shape
    size = struct.pack(">2I", 40, 48) if syntax == JPEG2000Lossless else struct.pack(">B2H", 8, 48, 40)
    vast = struct.pack(">2I", 60000, 50000) if syntax == JPEG2000Lossless else struct.pack(">B2H", 8, 50000, 60000)
    assert size in raw
    monkeypatch.setattr("shared.io.radiograph_dicom.pixel_array", None)
    with pytest.raises(InputError, match="its pixels are 60000 x 50000 px, its header says 40 x 48 px"):
        read_radiograph(raw.replace(size, vast, 1))


def test_a_codestream_says_its_own_size() -> None:
    assert _codestream_size(coded(GREY, "JPEG")) == (40, 48)
    assert _codestream_size(coded(GREY, "JPEG2000", no_jp2=True)) == (40, 48)
    packed, other = coded(GREY, "JPEG2000"), coded(GREY[:20, :20], "JPEG2000", no_jp2=True)
    assert _codestream_size(packed) == (40, 48)
    start = packed.index(b"jp2c") - 4
    for box in (bytes(5000), other):  # a JP2 file may hold anything before its codestream, another one too
        uuid = struct.pack(">I4s16x", 24 + len(box), b"uuid") + box
        assert _codestream_size(packed[:start] + uuid + packed[start:]) == (40, 48)
    long = struct.pack(">I4sQ", 1, b"jp2c", len(packed) - start + 8)
    assert _codestream_size(packed[:start] + long + packed[start + 8 :]) == (40, 48)
    assert _codestream_size(b"\xff\xd8" + b"\xff" * 90) is None
    assert _codestream_size(bytes(100)) is None


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_a_frame_that_does_not_say_its_size_is_not_decoded(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = dicom(FILM, bits=8, syntax=syntax)
    start = b"\xff\x4f\xff\x51" if syntax == JPEG2000Lossless else b"\xff\xd8\xff"
    monkeypatch.setattr("shared.io.radiograph_dicom.pixel_array", None)
    with pytest.raises(InputError, match="its pixels .* do not say how large they are; export"):
        read_radiograph(raw.replace(start, bytes(len(start)), 1))


FILES = {
    "png": SHOWN,
    "jpeg": coded(GREY, "JPEG"),
    "tiff": coded(GREY, "TIFF"),
    "bmp": coded(GREY, "BMP"),
    "native": dicom(FILM),
    "jpeg 2000": J2K,
    "jpeg-ls": dicom(FILM, syntax=JPEGLSLossless),
    "baseline": dicom(FILM, bits=8, syntax=JPEGBaseline8Bit),
}


@pytest.mark.parametrize("kind", FILES)
@limits(max_examples=40)
@given(data=st.data())
def test_damage_anywhere_is_read_or_refused_in_a_line(kind: str, data: st.DataObject) -> None:
    raw = bytearray(FILES[kind])
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(1, len(raw))))
    try:
        found = read_radiograph(bytes(raw[:cut]), max_pixels=1 << 20)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        assert np.isfinite(found.array).all()
    assert "\n" not in message
    assert "Doe" not in message


def test_a_coding_that_is_not_read_is_named() -> None:
    raw = dicom(FILM, syntax=JPEG2000Lossless).replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.94", 1)
    assert "is coded as JPIP Referenced, which is not read; store it uncompressed" in refused(raw, name="upload")


def test_a_decoder_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = get_decoder(JPEGLSLossless)
    monkeypatch.setattr(type(decoder), "is_available", False)
    monkeypatch.setattr(type(decoder), "missing_dependencies", ["pyjpegls"])
    message = "upload: is coded as JPEG-LS Lossless Image Compression, but no decoder is installed; install pyjpegls"
    with pytest.raises(SetupError, match=message):
        read_radiograph(dicom(FILM, syntax=JPEGLSLossless), name="upload")


def test_damaged_rle_is_refused_though_its_decoder_panics() -> None:
    raw = bytearray(dicom(FILM, syntax=RLELossless))
    raw[-1000:-900] = b"\x7f" * 100
    assert "its pixels (RLE Lossless) cannot be read" in refused(bytes(raw), name="upload")
