"""Opening a scan: to disk, read once, encoded for the browser, and the memory given back."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from coronary.viewer.settings import ViewerSettings
from coronary.viewer.store import Case, Visitor
from shared.errors import InputError, SetupError
from shared.io.volume import read_volume, stem
from shared.niivue.encode import EncodedVolume, write_volume
from shared.types import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".zip")
BLOCK = 2**22
# A volume is large: one after another is read, however many visitors there are.
_reading = threading.Lock()


def open_upload(visitor: Visitor, file: IO[bytes], name: str, limits: ViewerSettings) -> Case:
    """Take an uploaded scan: written to the visitor's folder, private, under a name that says nothing.

    Raises:
        InputError: it cannot be used; named as the visitor named it.
    """
    suffix = suffix_of(name)
    if suffix is None:
        raise InputError(name, "is of a kind that is not read", f"give {', '.join(SUFFIXES)} (a DICOM series as .zip)")
    arriving = visitor.folder / f"arriving-{time.monotonic_ns():x}"
    try:
        digest = save_private(blocks(file), arriving)
        folder, case = _known(visitor, digest)
        if case is not None:
            return case
        scan = folder / f"scan{suffix}"
        arriving.replace(scan)
    finally:
        arriving.unlink(missing_ok=True)
    return _open(visitor, folder, scan, name, digest, limits)


def open_path(visitor: Visitor, typed: str, limits: ViewerSettings, *, name: str | None = None) -> Case:
    """Open a scan by its path on the server, a DICOM folder too; it is not copied.

    Raises:
        InputError: it cannot be used.
    """
    path = Path(typed.strip()).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(path, "does not exist or may not be read", "check the path") from error
    digest = hashlib.sha256(f"{path.resolve()}\n{state.st_mtime_ns}\n{state.st_size}".encode()).hexdigest()
    folder, case = _known(visitor, digest)
    if case is not None:
        return case
    return _open(visitor, folder, path.resolve(), name or path.name, "", limits)


def _known(visitor: Visitor, digest: str) -> tuple[Path, Case | None]:
    """Give the folder of the scan with that digest, and its case where it was opened before."""
    folder = visitor.folder / digest[:16]
    case = visitor.case(folder.name)
    if case is None:
        folder.mkdir(mode=0o700, exist_ok=True)
    else:
        folder.touch()  # opened last
    return folder, case


def _open(visitor: Visitor, folder: Path, scan: Path, name: str, sha256: str, limits: ViewerSettings) -> Case:
    import shutil

    visitor.make_room(limits.max_scans, keep=folder.name)
    try:
        with _reading:
            volume = read_volume(scan)
            encoded = write_volume(volume.array, volume.affine, folder)
            info = _info(volume, encoded) | {"scan": str(scan), "name": name, "sha256": sha256}
    except InputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(name, error.problem, error.remedy) from error
    except SetupError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return visitor.save(folder, info)


def _info(volume: Volume, encoded: EncodedVolume) -> dict[str, Any]:
    return {
        "volume": asdict(encoded),
        "spacing_mm": volume.spacing_mm,
        "format": volume.source.format,
        "notes": list(volume.source.notes),
        "low_hu": float(volume.array.min()),
        "high_hu": float(volume.array.max()),
    }


def encoded_of(case: Case) -> EncodedVolume:
    """The scan's encoding, as ``case.json`` has it."""
    found = case.info["volume"]
    dims, first, fine = (tuple(found[name]) for name in ("dims", "first", "fine"))
    return EncodedVolume(dims, found["affine"], first, fine)


def suffix_of(name: str) -> str | None:
    """The suffix by which a scan's format is known."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def name_of(case: Case) -> str:
    """The scan's name without its suffix, as the visitor knows it."""
    name: str = case.info["name"]
    suffix = suffix_of(name)
    return name[: -len(suffix)] if suffix else stem(name)


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    """A file's content, block by block."""
    while block := file.read(BLOCK):
        yield block


def save_private(content: Iterator[bytes], path: Path) -> str:
    """Write a file that only this user may read; gives its SHA-256."""
    import os

    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        for block in content:
            digest.update(block)
            out.write(block)
    return digest.hexdigest()
