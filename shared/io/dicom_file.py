"""What tells a DICOM file from others: its first bytes."""

from __future__ import annotations

from pathlib import Path

PREAMBLE_BYTES = 132


def is_dicom(path: Path) -> bool:
    """Say whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return looks_dicom(file.read(PREAMBLE_BYTES))
    except OSError:
        return False


def looks_dicom(head: bytes) -> bool:
    """Say whether these are the first bytes of a DICOM file, with its preamble or (older files) without."""
    return head[128:132] == b"DICM" or (head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00")
