"""Law 10: outputs appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import PATIENT, write_series
from orientations import affine_of, landmark_array
from trimesh import Trimesh

from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.volume import read_volume
from shared.io.writers import write_csv, write_dicom_seg, write_json, write_mask, write_stl
from shared.types import Grid, Segmentation, Source

resource = pytest.importorskip("resource", reason="file size limits are POSIX")

NOISE = np.random.default_rng(0)
LABELS = np.asfortranarray(NOISE.integers(0, 2, (64, 64, 64)).astype(np.uint8))  # some 30 kB even when packed
SEGMENTATION = Segmentation(LABELS, np.eye(4), {1: "noise"}, Source(Grid((64, 64, 64), np.eye(4))))
VERTICES, FACES = NOISE.normal(size=(999, 3)), np.arange(999).reshape(333, 3)

WRITERS: dict[str, Callable[[Path], None]] = {
    "mask.nii.gz": lambda path: write_mask(SEGMENTATION, path),
    "mask.nii": lambda path: write_mask(SEGMENTATION, path),
    "mask.nrrd": lambda path: write_mask(SEGMENTATION, path),
    "mask.mha": lambda path: write_mask(SEGMENTATION, path),
    "tree.stl": lambda path: write_stl(Trimesh(VERTICES, FACES), path),
    "report.json": lambda path: write_json({"values": list(range(9999))}, path),
    "table.csv": lambda path: write_csv(({"n": n} for n in range(9999)), path),
    "seg.dcm": lambda path: write_dicom_seg(dicom_segmentation(path.parent.parent / "series"), path),
}


def dicom_segmentation(folder: Path) -> Segmentation:
    if not folder.exists():
        write_series(folder, landmark_array((64, 64, 9)), affine_of(np.eye(3)))
    volume = read_volume(folder)
    return Segmentation(LABELS[:, :, :9], volume.affine, {1: "LCA"}, volume.source)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow past 4 kB: the operating system then refuses the write, whatever library it comes from.

    For the write alone: pytest's own report may go to a file as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_succeeds_leaves_one_file(out: Path, name: str) -> None:
    WRITERS[name](out / name)
    assert [entry.name for entry in out.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_the_system_cuts_short_leaves_nothing(out: Path, name: str) -> None:
    dicom_segmentation(out.parent / "series")
    with small_files(), pytest.raises(SetupError, match="cannot be written") as caught:
        WRITERS[name](out / name)
    assert list(out.iterdir()) == []
    assert_one_line(caught.value, out / name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_the_file_that_was_there(out: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / name).write_text("the last run's")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="No space left on device; free some space") as caught:
        WRITERS[name](out / name)
    assert (out / name).read_text() == "the last run's"
    assert [entry.name for entry in out.iterdir()] == [name]
    assert_one_line(caught.value, out / name)


def assert_one_line(error: Exception, path: Path) -> None:
    assert str(error).startswith(f"{path}: ")
    assert "\n" not in str(error)
    assert PATIENT not in str(error)


def test_any_failure_while_writing_leaves_nothing_and_is_not_renamed(out: Path) -> None:
    def write() -> None:
        with whole(out / "a.txt") as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(out.iterdir()) == []


def test_the_file_aside_has_the_same_suffix_and_folder(out: Path) -> None:
    with whole(out / "deep" / "scan.nii.gz") as aside:
        assert aside.parent == out / "deep"
        assert aside.name.endswith("-scan.nii.gz")
        assert aside.name.startswith(".")
        aside.write_text("x")
        assert not (out / "deep" / "scan.nii.gz").exists()
    assert (out / "deep" / "scan.nii.gz").read_text() == "x"


def test_a_folder_that_cannot_be_made_is_named(out: Path) -> None:
    (out / "file").write_text("")
    with pytest.raises(SetupError, match=r"file.a\.json: cannot be written: .*; "):
        write_json({}, out / "file" / "a.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(out: Path) -> None:
    out.chmod(0o500)
    try:
        with pytest.raises(SetupError, match="Permission denied; choose a folder you may write to"):
            write_json({}, out / "a.json")
    finally:
        out.chmod(0o700)


def test_no_permission_says_what_to_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SetupError, match="Permission denied; choose a folder you may write to"):
        write_json({}, out / "a.json")
    assert list(out.iterdir()) == []


def test_killed_while_writing_leaves_the_old_file(out: Path) -> None:
    path = out / "table.json"
    path.write_text("old")
    script = textwrap.dedent(
        """
        import os, signal, sys
        from shared.io.atomic import whole
        with whole(sys.argv[1]) as aside:
            aside.write_text("half of the n")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False, cwd=root)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
