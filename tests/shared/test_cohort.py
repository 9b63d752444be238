from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from shared.cohort import (
    Input,
    Item,
    Outcome,
    Record,
    attempt,
    check_outputs,
    collect_inputs,
    plan_results,
    run_cohort,
)
from shared.errors import InputError, SetupError


def is_scan(path: Path) -> bool:
    """Accept NIfTI files, and folders that hold a .dcm file."""
    if path.is_dir():
        return any(child.suffix == ".dcm" for child in path.iterdir())
    return path.name.endswith((".nii", ".nii.gz"))


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def names(inputs: list[Input]) -> list[str]:
    return [entry.name for entry in inputs]


def copy(item: Item) -> Outcome:
    for path in item.outputs:
        path.write_bytes(item.path.read_bytes())
    return Outcome(findings=(item.path.name,))


def items_in(root: Path, *inputs: str) -> list[Item]:
    make(root, *inputs)
    (root / "out").mkdir()
    return [Item(root / name, (root / "out" / f"{name}.mask", root / "out" / f"{name}.json")) for name in inputs]


class TestCollect:
    def test_names_keep_folders_and_lose_suffixes(self, tmp_path: Path) -> None:
        make(
            tmp_path, "b.nii.gz", "a.1.5mm.nii", "deep/er/c.NII.GZ", "series.1.2.840/1.dcm", "notes.txt", ".hidden.nii"
        )
        make(tmp_path, "deep/._a.nii", "series.1.2.840/sub/2.nii")
        make(tmp_path, "deep/er/d.nii")
        found = collect_inputs([tmp_path], lambda path: is_scan(path) or path.name == "c.NII.GZ")
        assert names(found) == ["a.1.5mm", "b", "deep/er/c", "deep/er/d", "series.1.2.840"]
        assert found[-1].path == tmp_path / "series.1.2.840"

    def test_named_things(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path, "a.nii", "odd.txt", "case7/1.dcm")
        found = collect_inputs([tmp_path / name for name in ("odd.txt", "a.nii", "case7", "gone.nii")], is_scan)
        assert names(found) == ["odd.txt", "a", "case7", "gone"]
        monkeypatch.chdir(tmp_path / "case7")
        assert collect_inputs([Path()], is_scan) == [Input(Path(), "case7")]

    def test_the_same_file_twice_is_one_input(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii", "sub/b.nii")
        (tmp_path / "link.nii").symlink_to(tmp_path / "a.nii")
        found = collect_inputs([tmp_path, tmp_path / "a.nii", tmp_path / "sub"], is_scan)
        assert names(found) == ["a", "sub/b"]

    def test_same_name_twice_is_refused_and_the_others_are_not(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii", "a.nii.gz", "one/x.nii", "two/x.nii", "one/y.nii")
        found = collect_inputs([tmp_path / name for name in ("a.nii", "a.nii.gz", "one", "two")], is_scan)
        assert [(entry.path.relative_to(tmp_path).as_posix(), bool(entry.refused)) for entry in found] == [
            ("a.nii", True), ("a.nii.gz", True), ("one/x.nii", True), ("one/y.nii", False), ("two/x.nii", True),
        ]  # fmt: skip
        problem, remedy = found[0].refused or ("", "")
        assert problem == f"would be written as a, and {tmp_path}/a.nii.gz too"
        assert remedy == "rename one or run them apart"

    def test_results_that_meet_in_part_are_refused_and_the_others_are_not(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii", "a.mask.nii", "b.nii")
        items = plan_results([tmp_path], is_scan, tmp_path / "out", (".png", ".mask.png"), ())
        assert {item.path.name: item.refused and item.refused[0] for item in items} == {
            "a.nii": "its result a.mask.png would be another input's too",
            "a.mask.nii": "its result a.mask.png would be another input's too",
            "b.nii": None,
        }
        check_outputs(items)

    def test_outputs_are_no_inputs(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii", "out/a.nii")
        assert names(collect_inputs([tmp_path], is_scan, out=tmp_path / "out")) == ["a"]
        with pytest.raises(SetupError, match="both input and output"):
            collect_inputs([tmp_path], is_scan, out=tmp_path / "sub" / "..")
        assert names(collect_inputs([tmp_path / "a.nii"], is_scan, out=tmp_path)) == ["a"]

    def test_nothing_found(self, tmp_path: Path) -> None:
        make(tmp_path, "sub/notes.txt")
        (tmp_path / "b.nii").touch()
        empty, full = collect_inputs([tmp_path / "sub", tmp_path / "b.nii"], is_scan)
        assert empty.refused == ("no input in this folder", "name the folder that holds the scans or pictures")
        assert full.refused is None
        with pytest.raises(SetupError, match="sub: no input in this folder; name the folder"):
            plan_results([tmp_path / "sub"], is_scan, tmp_path / "out", (".json",), ())

    def test_links_in_circles_end(self, tmp_path: Path) -> None:
        make(tmp_path, "sub/a.nii")
        (tmp_path / "sub" / "up").symlink_to(tmp_path)
        assert names(collect_inputs([tmp_path], is_scan)) == ["sub/a"]

    def test_folder_that_may_not_be_read_is_an_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(tmp_path, "a.nii", "locked/b.nii")
        iterdir = Path.iterdir

        def deny(folder: Path) -> object:
            if folder.name == "locked":
                raise PermissionError(13, "Permission denied", str(folder))
            return iterdir(folder)

        monkeypatch.setattr(Path, "iterdir", deny)
        assert names(collect_inputs([tmp_path], is_scan)) == ["a", "locked"]
        assert names(collect_inputs([tmp_path / "locked"], lambda path: False)) == ["locked"]


class TestRun:
    @pytest.mark.parametrize("at_once", [1, 2, 9])
    def test_goes_on_after_failures_and_names_them(self, tmp_path: Path, at_once: int) -> None:
        items = items_in(tmp_path, "a", "b", "c", "d")

        def work(item: Item) -> Outcome:
            if item.path.name == "b":
                raise InputError(item.path, "is cut short", "copy it again")
            if item.path.name == "c":
                return {}["what"]
            return copy(item)

        started: list[str] = []
        ended: list[Record] = []
        result = run_cohort(
            items, work, at_once=at_once, on_start=lambda item: started.append(item.path.name), on_end=ended.append
        )
        assert [record.status for record in result.records] == ["done", "failed", "failed", "done"]
        assert result.exit_status == 1
        assert started == ["a", "b", "c", "d"]
        assert tuple(ended) == result.records
        foreseen, unexpected = result.having("failed")
        assert foreseen.reason == f"{tmp_path / 'b'}: is cut short; copy it again"
        assert foreseen.traceback is None
        assert unexpected.reason == f"{tmp_path / 'c'}: unexpected KeyError: 'what'"
        assert 'return {}["what"]' in (unexpected.traceback or "")
        done = result.records[0]
        assert done.outcome == Outcome(findings=("a",))

    def test_second_run_does_what_is_missing(self, tmp_path: Path) -> None:
        items = items_in(tmp_path, "a", "b")
        run_cohort(items, copy)
        (tmp_path / "out" / "b.json").unlink()
        again = run_cohort(items, copy)
        assert [record.status for record in again.records] == ["skipped", "done"]
        assert again.exit_status == 0
        of_another_model = run_cohort(items, copy, again=lambda item: item.path.name == "a")
        assert [record.status for record in of_another_model.records] == ["done", "skipped"]
        everything = run_cohort(items, copy, overwrite=True)
        assert [record.status for record in everything.records] == ["done", "done"]

    def test_old_outputs_do_not_pass_for_new_ones(self, tmp_path: Path) -> None:
        (item,) = items_in(tmp_path, "a")
        mesh = tmp_path / "out" / "a.stl"
        item = Item(item.path, item.outputs, (mesh,))
        for path in item.files:
            path.write_bytes(b"old")
        (tmp_path / "out" / ".0123abcd-a.mask").write_bytes(b"half")
        (tmp_path / "out" / "other").write_bytes(b"mine")

        def fail(item: Item) -> Outcome:
            raise InputError(item.path, "is empty", "copy it again")

        assert run_cohort([item], fail, overwrite=True).exit_status == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]

    def test_output_that_cannot_be_replaced_stops_the_run(self, tmp_path: Path) -> None:
        items = items_in(tmp_path, "a", "b")
        items[0].outputs[0].mkdir()
        result = run_cohort(items, copy)
        assert result.exit_status == 2
        assert str(result.stopped).startswith(f"{items[0].outputs[0]}: cannot be written")

    def test_work_that_leaves_an_output_out_has_failed(self, tmp_path: Path) -> None:
        (item,) = items_in(tmp_path, "a")
        result = run_cohort([item], lambda item: Outcome())
        assert result.exit_status == 1
        assert "a.mask" in (result.records[0].reason or "")

    @pytest.mark.parametrize("at_once", [1, 2])
    @pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (SetupError("disk full"), 2)])
    def test_stops_with_what_was_done(
        self, tmp_path: Path, stop: KeyboardInterrupt | SetupError, status: int, at_once: int
    ) -> None:
        items = items_in(tmp_path, "a", "b", "c")

        def work(item: Item) -> Outcome:
            if item.path.name == "b":
                raise stop
            return copy(item)

        result = run_cohort(items, work, at_once=at_once)
        done = [record.item.path.name for record in result.records]
        assert done in (["a"], ["a", "c"][:at_once])  # of two at once, the next may have been in work
        assert {record.status for record in result.records} == {"done"}
        assert result.left == tuple(item for item in items if item.path.name not in done)
        assert result.stopped is stop
        assert result.exit_status == status

    def test_two_are_in_work_at_once_and_recorded_in_order(self, tmp_path: Path) -> None:
        items = items_in(tmp_path, "a", "b", "c")
        both, b_is_done = threading.Barrier(2), threading.Event()

        def work(item: Item) -> Outcome:
            if item.path.name in ("a", "b"):
                both.wait(timeout=30)
            if item.path.name == "a":
                b_is_done.wait(timeout=30)
            done = copy(item)
            if item.path.name == "b":
                b_is_done.set()
            return done

        ended: list[str] = []
        run_cohort(items, work, at_once=2, on_end=lambda record: ended.append(record.item.path.name + record.status))
        assert ended == ["adone", "bdone", "cdone"]

    def test_a_stop_from_outside_waits_for_what_is_in_work_and_begins_nothing_more(self, tmp_path: Path) -> None:
        items = items_in(tmp_path, *"abcdef")
        begun: list[str] = []

        def work(item: Item) -> Outcome:
            begun.append(item.path.name)
            return copy(item)

        told: list[str] = []

        def interrupted(record: Record) -> None:
            told.append(record.item.path.name)
            if len(told) == 1:
                raise KeyboardInterrupt

        result = run_cohort(items, work, at_once=2, on_end=interrupted)
        assert result.exit_status == 130
        assert len(begun) < len(items)
        done = [record.item.path.name for record in result.records]
        assert done == told == sorted(begun)  # all that was begun has ended, and is told
        assert [item.path.name for item in result.left] == [name for name in "abcdef" if name not in done]
        assert {path.stem for path in (tmp_path / "out").iterdir()} == set(begun)  # whole, and nothing in between

    def test_missing_input(self, tmp_path: Path) -> None:
        result = run_cohort([Item(tmp_path / "gone.nii", (tmp_path / "x",))], copy)
        assert result.records[0].reason == f"{tmp_path / 'gone.nii'}: no such file or folder; check the name"
        assert result.exit_status == 1

    def test_refused_inputs_are_named_and_the_others_done(self, tmp_path: Path) -> None:
        make(tmp_path, "in/a.nii", "in/a.nii.gz", "in/b.nii", "in/report.nii", "in/folder.nii", "empty/notes.txt")
        (tmp_path / "out" / "folder.json").mkdir(parents=True)
        (tmp_path / "out" / "a.json").write_bytes(b"of an earlier run")
        inputs = [tmp_path / "empty", tmp_path / "in"]
        items = plan_results(inputs, is_scan, tmp_path / "out", (".json",), ("report.json",))
        result = run_cohort(items, copy)
        assert result.exit_status == 1
        assert {record.item.path.name: record.status for record in result.records} == {
            "a.nii": "failed", "a.nii.gz": "failed", "b.nii": "done", "report.nii": "failed", "folder.nii": "failed",
            "empty": "failed",
        }  # fmt: skip
        reasons = "\n".join(str(record.reason) for record in result.having("failed"))
        for words in ("a.nii: would be written as a", "report.nii: its result would be the run's own report.json",
                      "folder.nii: its result belongs where there is the folder", "empty: no input"):  # fmt: skip
            assert words in reasons
        assert (tmp_path / "out" / "a.json").read_bytes() == b"of an earlier run"

    def test_no_item_is_no_failure(self) -> None:
        assert run_cohort([], copy).exit_status == 0

    def test_unit_of_work_can_be_sent_elsewhere(self, tmp_path: Path) -> None:
        (item,) = items_in(tmp_path, "a")
        sent_item, sent_work = pickle.loads(pickle.dumps((item, copy)))
        record = pickle.loads(pickle.dumps(attempt(sent_item, sent_work)))
        assert (record.item, record.status, record.outcome) == (item, "done", Outcome(findings=("a",)))


class TestOutputs:
    def test_writing_over_an_input_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii")
        item = Item(tmp_path / "a.nii", (tmp_path / "x" / ".." / "a.nii",))
        with pytest.raises(SetupError, match="would be written over"):
            run_cohort([item], copy, overwrite=True)
        assert (tmp_path / "a.nii").read_bytes() == b"a.nii"

    def test_two_writers_of_one_file_are_refused(self, tmp_path: Path) -> None:
        one = Item(tmp_path / "a", (tmp_path / "a.mask",))
        two = Item(tmp_path / "b", (tmp_path / "b.mask",), (tmp_path / "a.mask",))
        with pytest.raises(SetupError, match="would be written to it"):
            check_outputs([one, two])

    def test_a_link_to_an_input_is_that_input(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii")
        (tmp_path / "out").symlink_to(tmp_path)
        with pytest.raises(SetupError, match="would be written over"):
            check_outputs([Item(tmp_path / "a.nii", (tmp_path / "out" / "a.nii",))])
