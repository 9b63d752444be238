"""Law 9: in a folder with broken files the others are done and the broken named; a second run does the missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.cohort import Item, Outcome, collect_inputs, run_cohort
from shared.errors import InputError
from shared.io.atomic import whole
from shared.report import Report, recorded

BROKEN = b"broken"
WRITES_HALF = b"the process is killed half way through this one"


def is_case(path: Path) -> bool:
    return path.suffix == ".nii"


def plan(scans: Path, out: Path) -> list[Item]:
    found = collect_inputs([scans], is_case, out=out)
    return [Item(case.path, (out / f"{case.name}.upper.nii", out / f"{case.name}.json")) for case in found]


def work(item: Item) -> Outcome:
    content = item.path.read_bytes()
    if content == BROKEN:
        raise InputError(item.path, "is broken", "export it again")
    for path in item.outputs:
        with whole(path) as aside:
            aside.write_bytes(content.upper())
    return Outcome()


def dies_half_way(item: Item) -> Outcome:
    if item.path.read_bytes() != WRITES_HALF:
        return work(item)
    first, second = item.outputs
    with whole(first) as aside:
        aside.write_bytes(WRITES_HALF.upper())
    with whole(second) as aside:
        aside.write_bytes(WRITES_HALF.upper()[:10])
        print("half", flush=True)
        signal.pause()
    return Outcome()


def make_scans(folder: Path) -> Path:
    contents = {"a": b"one", "b": BROKEN, "c": b"three", "sub/d": WRITES_HALF, "sub/e": BROKEN, "z": b"last"}
    for name, content in contents.items():
        path = folder / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_others_are_done_and_broken_are_named(tmp_path: Path) -> None:
    scans, out = make_scans(tmp_path / "scans"), tmp_path / "out"
    with recorded(Report("coronary", "predict"), tmp_path / "report.json") as report:
        result = run_cohort(plan(scans, out), work, on_end=report.add_record)

    assert result.exit_status == 1
    assert {record.item.path.name for record in result.having("done")} == {"a.nii", "c.nii", "d.nii", "z.nii"}
    assert report.failures == [f"{scans / name}: is broken; export it again" for name in ("b.nii", "sub/e.nii")]
    assert all(str(scans / name) in (tmp_path / "report.json").read_text() for name in ("b.nii", "sub/e.nii"))
    assert set(contents(out)) == {
        f"{name}.{suffix}" for name in ("a", "c", "sub/d", "z") for suffix in ("upper.nii", "json")
    }


def test_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    scans, out = make_scans(tmp_path / "scans"), tmp_path / "out"
    run_cohort(plan(scans, out), work)
    (scans / "b.nii").write_bytes(b"mended")
    (out / "c.json").unlink()
    untouched = {path: path.stat().st_mtime_ns for path in out.glob("[az].*")}

    started: list[str] = []
    result = run_cohort(plan(scans, out), work, on_start=lambda item: started.append(item.path.name))

    assert started == ["b.nii", "c.nii", "e.nii"]
    assert [record.item.path.name for record in result.having("failed")] == ["e.nii"]
    assert untouched == {path: path.stat().st_mtime_ns for path in out.glob("[az].*")}
    assert (out / "b.json").read_bytes() == b"MENDED"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_run_again_equals_never_killed(tmp_path: Path) -> None:
    scans, never, killed = make_scans(tmp_path / "scans"), tmp_path / "never", tmp_path / "killed"
    run_cohort(plan(scans, never), work)

    child = subprocess.Popen([sys.executable, __file__, scans, killed], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    child.kill()
    child.communicate()
    left = contents(killed)
    assert set(left) > {"a.json", "a.upper.nii", "sub/d.upper.nii"}
    assert not {"sub/d.json", "z.json"} & set(left)
    assert any(Path(name).name.startswith(".") for name in left)

    again = run_cohort(plan(scans, killed), work)
    assert {record.item.path.name for record in again.having("skipped")} == {"a.nii", "c.nii"}
    assert contents(killed) == contents(never)


if __name__ == "__main__":
    run_cohort(plan(Path(sys.argv[1]), Path(sys.argv[2])), dies_half_way)
