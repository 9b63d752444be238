"""Outputs appear whole or not at all: write aside, then rename."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import SetupError

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EISDIR: "that is a folder: choose another file name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; renamed to ``path`` at success, removed at failure.

    The suffix is the same, so that writers recognise the format. Folders on the way are made. The file is synced to
    disk before the rename, so that a crash leaves the old file or the new one.

    Raises:
        SetupError: the disk is full, the folder may not be written to, or another failure of the system.
    """
    path = Path(path)
    aside = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _sync(aside)
        aside.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def leftovers(path: Path) -> Iterator[Path]:
    """Give what killed runs left aside of ``path``."""
    return path.parent.glob("." + "[0-9a-f]" * 8 + "-" + glob.escape(path.name))


def write_error(path: Path, error: OSError) -> SetupError:
    """Say in one line what kept ``path`` from being written, and what to do."""
    what = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    remedy = REMEDIES.get(error.errno or 0, "check the disk and the folder")
    return SetupError(f"{path}: cannot be written: {what}; {remedy}")


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
