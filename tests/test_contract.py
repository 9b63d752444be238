"""Law 11: every task has the same files, verbs and signatures; prediction starts without torch."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.registry import TASKS, VERBS

ROOT = Path(__file__).resolve().parents[1]
FILES = ["__main__", "config", "data", "model", "train", "evaluate", "predict", "phantom"]
TASK = pytest.mark.parametrize("task", TASKS)


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False, **options
    )


@TASK
def test_the_same_files(task):
    for name in FILES:
        assert (ROOT / task / f"{name}.py").is_file(), name


@TASK
def test_the_same_signatures(task):
    predictor = importlib.import_module(f"{task}.predict").Predictor
    assert list(inspect.signature(predictor).parameters)[:2] == ["model", "device"]
    train = inspect.signature(importlib.import_module(f"{task}.train").train)
    assert list(train.parameters)[:3] == ["config", "run", "data"]
    assert list(inspect.signature(importlib.import_module(f"{task}.model").build).parameters) == ["config"]
    config = importlib.import_module(f"{task}.config")
    assert {"smoke"} <= set(config.PRESETS)
    assert config.Config.model_config["frozen"]
    assert config.Config.model_config["extra"] == "forbid"


@TASK
def test_every_preset_is_valid(task):
    from shared.config import apply_preset

    config = importlib.import_module(f"{task}.config")
    for diff in config.PRESETS.values():
        apply_preset(config.Config(), diff)


@TASK
def test_the_command_line_has_every_verb(task):
    shown = run(task, "--help")
    assert shown.returncode == 0
    for verb in TASKS[task].verbs:
        assert f" {verb} " in shown.stdout
        assert run(task, verb, "--help").returncode == 0
    assert set(VERBS) <= set(TASKS[task].verbs)


@TASK
def test_prediction_starts_without_torch(task):
    program = (
        "import sys\n"
        "for name in ('torch', 'monai', 'onnx', 'lightning_fabric', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        f"import {task}.predict, {task}.batch, {task}.demo, {task}.__main__\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_a_film_that_is_no_dicom_file_is_predicted_without_what_reads_scans(tmp_path):
    """pydicom and nibabel take a second to load, scipy half of one."""
    program = (
        "import sys\n"
        "for name in ('pydicom', 'nibabel', 'SimpleITK', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from spine.__main__ import run\n"
        f"run(['predict', 'data/samples/spine/chest.png', '--out', {str(tmp_path)!r}, '--precision', 'fp32'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (tmp_path / "chest.json").exists(), done.stdout + done.stderr


@TASK
def test_info_is_light_and_one_json_object(task):
    done = run(task, "info", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["task"] == task
    heavy = ["numpy", "onnxruntime", "openvino", "pydantic", "scipy", "torch"]
    program = (
        f"import sys\nsys.argv = ['{task}', 'info', '--json']\nfrom {task}.__main__ import run\nrun(sys.argv[1:])\n"
    )
    program += f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip() == "[]"


@TASK
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nonsense"], 2),
        (["predict", "--no-such-option"], 2),
        (["predict", "--out", "somewhere"], 2),
        (["predict", "no-such-file.nii.gz", "--out", "OUT", "--model", "no-such-model.onnx"], 2),
        (["predict", "no-such-file.nii.gz", "--out", "OUT", "--device", "cuda"], 2),
        (["train"], 2),
        (["train", "--preset", "smoke", "--epochs", "-3"], 2),
    ],
)
def test_usage_and_environment_end_in_2(task, words, status, tmp_path):
    done = run(task, *[str(tmp_path / "out") if word == "OUT" else word for word in words])
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "errors.pydantic.dev" not in done.stderr
