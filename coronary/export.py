"""From a run folder to ``model.onnx`` and its INT8 twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coronary.cache import CachedCase, cache_case
from coronary.cases import load_split
from coronary.config import Config
from coronary.evaluate import Scores, evaluate, evaluate_cases, from_model, note_model
from coronary.model import build
from coronary.predict import METADATA_VERSION, Predictor
from shared.config import config_hash, load_config
from shared.errors import SetupError
from shared.export import export_onnx, quantise
from shared.report import Report, git_commit, product_version, recorded

INT8_WINDOWS = 24


def export_run(run: Path, out: Path, *, int8: bool = False, provenance: str = "", cache: Path | None = None) -> Path:
    """Export a run's best weights to ``out``; with ``int8`` the quantised file instead, float32 beside it.

    Parity and the INT8 gate are judged on the run's own validation cases; ``provenance`` says what data these were,
    ``cache`` where they are preprocessed if not in the run.

    Raises:
        SetupError: the folder is no finished run.
        GateError: the exported file differs from torch, or INT8 loses too much Dice.
    """
    if int8 and "-int8" not in out.name:
        raise SetupError(f"{out}: an INT8 file keeps its float32 twin beside it; name it NAME-int8.onnx")
    config = load_config(Config, run / "config.json")
    weights = run / "best.ckpt"
    if not weights.exists():
        raise SetupError(f"{weights}: not there; train until the first validation, or give another run")
    checkpoint: dict[str, Any] = torch.load(weights, map_location="cpu", weights_only=True)
    model = build(config)
    model.load_state_dict(checkpoint["model"])
    model.eval()

    cases = load_split(run / "cases.json")[1]
    cached = [cache_case(case, config.preprocessing, cache or run / "cache") for case in cases[:INT8_WINDOWS]]
    fp32 = out.with_name(out.name.replace("-int8", "")) if int8 else out
    export_onnx(model, parity_samples(cached, config), fp32, _metadata(config, checkpoint, provenance))
    if int8:
        quantise(
            fp32,
            out,
            windows(cached, config, INT8_WINDOWS),
            score=lambda path: evaluate(path, [(c.image, c.label) for c in cases[:6]], device="cpu").mean("dice"),
        )
    return out


def finish(
    run: Path,
    *,
    cache: Path | None = None,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, case: None,
) -> tuple[Path, Scores]:
    """Export a run to ``RUN/model.onnx`` and score it on the run's held-out cases into ``RUN/scores``."""
    model = export_run(run, run / "model.onnx", provenance=f"the run {run.name}", cache=cache)
    cases = load_split(run / "cases.json")[1]
    report = Report("coronary", "evaluate", {"model": model, "split": "validation", "device": device})
    with recorded(report, run / "scores" / "report.json"):
        predictor = Predictor(model, device)
        note_model(report, predictor)
        return model, evaluate_cases(from_model(predictor), cases, run / "scores", report, on_case)


def _metadata(config: Config, checkpoint: dict[str, Any], provenance: str) -> dict[str, Any]:
    """Everything needed to use the model, and where it came from."""
    return {
        "metadata_version": METADATA_VERSION,
        "task": "coronary",
        "precision": "fp32",
        "labels": {"0": "background", "1": "coronary lumen"},
        "input": {"layout": "n c x y z", "orientation": "RAS+", "unit": "HU", "channels": 1, "multiple_of": 16},
        "preprocessing": config.preprocessing.model_dump(mode="json"),
        "inference": config.inference.model_dump(mode="json"),
        "training": {
            "config": config.model_dump(mode="json"), "config_sha256": config_hash(config),
            "steps": checkpoint.get("step"), "validation_dice": checkpoint.get("score"),
        },
        "provenance": provenance,
        "licence": "Apache-2.0",
        "version": product_version(),
        "commit": git_commit(Path(__file__).resolve().parents[1]),
        "intended_use": "research on contrast-enhanced cardiac CT; not a medical device",
    }  # fmt: skip


def windows(cases: Sequence[CachedCase], config: Config, count: int) -> list[np.ndarray]:
    """Windows of the trained size from preprocessed cases, most around lumen, ``1 1 x y z`` each."""
    rng = np.random.default_rng(config.training.seed)
    found = []
    for index in range(count):
        case = cases[index % len(cases)]
        image = case.image
        centre = rng.integers(0, image.shape) if index % 4 == 3 else case.foreground[rng.integers(len(case.foreground))]
        size = np.minimum(config.inference.window, [n // 16 * 16 for n in image.shape])
        start = np.clip(np.asarray(centre) - size // 2, 0, np.array(image.shape) - size)
        piece = image[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        found.append(np.ascontiguousarray(piece, np.float32)[None, None])
    return found


def parity_samples(cases: Sequence[CachedCase], config: Config) -> list[np.ndarray]:
    """Real-range inputs of two sizes: a small cut, and a whole window."""
    first, second = windows(cases, config, 2)
    return [np.ascontiguousarray(first[..., :48, :32, :64]), second]
