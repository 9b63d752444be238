"""The files under a folder or in a zip, read alike; a zip is read in place, nothing of it is unpacked to disk."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from shared.errors import InputError

MAX_ZIP_FILES = 20_000
MAX_ZIP_BYTES = 16 << 30
MAX_MEMBER_BYTES = 512 << 20


class Files:
    """The files of a folder (with those below it) or of a zip, by their path relative to it."""

    def __init__(self, root: Path) -> None:
        """Open ``root``.

        Raises:
            InputError: a damaged or encrypted zip, or one that would unpack to more than a scan.
        """
        self.root = root
        self._zip: zipfile.ZipFile | None = None
        if root.is_dir():
            return
        try:
            self._zip = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise InputError(root, "is no zip archive, or a truncated one", "zip the series again") from error
        try:
            self._refuse_bombs(self._zip.infolist())
        except InputError:
            self._zip.close()
            raise

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip:
            self._zip.close()

    def names(self) -> list[str]:
        """List every file, sorted; hidden files and macOS's doubles are left out."""
        if self._zip:
            found = [entry.filename for entry in self._zip.infolist() if not entry.filename.endswith("/")]
        else:
            walk = os.walk(self.root, onerror=_reraise)
            found = [
                (Path(folder) / name).relative_to(self.root).as_posix() for folder, _, names in walk for name in names
            ]
        return sorted(name for name in found if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))

    def path(self, name: str) -> Path:
        """Name a file for people: inside a zip, as if the zip were a folder."""
        return self.root / PurePosixPath(name)

    def head(self, name: str, count: int) -> bytes:
        """Read the first ``count`` bytes of a file."""
        with self._zip.open(name) if self._zip else self.path(name).open("rb") as file:
            return file.read(count)

    def open(self, name: str) -> BinaryIO:
        """Open a file; one in a zip is inflated to memory."""
        return io.BytesIO(self._zip.read(name)) if self._zip else self.path(name).open("rb")

    def _refuse_bombs(self, entries: list[zipfile.ZipInfo]) -> None:
        """Bound what may be inflated; zipfile stops at the size a member declares, so the declared sizes will do."""
        total = sum(entry.file_size for entry in entries)
        if len(entries) > MAX_ZIP_FILES or total > MAX_ZIP_BYTES:
            problem = f"holds {len(entries)} files of {total / 2**30:.1f} GiB together, more than a scan does"
            raise InputError(self.root, problem, "unpack it and give the folder of the series")
        for entry in entries:
            if entry.file_size > MAX_MEMBER_BYTES:
                problem = f"holds {entry.filename} of {entry.file_size / 2**20:.0f} MiB, more than a slice has"
                raise InputError(self.root, problem, "unpack it and give the scan it holds")
            if entry.flag_bits & 1:
                raise InputError(self.root, "is encrypted", "unpack it and give the folder of the series")


def _reraise(error: OSError) -> NoReturn:
    raise error
