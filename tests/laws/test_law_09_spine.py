"""Law 9 for spine: broken films are named, the others are done; a second run does only what is missing."""

import json

import pytest
from spine_factory import finds, register, tiny_model, write_film

from spine.batch import COCO, TABLE


@pytest.fixture
def films(tmp_path, monkeypatch):
    register(monkeypatch)
    from spine.predict import Predictor

    made = Predictor.__init__

    def perfect(self, *args, **options):
        made(self, *args, **options)
        finds(self)

    monkeypatch.setattr(Predictor, "__init__", perfect)
    for name in ("a", "sub/b", "c"):
        write_film(tmp_path / "films" / f"{name}.png")
    (tmp_path / "films" / "broken.png").write_bytes(b"\x89PNG, but no more")
    (tmp_path / "films" / "notes.txt").write_text("no film")
    return tmp_path / "films"


def run(films, out, *more):
    from spine.__main__ import run as command

    return command(["predict", str(films), "--out", str(out), "--model", str(tiny_model()), "--device", "cpu", *more])


def test_others_are_done_and_the_broken_is_named(films, tmp_path, capsys):
    out = tmp_path / "out"
    answer = run(films, out)
    assert answer.exit_status == 1
    assert str(films / "broken.png") in capsys.readouterr().err
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    each = {f"{name}{end}" for name in ("a", "sub/b", "c") for end in (".png", ".mask.png", ".json")}
    assert left == {*each, COCO, TABLE, "report.json"}
    assert [image["file_name"] for image in json.loads((out / COCO).read_text())["images"]] == [
        "a.png", "c.png", "sub/b.png",
    ]  # fmt: skip


def test_a_second_run_does_only_what_is_missing(films, tmp_path):
    out = tmp_path / "out"
    run(films, out)
    (out / "a.json").unlink()
    write_film(films / "broken.png")
    kept = (out / "c.json").stat().st_mtime_ns
    answer = run(films, out)
    assert answer.exit_status == 0
    states = {entry["path"].rsplit("/", 1)[1]: entry["status"] for entry in answer.result["inputs"]}
    assert states == {"a.png": "done", "broken.png": "done", "b.png": "skipped", "c.png": "skipped"}
    assert (out / "c.json").stat().st_mtime_ns == kept
    assert len(json.loads((out / COCO).read_text())["images"]) == 4
