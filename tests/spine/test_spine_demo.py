"""The demo, and with it the shipped model, on the shipped chest radiograph."""

import json
from itertools import pairwise

from shared.cli import Voice
from spine.config import LEVELS
from spine.demo import demo
from spine.predict import Predictor


def test_it_names_a_chest_s_vertebrae_from_the_head_down(tmp_path, capsys):
    answer = demo(tmp_path, "cpu", "auto", Voice())
    assert answer.exit_status == 0
    found = json.loads((tmp_path / "chest.json").read_text())["vertebrae"]
    levels = [LEVELS.index(one["label"]) for one in found]
    heights = [sum(one["box_xyxy_px"][1::2]) for one in found]
    assert len(found) >= 10
    assert {"T4", "T8"} <= {one["label"] for one in found}
    assert all(a < b for a, b in pairwise(levels))
    assert all(a < b for a, b in pairwise(heights))
    assert all((tmp_path / name).stat().st_size for name in ("chest.png", "chest.mask.png", "report.json"))
    assert "without labels" in capsys.readouterr().out


def test_the_shipped_model_s_names_are_brought_down_to_how_often_they_are_right():
    assert Predictor(device="cpu").file.temperature > 2
