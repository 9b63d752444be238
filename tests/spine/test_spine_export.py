"""From a run to its two files: both say how candidates are to be taken, and float32 says so without an INT8 twin."""

import pytest
import torch
from spine_factory import HEIGHT_PX, SIZE_PX, SPINE_BOXES, SPINE_LEVELS, WIDTH_PX, tiny_network, write_film

from shared.errors import SetupError
from shared.export import GateError
from shared.runtime import read_metadata
from spine.cases import Film, save_films
from spine.config import LEVELS, Config
from spine.evaluate import Scores
from spine.export import export_run
from spine.labels import label_lines
from spine.model_file import OperatingPoint
from spine.predict import Predictor
from spine.tuning import CONFIDENCES, USUAL, Chosen


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of the tiny network on one film."""
    monkeypatch.setattr("spine.export.build", lambda config: tiny_network())
    corners = SPINE_BOXES[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] / [WIDTH_PX, HEIGHT_PX]
    outlines = [(LEVELS[level], own) for level, own in zip(SPINE_LEVELS, corners, strict=True)]
    (tmp_path / "film.txt").write_text(label_lines(outlines))
    film = Film(write_film(tmp_path / "film.png"), tmp_path / "film.txt", "train", "one")
    folder = tmp_path / "run"
    folder.mkdir()
    save_films(folder / "films.json", {"training": [film], "validation": [film]})
    (folder / "config.json").write_text(Config(size_px=SIZE_PX).model_dump_json())
    torch.save({"model": tiny_network().state_dict()}, folder / "best.ckpt")
    return folder


def test_each_file_says_how_its_own_candidates_are_taken_and_float32_also_where_int8_fails(run, tmp_path, monkeypatch):
    gates = iter([0.5, 0.48, 0.5, 0.5])
    monkeypatch.setattr(Scores, "gate", lambda scores: next(gates))
    looked_at = []

    def chosen(predictor, films, *, mirrored=False):
        looked_at.append((predictor.precision, mirrored))
        confidence = 0.2 if predictor.precision == "int8" else 0.1
        return Chosen(OperatingPoint(confidence=confidence, iou=0.55), USUAL, 2.0, {confidence: 0.9})

    fp32, int8 = tmp_path / "spine.onnx", tmp_path / "spine-int8.onnx"
    with pytest.raises(GateError, match=r"INT8 scores 0\.48"):
        export_run(run, int8, int8=True, provenance="films")
    assert not int8.exists()
    found = read_metadata(fp32)
    assert found["operating_points"]["default"]["confidence"] in CONFIDENCES
    assert found["second_look"]["confidence"] in CONFIDENCES
    assert set(found["right_names_by_confidence"]) == set(map(str, CONFIDENCES))

    monkeypatch.setattr("spine.tuning.choose", chosen)
    assert export_run(run, int8, int8=True, provenance="films", metadata={"untrained": ["C1"]}) == int8
    assert looked_at == [("fp32", False), ("fp32", True), ("int8", False), ("int8", True)]
    files = [read_metadata(path) for path in (fp32, int8)]
    assert [file["operating_points"]["default"]["confidence"] for file in files] == [0.1, 0.2]
    assert [file["second_look"]["confidence"] for file in files] == [0.1, 0.2]
    assert files[1]["int8_gate"] == {"fp32": 0.5, "int8": 0.5}
    assert (files[1]["precision"], files[1]["provenance"]) == ("int8", "films")
    for name in ("size_px", "training", "untrained"):
        assert files[0][name] == files[1][name]
    assert Predictor(int8, "cpu").file.second_look.temperature == 2


def test_an_int8_file_has_a_name_that_says_so(run, tmp_path):
    with pytest.raises(SetupError, match="name it NAME-int8"):
        export_run(run, tmp_path / "spine.onnx", int8=True)
