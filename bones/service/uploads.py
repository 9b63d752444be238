"""From a form's file to a picture's name and bytes; the content says what it is, whatever its name says."""

from __future__ import annotations

from pathlib import PurePosixPath

from fastapi import UploadFile

from bones.service.problems import Problem
from bones.service.settings import Settings
from shared.io.dicom_file import PREAMBLE_BYTES, looks_dicom
from shared.io.radiograph import TAKEN, TIFF_HEADS

MAX_NAME = 200
HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", *TIFF_HEADS)
"""How PNG, JPEG, BMP and TIFF files begin."""


async def read_picture(file: UploadFile, settings: Settings) -> tuple[str, bytes]:
    """Give a picture's name and bytes.

    Raises:
        Problem: it is too large, empty, or no kind of file that is read.
    """
    picture = await file.read()
    await file.close()  # or it would be in memory twice
    if len(picture) > settings.max_upload_bytes:
        raise Problem("too-large", f"a picture may have {settings.max_upload_mb} MiB; see SKIAGRAM_MAX_UPLOAD_MB")
    if not picture:
        raise Problem("unusable-picture", "the picture: is empty; export or copy it again")
    if not (picture.startswith(HEADS) or looks_dicom(picture[:PREAMBLE_BYTES])):
        raise Problem("unsupported-type", f"the picture: is of no kind that is read; {TAKEN}")
    return clean_name(file.filename), picture


def clean_name(given: str | None) -> str:
    """Give a file's name as the answer repeats it: without folders, control characters and excess."""
    last = PurePosixPath((given or "").replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[-MAX_NAME:] or "picture"
