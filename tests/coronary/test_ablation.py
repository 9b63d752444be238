"""Both arms from phantoms to the comparison, at toy size; done twice it does nothing twice."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from coronary.ablation import ARMS, ablate, compare_runs, is_ablation
from coronary.config import PRESETS, Config
from coronary.evaluate import METRICS
from coronary.phantom import PhantomConfig, write_dataset
from shared.config import apply_preset, layered

TOY = apply_preset(
    Config(),
    layered(
        PRESETS["reference-ablation"],
        {
            "features": (4, 4, 8, 8, 8, 4), "validation_fraction": 0.5, "inference": {"window": (48, 48, 48)},
            "preprocessing": {"spacing_mm": (1.6, 1.6, 1.6)},
            "sampling": {"patch": (32, 32, 32)}, "training": {"epochs": 2, "steps_per_epoch": 2, "workers": 0},
        },
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    write_dataset(folder / "data", 4, 5, PhantomConfig(shape=(64, 64, 56), spacing_mm=(1.6, 1.6, 1.7)))
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coronary.cache.cpu_count", lambda: 1)  # starting processes takes longer than these cases
        rows = ablate(TOY, folder / "run", folder / "data", device="cpu", say=told.append)
    return folder, rows, told


def test_both_arms_are_trained_on_the_same_cases_and_compared(ablation):
    folder, rows, _ = ablation
    run = folder / "run"
    configs = {name: Config.model_validate_json((run / name / "config.json").read_text()) for name in ARMS}
    assert {name: config.sampling.augment for name, config in configs.items()} == ARMS
    assert configs["augmented"].training == configs["baseline"].training == TOY.training
    cases = [json.loads((run / name / "cases.json").read_text()) for name in ARMS]
    assert cases[0] == cases[1]
    assert len(cases[0]["validation"]) == 2
    assert [row["metric"] for row in rows] == list(METRICS)
    dice = rows[0]
    assert dice["cases"] == 2
    assert dice["difference"] == pytest.approx(dice["augmented"] - dice["baseline"])
    assert dice["difference_low"] <= dice["difference"] <= dice["difference_high"]
    with (run / "comparison.csv").open() as file:
        assert [row["metric"] for row in csv.DictReader(file)] == list(METRICS)
    assert json.loads((run / "comparison.json").read_text())["metrics"][0] == dice
    with Image.open(run / "comparison.png") as picture:
        assert picture.width > 1000
    assert is_ablation(run)
    assert not is_ablation(run / "baseline")


def test_the_arms_differ_in_what_they_saw_alone(ablation):
    folder, _, _ = ablation
    curves = [
        [json.loads(line)["loss"] for line in (folder / "run" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ARMS
    ]
    assert len(curves[0]) == len(curves[1]) == 2
    assert curves[0] != curves[1]
    assert np.isfinite(curves).all()


def test_called_again_it_does_only_what_is_missing(ablation):
    folder, rows, _ = ablation
    run = folder / "run"
    kept = [path for name in ARMS for path in (run / name).rglob("*") if path.suffix in (".ckpt", ".onnx", ".csv")]
    assert len(kept) == 8
    stamps = [path.stat().st_mtime_ns for path in kept]
    (run / "comparison.png").unlink()
    told = []
    assert ablate(TOY, run, device="cpu", say=told.append) == rows  # it knows its cases
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert (run / "comparison.png").exists()
    assert sum("finished" in line for line in told) == 2


def test_a_comparison_pairs_cases_and_leaves_out_what_is_not_finite(tmp_path):
    values = {"baseline": ["0.5", "0.6", "0.9", "0.8"], "augmented": ["0.7", "0.6", "0.9", "inf"]}
    for name, column in values.items():
        scores = tmp_path / name / "scores"
        scores.mkdir(parents=True)
        lines = [",".join(["case", *METRICS])]
        lines += [",".join([f"c{i}", *[value] * (len(METRICS) - 1), ""]) for i, value in enumerate(column)]
        (scores / "cases.csv").write_text("\n".join(lines if name == "baseline" else lines[:1] + lines[:0:-1]))
        (tmp_path / name / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.9, "dice": null}\n')
    rows = {row["metric"]: row for row in compare_runs(tmp_path)}
    assert rows["dice"]["cases"] == 3
    assert rows["dice"]["difference"] == pytest.approx(0.2 / 3)
    assert rows["dice"]["baseline"] == pytest.approx(2 / 3)
    nothing = rows[METRICS[-1]]
    assert (nothing["cases"], nothing["difference"]) == (0, None)
