"""Files in, files out: what each picture leaves, what the run leaves, and laws 9 and 10."""

import json

import numpy as np
import pytest
from bones_models import POINTS, broken, dark, limb, spot, write_detector, write_gate
from PIL import Image

from bones.__main__ import run
from bones.batch import plan, read_result
from shared.errors import InputError, SetupError
from shared.report import sha256_of

FIELDS = {
    "schema_version", "file", "width_px", "height_px", "model_sha256", "gate_sha256", "engine", "operating_point",
    "threshold", "gate", "detections",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return write_detector(folder / "detector.onnx"), write_gate(folder / "gate.onnx")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    save(folder / "break.png", broken())
    save(folder / "whole.png", limb())
    save(folder / "sub" / "night.png", dark())
    return folder


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).astype(np.uint8)).save(path)
    return path


def predict(models, *words):
    """Run the verb in this process; its answer."""
    detector, gate = models
    answer = run(
        ["predict", *map(str, words), "--model", str(detector), "--gate", str(gate), "--device", "cpu", "--quiet"]
    )
    assert answer is not None
    return answer


def test_every_picture_leaves_json_and_overlay_and_the_run_coco_csv_and_report(models, pictures, tmp_path):
    out = tmp_path / "out"
    answer = predict(models, pictures, "--out", out)
    assert answer.exit_status == 0
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {
        "break.json", "break.png", "whole.json", "whole.png", "sub/night.json", "sub/night.png",
        "detections.coco.json", "detections.csv", "report.json",
    }  # fmt: skip

    found = json.loads((out / "break.json").read_text())
    assert set(found) == FIELDS
    assert (found["schema_version"], found["file"]) == (1, "break.png")
    assert (found["width_px"], found["height_px"]) == (128, 256)
    assert (found["model_sha256"], found["gate_sha256"]) == tuple(map(sha256_of, models[:2]))
    assert "OpenVINO" in found["engine"]
    assert (found["operating_point"], found["threshold"]) == ("balanced", POINTS["balanced"])
    assert set(found["gate"]) == {"passed", "area_fraction", "confidence", "reason"}
    assert found["gate"]["passed"] is True
    best = found["detections"][0]
    assert set(best) == {"box_xyxy_px", "score", "label"}
    assert best["label"] == "fracture"
    np.testing.assert_allclose(best["box_xyxy_px"], spot(128, 256), atol=2)
    with Image.open(out / "break.png") as overlay:
        assert max(overlay.size) >= 900

    coco = json.loads((out / "detections.coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == {"break.png", "whole.png", "sub/night.png"}
    table = (out / "detections.csv").read_text().splitlines()
    assert table[0] == "file,label,score,x1_px,y1_px,x2_px,y2_px"
    assert any(line.startswith("break.png,fracture,") for line in table)
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["sha256"] == found["model_sha256"]
    assert report["results"]["gate"]["sha256"] == sha256_of(models[1])
    assert report["exit_status"] == 0


def test_turned_away_is_a_result(models, tmp_path):
    page = np.ones((64, 64), np.float32)
    page[10:20, 10:50] = 0
    answer = predict(models, save(tmp_path / "page.png", page), "--out", tmp_path / "out")
    assert answer.exit_status == 0
    found = json.loads((tmp_path / "out" / "page.json").read_text())
    assert found["gate"]["passed"] is False
    assert found["gate"]["reason"]
    assert found["detections"] == []
    assert "not looked at" in answer.result["inputs"][0]["findings"][0]
    assert (tmp_path / "out" / "page.png").exists()


def test_without_a_gate_every_picture_is_looked_at(models, pictures, tmp_path):
    answer = predict((models[0], "none"), pictures, "--out", tmp_path / "out", "--operating-point", "specific")
    assert answer.exit_status == 0
    assert answer.result["results"]["gate"] is None
    found = json.loads((tmp_path / "out" / "sub" / "night.json").read_text())
    assert found["gate"] is None
    assert (found["operating_point"], found["threshold"]) == ("specific", POINTS["specific"])


def test_law_9_broken_files_stop_nothing_and_a_second_run_does_what_is_missing(models, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    (pictures / "empty.jpg").write_bytes(b"")
    answer = predict(models, pictures, "--out", out)
    assert answer.exit_status == 1
    told = capsys.readouterr().err
    for name in ("bad.png", "empty.jpg"):
        assert f"error: {pictures / name}: " in told
        assert any(str(pictures / name) in failure for failure in answer.result["failures"])
    assert {record["status"] for record in answer.result["inputs"]} == {"done", "failed"}
    assert len(json.loads((out / "detections.coco.json").read_text())["images"]) == 3

    (out / "whole.json").unlink()
    save(pictures / "bad.png", broken())
    times = (out / "break.json").stat().st_mtime_ns
    answer = predict(models, pictures, "--out", out)
    assert answer.exit_status == 1
    status = {record["path"].rsplit("/", 1)[-1]: record["status"] for record in answer.result["inputs"]}
    assert status == {
        "bad.png": "done", "break.png": "skipped", "empty.jpg": "failed", "night.png": "skipped", "whole.png": "done",
    }  # fmt: skip
    assert (out / "break.json").stat().st_mtime_ns == times
    assert len(json.loads((out / "detections.coco.json").read_text())["images"]) == 4

    answer = predict(models, pictures, "--out", out, "--operating-point", "specific")
    assert {record["status"] for record in answer.result["inputs"]} == {"done", "failed"}
    words = "break.png: done again, was made with other settings: operating_point balanced, now specific, threshold"
    assert any(words in said for said in answer.result["findings"])
    assert json.loads((out / "break.json").read_text())["operating_point"] == "specific"


def test_law_10_what_fails_half_way_leaves_nothing(models, pictures, tmp_path, monkeypatch):
    import bones.batch

    def fails(*more):
        raise RuntimeError("the disk went away")

    monkeypatch.setattr(bones.batch, "result_json", fails)
    out = tmp_path / "out"
    answer = predict(models, pictures / "break.png", "--out", out)
    assert answer.exit_status == 1
    assert not (out / "break.json").exists()
    monkeypatch.undo()
    assert predict(models, pictures / "break.png", "--out", out).exit_status == 0  # an overlay alone is not done
    assert (out / "break.json").exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_one_name_for_two_pictures_is_an_error(models, tmp_path):
    save(tmp_path / "in" / "a.png", limb())
    save(tmp_path / "in" / "a.jpg", limb())
    with pytest.raises(SetupError, match=r"would be written as a, and .*a\.png too"):
        predict(models, tmp_path / "in", "--out", tmp_path / "out")


@pytest.mark.parametrize("name", ["report.png", "detections.coco.png"])
def test_a_picture_called_as_the_runs_own_files_is_an_error(tmp_path, name):
    with pytest.raises(SetupError, match="rename it"):
        plan([save(tmp_path / name, limb())], tmp_path / "out")


def test_results_beside_the_pictures_would_write_over_them(tmp_path):
    from shared.cohort import run_cohort

    picture = save(tmp_path / "in" / "a.png", limb())
    with pytest.raises(SetupError, match="is an input and would be written over"):
        run_cohort(plan([picture], tmp_path / "in"), lambda item: pytest.fail("worked"))


def test_a_folder_where_a_result_belongs_is_an_error(tmp_path):
    (tmp_path / "out" / "a.json").mkdir(parents=True)
    with pytest.raises(SetupError, match="its result belongs where there is the folder"):
        plan([save(tmp_path / "a.png", limb())], tmp_path / "out")


def test_what_is_no_result_is_named(tmp_path):
    path = tmp_path / "a.json"
    for content in ("no json", "{}", '{"detections": [{"label": "spur"}]}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json: is no result"):
            read_result(path, {1: "fracture"})
