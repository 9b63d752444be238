"""Files that somebody might send by mistake or in malice: cut short, altered, lying about their size, of other kinds.

`corpus` makes them from a seed, a few hundred small ones; none of them needs more than a moment to be refused.
"""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from radiograph_factory import dicom, film, lut

MAX_PIXELS = 1_000_000
"""What the service under test may decode: so a bomb can be small, too."""
PICTURE = (film(48, 40) * 255).astype(np.uint8)


def corpus(seed: int = 0) -> list[tuple[str, bytes]]:
    """Make all of them: what each is, and its bytes."""
    kinds = (damaged(seed), other_kinds(seed), sizes(), odd_pictures(), odd_headers(), odd_dicom())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, that one should not write such files
        return [each for kind in kinds for each in kind]


def stored(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Store a picture as ``kind``."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def whole() -> dict[str, bytes]:
    """One good file of each kind that is read."""
    return {
        "PNG": stored(PICTURE, "PNG"),
        "JPEG": stored(PICTURE, "JPEG"),
        "progressive JPEG": stored(PICTURE, "JPEG", progressive=True),
        "TIFF": stored(PICTURE, "TIFF"),
        "TIFF in LZW": stored(PICTURE, "TIFF", compression="tiff_lzw"),
        "BMP": stored(PICTURE, "BMP"),
        "DICOM": dicom(film()),
        "DICOM in JPEG": dicom(film(), bits=8, syntax=JPEGBaseline8Bit),
        "DICOM in JPEG 2000": dicom(film(), syntax=JPEG2000Lossless),
        "DICOM in RLE": dicom(film(), syntax=RLELossless),
    }


def damaged(seed: int) -> Iterator[tuple[str, bytes]]:
    """Every kind, cut short at eight places, and with bytes altered in five ways."""
    random = np.random.default_rng(seed)
    for kind, content in whole().items():
        for part in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.995):
            yield f"{kind}, its first {part:.1%}", content[: max(4, int(len(content) * part))]
        for spoiled in (1, 3, 10, 40, 200):
            altered = np.frombuffer(content, np.uint8).copy()
            where = random.integers(0, len(altered), spoiled)
            altered[where] = random.integers(0, 256, spoiled)
            yield f"{kind}, {spoiled} bytes altered", altered.tobytes()


def other_kinds(seed: int) -> Iterator[tuple[str, bytes]]:
    """What is no picture, or none that is read; and the beginnings of those that are, with noise behind."""
    noise = np.random.default_rng(seed).bytes(3000)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.png", b"\0" * 1_000_000)
    yield "nothing", b""
    yield "one byte", b"\x89"
    yield "noise", noise
    yield "zeros", b"\0" * 3000
    yield "text", b"Dear doctor, " * 100
    yield "a page", b"<!doctype html><script>alert(1)</script>"
    yield "an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "a PDF", b"%PDF-1.7\n" + noise
    yield "a program", b"\x7fELF" + noise
    yield "a zip", archive.getvalue()
    yield "a gzipped picture", gzip.compress(whole()["PNG"])
    yield "a GIF", stored(PICTURE, "GIF")
    yield "a WebP", stored(PICTURE, "WEBP")
    yield "an ICO", stored(PICTURE, "ICO")
    yield "a PPM", stored(PICTURE, "PPM")
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n" + noise
    heads = {
        "PNG": b"\x89PNG\r\n\x1a\n", "BMP": b"BM",
        "JPEG": b"\xff\xd8\xff", "JPEG with JFIF": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        "TIFF": b"II*\0\x08\0\0\0", "big-endian TIFF": b"MM\0*\0\0\0\x08", "BigTIFF": b"II+\0\x08\0\0\0",
        "DICOM": b"\0" * 128 + b"DICM", "DICOM without preamble": b"\x08\0\x05\0CS\x0a\0ISO_IR 100",
    }  # fmt: skip
    for kind, head in heads.items():
        yield f"the head of {kind} alone", head
        yield f"the head of {kind} and noise", head + noise
        yield f"the head of {kind} and zeros", head + b"\0" * 3000


def sizes() -> Iterator[tuple[str, bytes]]:
    """Pictures too small or too large, and those that say they are larger, or of no size at all."""
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        for height, width in ((1, 1), (1, 500), (500, 1), (15, 15)):
            yield f"{kind} of {width} x {height}", stored(np.zeros((height, width), np.uint8), kind)
        yield f"{kind} of a million pixels and some", stored(np.zeros((1000, 1001), np.uint8), kind)
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (0, 0), (0, 100)):
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        yield f"PNG that says {width} x {height}", content + chunk(b"IEND", b"")
    for bits, colour in ((16, 6), (1, 0), (8, 3)):
        header = struct.pack(">IIBBBBB", 20_000, 20_000, bits, colour, 0, 0, 0)
        yield f"PNG bomb of {bits} bits", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    jpeg = bytearray(whole()["JPEG"])
    at = jpeg.index(b"\xff\xc0")
    for width, height in ((65_500, 65_500), (0, 40), (40, 0), (900, 900)):
        jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
        yield f"JPEG that says {width} x {height}", bytes(jpeg)
    bitmap = bytearray(whole()["BMP"])
    for width, height in ((2**31 - 1, 2**31 - 1), (-40, 48), (40, -(2**31)), (0, 0), (900, 900)):
        bitmap[18:26] = struct.pack("<ii", width, height)
        yield f"BMP that says {width} x {height}", bytes(bitmap)
    for width, height in ((2**31, 2**31), (0, 0), (900, 900)):
        yield f"TIFF that says {width} x {height}", tiff({256: width, 257: height, 258: 8, 262: 1, 273: 8, 279: 100})
    for rows, columns in ((65_535, 65_535), (0, 40), (48, 0), (900, 900)):
        yield f"DICOM that says {columns} x {rows}", dicom(film(), edit=setting(Rows=rows, Columns=columns))
        if rows > 1000:
            for syntax in (JPEGBaseline8Bit, JPEG2000Lossless, RLELossless):
                yield f"the same in {syntax.name}", relabelled(dicom(film(), bits=8, syntax=syntax), rows, columns)


def odd_pictures() -> Iterator[tuple[str, bytes]]:
    """Pictures that are whole, of kinds that radiographs seldom are; some may well be looked at."""
    colour = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    deep = (film() * 65_535).astype(np.uint16)
    yield "PNG of 16 bits", stored(deep, "PNG")
    yield "TIFF of 16 bits", stored(deep, "TIFF")
    yield "TIFF of 32 bits", stored((film() * 1e9).astype(np.int32), "TIFF")
    yield "TIFF of floats", stored(film().astype(np.float32), "TIFF")
    yield "TIFF of NaN", stored(np.full((40, 40), np.nan, np.float32), "TIFF")
    yield "TIFF of infinity", stored(np.full((40, 40), np.inf, np.float32), "TIFF")
    yield "JPEG in CMYK", stored(Image.fromarray(colour).convert("CMYK"), "JPEG")
    yield "TIFF in CMYK", stored(Image.fromarray(colour).convert("CMYK"), "TIFF")
    yield "TIFF in Lab", stored(Image.fromarray(colour).convert("LAB"), "TIFF")
    yield "TIFF in YCbCr", stored(Image.fromarray(colour).convert("YCbCr"), "TIFF")
    yield "PNG with a palette", stored(Image.fromarray(colour).convert("P"), "PNG")
    yield (
        "PNG with a palette of one",
        stored(Image.fromarray(PICTURE * 0).convert("P", colors=1), "PNG", transparency=0),
    )
    yield "BMP with a palette", stored(Image.fromarray(colour).convert("P"), "BMP")
    yield "PNG of one bit", stored(Image.fromarray(PICTURE).convert("1"), "PNG")
    yield "TIFF by fax", stored(Image.fromarray(PICTURE).convert("1"), "TIFF", compression="group4")
    yield "PNG all transparent", stored(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG")
    yield "grey and alpha", stored(Image.fromarray(PICTURE).convert("LA"), "PNG")
    yield "black", stored(PICTURE * 0, "PNG")
    yield "white", stored(PICTURE * 0 + 255, "JPEG")
    yield "a checkerboard", stored((np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8), "PNG")
    pages = [Image.fromarray(PICTURE + k) for k in range(3)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        yield f"{kind} of three pages", stored(pages[0], kind, save_all=True, append_images=pages[1:])
    yield "MPO", stored(pages[0], "MPO", save_all=True, append_images=pages[1:])


def odd_headers() -> Iterator[tuple[str, bytes]]:
    """Good pixels behind headers that are huge, turn in circles, or say what cannot be."""
    png, jpeg = whole()["PNG"], whole()["JPEG"]
    end = 8 + 25  # the signature, and the chunk IHDR
    yield "PNG without IDAT", png[:end] + chunk(b"IEND", b"")
    yield "PNG without IHDR", png[:8] + png[end:]
    yield "PNG with two IHDR", png[:end] + png[8:]
    yield "PNG with a wrong checksum", png[: end - 1] + bytes([png[end - 1] ^ 1]) + png[end:]
    yield "PNG with a chunk of 2 GB", png[:end] + struct.pack(">I", 2**31 - 1) + b"tEXt" + png[end:]
    yield "PNG with a megabyte of text", png[:end] + chunk(b"tEXt", b"a\0" + b"b" * 10**6) + png[end:]
    bomb = zlib.compress(b"\0" * 30_000_000, 9)
    yield "PNG with a bomb of text", png[:end] + chunk(b"zTXt", b"a\0\0" + bomb) + png[end:]
    yield "PNG with a bomb of a profile", png[:end] + chunk(b"iCCP", b"a\0\0" + bomb) + png[end:]
    yield "PNG with EXIF of noise", png[:end] + chunk(b"eXIf", b"MM\0*" + bytes(range(256))) + png[end:]
    yield "PNG with 10000 chunks", png[:end] + chunk(b"tEXt", b"a\0b") * 10_000 + png[end:]
    yield "JPEG with 100 segments of 64 KB", jpeg[:2] + (b"\xff\xef\xff\xff" + b"x" * 65_533) * 100 + jpeg[2:]
    yield "JPEG with a segment of no length", jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:]
    yield "JPEG with 5000 scans", jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 5000 + jpeg[-2:]
    for orientation in (0, 9, 65_535):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        yield f"JPEG of orientation {orientation}", stored(PICTURE, "JPEG", exif=exif)
    yield "JPEG whose EXIF points outside", stored(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    yield "TIFF in a circle", tiff({256: 40, 257: 48, 258: 8, 262: 1, 273: 8, 279: 100}, next_at=8)
    yield "TIFF without its size", tiff({258: 8, 262: 1, 273: 8, 279: 100})
    yield "TIFF whose strip lies outside", tiff({256: 40, 257: 48, 258: 8, 262: 1, 273: 2**31, 279: 2**31})
    yield "TIFF with strips without end", tiff({256: 40, 257: 48, 258: 8, 262: 1, 273: 8, 278: 0, 279: 0})
    yield "TIFF of 4 billion tags' values", tiff({256: 40, 257: 48, 258: 8}, count=2**32 - 1)
    for compression in (2, 5, 6, 7, 8, 32_773, 34_712, 50_000, 65_535):
        tags = {256: 40, 257: 48, 258: 8, 259: compression, 262: 1, 273: 8, 279: 100}
        yield f"TIFF of compression {compression}", tiff(tags)


def odd_dicom() -> Iterator[tuple[str, bytes]]:
    """DICOM files that say what cannot be, say it twice, or leave it out."""
    for field, value in {
        "BitsAllocated": 7, "BitsStored": 0, "HighBit": 40, "SamplesPerPixel": 5, "PixelRepresentation": 9,
        "PhotometricInterpretation": "NONSENSE", "NumberOfFrames": 2**31 - 1, "PlanarConfiguration": 7,
        "RescaleSlope": 0, "PixelPaddingValue": 40_000, "WindowWidth": -5, "PixelSpacing": [0, 0], "Modality": "CT",
        "SpecificCharacterSet": "NO SUCH SET", "PresentationLUTShape": "INVERSE", "VOILUTFunction": "CUBIC",
    }.items():  # fmt: skip
        yield f"DICOM with {field} {value}", dicom(film(), edit=setting(WindowCenter=100, **{field: value}))
    for field in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel",
                  "PhotometricInterpretation", "PixelData", "SOPClassUID", "Modality"):  # fmt: skip
        yield f"DICOM without {field}", without(field)
    yield "DICOM of three frames", dicom(np.tile(film(), (3, 1)), edit=setting(Rows=48, NumberOfFrames=3))
    for length in (0, 1, 900):
        yield f"DICOM with {length} bytes of pixels", dicom(film(), edit=setting(PixelData=b"\1" * length))
    tables = (([0, 0, 16], b""), ([300, 0, 8], b"\1\2"), ([2, -5, 16], b"\0\0\0\0"), ([4, 0, 99], b"a" * 8))
    for entries, table in tables:
        yield f"DICOM with a table {entries}", dicom(film(), edit=tabled(entries, table))
    yield "DICOM with a table of nothing", dicom(film(), edit=setting(VOILUTSequence=[Dataset()]))
    yield "DICOM with a good table", dicom(film(), edit=setting(VOILUTSequence=[lut(0, np.arange(256))]))
    for syntax in (None, "1.2.3.4.5", MPEG2MPML, ExplicitVRBigEndian, "1.2.840.10008.1.2.1.99"):
        yield f"DICOM of transfer syntax {syntax}", resyntaxed(syntax)
    for syntax in (JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless):
        frames = {"noise": np.random.default_rng(2).bytes(500), "nothing": b"\0\0", "zeros": b"\0" * 500}
        for what, frame in frames.items():
            yield f"DICOM in {syntax.name} of {what}", encapsulating(frame, syntax)
    yield "DICOM with sequences 900 deep", nested(900)
    good = dicom(film())
    broken = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\x08\0\x50\x11UI\xff\xff"
    yield "DICOM with a sequence that never ends", good[:-2000] + broken
    at = good.index(b"\x28\0\x10\0US")
    yield "DICOM with a broken sequence before its size", good[:at] + broken + good[at:]
    yield "DICOM with a value of 4 GB", good[:at] + b"\x08\0\x18\0UN\0\0\xf0\xff\xff\xff" + good[at:]
    yield "DICOM with text for numbers", good.replace(b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0DS\x02\0")
    yield "DICOM of implicit VR, unsaid", good[:132] + good[at:]


def chunk(name: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(tags: dict[int, int], next_at: int = 0, count: int = 1) -> bytes:
    """Make a little-endian TIFF of one directory whose values are 32-bit numbers."""
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value % 2**32) for tag, value in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_at) + b"\x55" * 2000


def setting(**values: Any) -> Any:
    """Set elements of a DICOM file, whatever they may be."""

    def edit(dataset: Dataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return edit


def tabled(entries: list[int], table: bytes) -> Any:
    """Give a DICOM file a look-up table of values of interest."""

    def edit(dataset: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "SS" if min(entries) < 0 else "US", entries)
        item.add_new("LUTData", "OW", table)
        dataset.VOILUTSequence = [item]

    return edit


def reread(content: bytes) -> Dataset:
    """Read a DICOM file that is to be spoiled."""
    from pydicom import dcmread

    return dcmread(io.BytesIO(content))


def written(dataset: Dataset, **options: Any) -> bytes:
    """Write a DICOM file as it is, right or wrong."""
    file = io.BytesIO()
    dcmwrite(file, dataset, **options)
    return file.getvalue()


def without(field: str) -> bytes:
    """Leave an element out."""
    dataset = reread(dicom(film()))
    delattr(dataset, field)
    return written(dataset)


def relabelled(content: bytes, rows: int, columns: int) -> bytes:
    """Say of coded pixels that they are more."""
    dataset = reread(content)
    dataset.Rows, dataset.Columns = rows, columns
    return written(dataset)


def resyntaxed(syntax: str | None) -> bytes:
    """Say of plain pixels that they are coded in another way."""
    plain, content = ExplicitVRLittleEndian.encode(), dicom(film())
    length = len(plain) + len(plain) % 2
    at = content.index(plain)
    other = b"" if syntax is None else syntax.encode() + b"\0" * (len(syntax) % 2)
    return content[: at - 2] + struct.pack("<H", len(other)) + other + content[at + length :]


def encapsulating(frame: bytes, syntax: str) -> bytes:
    """Put a frame into a DICOM file of a compressed transfer syntax."""
    dataset = reread(dicom(film(), bits=8))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


def nested(depth: int) -> bytes:
    """Put sequences into sequences before the pixels."""
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
        inner = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    good = dicom(film())
    at = good.index(b"\x28\0\x02\0US")
    return good[:at] + inner + good[at:]
