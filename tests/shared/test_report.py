from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import report as module
from shared.cohort import Item, Outcome, Record
from shared.config import Config
from shared.errors import InputError, SetupError
from shared.report import Report, Stopwatch, git_commit, peak_memory_bytes, recorded, sha256_of


class Tick:
    """A clock that moves only when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Tick:
    tick = Tick()
    monkeypatch.setattr(time, "perf_counter", tick)
    return tick


def written(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_stages_nest_and_add_up(clock: Tick) -> None:
    watch = Stopwatch()
    for _ in range(3):
        with watch.stage("predict"):
            clock.now += 1
            with watch.stage("network"):
                clock.now += 2
    with suppress(ValueError), watch.stage("write"):
        clock.now += 5
        raise ValueError
    with watch.stage("after"):
        clock.now += 1
    assert watch.seconds == {"predict/network": 6, "predict": 9, "write": 5, "after": 1}


def test_report_says_it_all(tmp_path: Path, clock: Tick) -> None:
    class Settings(Config):
        overlap: float = 0.25

    scan, mask = tmp_path / "a.nii.gz", tmp_path / "out" / "a.nii.gz"
    scan.write_bytes(b"scan")
    mask.parent.mkdir()
    mask.write_bytes(b"mask")
    model = tmp_path / "deep" / "coronary.onnx"
    model.parent.mkdir()
    model.write_bytes(b"net")

    report = Report("coronary", "predict", {"inputs": [scan], "device": "auto"}, config=Settings())
    report.device, report.engine = "cpu", "OpenVINO 2026.4"
    report.use_model(model)
    item = Item(scan, (mask,), (tmp_path / "out" / "a.stl",))
    outcome = Outcome(
        findings=("no artery",), stages_s={"network": 2.0}, result={"dice": np.float32(0.5), "hd95_mm": np.inf}
    )
    report.add_record(Record(item, "done", 3.0, outcome))
    report.add_record(Record(item, "done", 3.0, Outcome(stages_s={"network": 1.0})))
    report.add_record(Record(Item(tmp_path / "gone", ()), "failed", 0.1, reason="gone: no such file; check the name"))
    with report.stage("summary"):
        clock.now += 4
    report.write(tmp_path / "out" / "report.json")

    told = written(tmp_path / "out" / "report.json")
    assert (told["schema_version"], told["product"], told["task"], told["verb"]) == (
        1,
        "skiagram",
        "coronary",
        "predict",
    )
    assert told["exit_status"] == 1
    assert told["arguments"] == {"inputs": [str(scan)], "device": "auto"}
    assert told["config"] == {"overlap": 0.25}
    assert told["model"] == {"name": "coronary.onnx", "sha256": hashlib.sha256(b"net").hexdigest()}
    assert str(model.parent) not in json.dumps(told)
    assert told["stages_s"] == {"network": 3.0, "summary": 4.0}
    assert told["seconds"] == 4.0
    assert told["failures"] == ["gone: no such file; check the name"]
    first, _, failed = told["inputs"]
    assert first["sha256"] == hashlib.sha256(b"scan").hexdigest()
    assert first["outputs"] == [str(mask)]
    assert first["findings"] == ["no artery"]
    assert first["result"] == {"dice": 0.5, "hd95_mm": None}
    assert failed["status"] == "failed"
    assert "sha256" not in failed
    assert told["libraries"]["numpy"] == np.__version__
    assert told["peak_memory_bytes"] > 10 * 2**20


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InputError("a.nii", "is empty", "export it again"), 1, "a.nii: is empty; export it again"),
        (SetupError("no CUDA here; use --device cpu"), 2, "no CUDA here; use --device cpu"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("a\nb"), 1, "unexpected ZeroDivisionError: a b"),
    ],
)
def test_failed_run_is_reported_too(tmp_path: Path, error: BaseException, status: int, reason: str) -> None:
    path = tmp_path / "report.json"
    report = Report("coronary", "predict", findings=["so far"])
    with pytest.raises(type(error)), recorded(report, path):
        raise error
    told = written(path)
    assert (told["exit_status"], told["failures"], told["findings"]) == (status, [reason], ["so far"])


def test_unwritable_report_does_not_hide_the_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "report.json"
    with pytest.raises(ZeroDivisionError), recorded(Report("coronary", "predict"), path):
        raise ZeroDivisionError
    with pytest.raises(SetupError), recorded(Report("coronary", "predict"), path):
        pass


def test_good_run_ends_in_zero(tmp_path: Path) -> None:
    with recorded(Report("coronary", "predict"), tmp_path / "report.json"):
        pass
    assert written(tmp_path / "report.json")["exit_status"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_home_stays_out_of_tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    report = Report("coronary", "predict")
    trace = f'File "{Path.home()}/skiagram/coronary/predict.py", line 3'
    report.add_record(Record(Item(Path("a.nii"), ()), "failed", reason="a.nii: unexpected", traceback=trace))
    assert "somebody" not in json.dumps(report.as_dict())
    assert "~/skiagram/coronary/predict.py" in report.as_dict()["inputs"][0]["traceback"]


def test_folder_hash_ignores_names_but_not_contents(tmp_path: Path) -> None:
    for folder, names in (("a", ("1", "2")), ("b", ("x", "y")), ("c", ("1", "2"))):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"one", b"two" if folder != "c" else b"three"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b") != sha256_of(tmp_path / "c")


def commit_by(layout: str, root: Path, commit: str) -> None:
    git = root / ".git"
    if layout == "worktree":
        main = root.parent / "main.git"
        git.write_text("gitdir: ../main.git/worktrees/w\n")
        own = main / "worktrees" / "w"
        own.mkdir(parents=True)
        (own / "HEAD").write_text("ref: refs/heads/topic\n")
        (own / "commondir").write_text("../..\n")
        (main / "refs" / "heads").mkdir(parents=True)
        (main / "refs" / "heads" / "topic").write_text(commit + "\n")
        return
    git.mkdir()
    (git / "HEAD").write_text(commit + "\n" if layout == "detached" else "ref: refs/heads/topic\n")
    if layout == "loose":
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "refs" / "heads" / "topic").write_text(commit + "\n")
    if layout == "packed":
        (git / "packed-refs").write_text(
            f"# pack-refs\n{'0' * 40} refs/heads/other/refs/heads/topic\n{commit} refs/heads/topic\n"
        )


@pytest.mark.parametrize("layout", ["loose", "packed", "detached", "worktree"])
def test_commit_is_read_without_git(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    assert git_commit(root) is None
    commit_by(layout, root, "c0ffee" + "0" * 34)
    assert git_commit(root) == "c0ffee" + "0" * 34


def test_commit_not_born_yet(tmp_path: Path) -> None:
    commit_by("empty", tmp_path, "")
    assert git_commit(tmp_path) is None


def test_peak_memory_is_this_process_own() -> None:
    code = "from shared.report import peak_memory_bytes as p; a = p(); x = b'x' * 80_000_000; print(a, p())"
    ballast = np.ones(25_000_000)  # 200 MB that a child's ru_maxrss may take over
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (int(word) for word in run.stdout.split())
    assert after - before >= 75_000_000
    if sys.platform == "linux":
        assert after < ballast.nbytes
        assert (peak_memory_bytes() or 0) >= ballast.nbytes


def test_peak_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name != "posix":
        pytest.skip("no resource module")
    truth = peak_memory_bytes()
    monkeypatch.setattr(module, "Path", lambda name: Path("no-such-proc"))
    other = peak_memory_bytes()
    assert truth
    assert other
    assert other >= truth / 2
