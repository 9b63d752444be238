"""Train the spine network.

spine train --preset smoke                            # a laptop: minutes, on phantoms it makes itself
spine train --preset best --data DIR --device cuda    # one GPU
spine train --preset best --data DIR --devices 4      # four of them
spine train --resume runs/spine/best                  # go on where it stopped

ultralytics trains: its trainer, losses and augmentations. Here stand what is chosen for it, and what it lacks: a
checkpoint without pickles from which a run goes on exactly, and the run folder that every task has.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import SetupError
from shared.io.atomic import whole
from shared.report import Report, recorded
from shared.splits import split_groups
from shared.training_folder import best_of
from spine.cases import Film, find_films, load_films, save_films
from spine.config import Config
from spine.model import read_weights
from spine.trainer import METRIC, SpineTrainer, device_string, read_checkpoint, trainer_settings

log = logging.getLogger(__name__)

LACKING = {
    "train": ("train on", "merge it with more"),
    "val": ("look at", "hold some out with --validation-fraction 0.2, or with `spine merge --split new`"),
}


def train(
    config: Config,
    run: Path,
    data: Path | None = None,
    *,
    init: Path | None = None,
    on_progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Train from ``data`` (as ``spine merge`` writes it; None makes phantoms) and return the run folder.

    The folder holds ``config.json``, ``films.json``, ``report.json``, ``last.ckpt`` and ``best.ckpt`` (plain tensors),
    ``metrics.jsonl``, ``curves.png`` and ``tensorboard/``. Called again with the same folder it goes on from
    ``last.ckpt``, with the same films.

    Args:
        config: the run's settings.
        run: run folder.
        data: folder of a merged data set; its training films are trained on.
        init: weights to begin with: a model's float32 ``.onnx``, a ``.safetensors`` file or a run's ``best.ckpt``;
            random ones if left out.
        on_progress: told step, total and loss after each step.
        say: told in a sentence how the run began and ended.

    Raises:
        SetupError: no such data, device or weights, or the loss is no number any more.
    """
    device = device_string(config.training)
    arguments = {"data": data, "init": init, "out": run}
    report = Report("spine", "train", arguments, config)
    import torch
    import ultralytics

    report.device = device
    report.engine = f"PyTorch {torch.__version__}, ultralytics {ultralytics.__version__}"
    report.precision = config.training.precision
    with recorded(report, run / "report.json"):
        with report.stage("prepare"):
            weights = None if init is None or (run / "last.ckpt").exists() else read_weights(init)
            films = choose_films(config, run, data)
            if weights is not None:
                _save_first(weights, run)
        say(f"{len(films['training'])} films to train on, {len(films['validation'])} looked at after each epoch")
        with report.stage("train"):
            if not ended(config, run):
                trainer = SpineTrainer(overrides=trainer_settings(config, run, device))
                if "," not in device:  # callbacks of several processes would have to be pickled
                    trainer.add_callback("on_train_batch_end", _progress(on_progress))
                run_trainer: Any = trainer.train
                run_trainer()
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        best = best_of(history, METRIC)
        state = "finished" if ended(config, run) else "stopped"
        scored = f"; best {METRIC} {best[METRIC]:.4f} after epoch {best['epoch']}" if best else ""
        say(f"{run}: {state} after {len(history)} epochs{scored}")
        report.outputs = [run / name for name in ("best.ckpt", "last.ckpt", "metrics.jsonl", "curves.png")]
        report.results = {"history": history}
    return run


def ended(config: Config, run: Path) -> bool:
    """Say whether the run has had all its epochs, or was stopped because it got no better."""
    last = run / "last.ckpt"
    if not last.exists():
        return False
    state = read_checkpoint(last)
    return bool(state["stopped_early"]) or len(state["history"]) >= config.training.epochs


def choose_films(config: Config, run: Path, data: Path | None) -> dict[str, list[Film]]:
    """Write the run's config and, the first time, which films it trains on and which it looks at."""
    run.mkdir(parents=True, exist_ok=True)
    with whole(run / "config.json") as aside:
        aside.write_text(config.model_dump_json(indent=2))
    if (run / "films.json").exists():
        return load_films(run / "films.json")
    if data is None:
        from spine.phantom import write_dataset

        data = run / "phantoms"
        write_dataset(data, count=config.phantoms, seed=config.training.seed)
    films = find_films(data)
    parts = {part: [film for film in films if film.part == part] for part in ("train", "val")}
    if config.validation_fraction:
        parts = _cut(parts["train"], config)
    for part, held in parts.items():
        if not held:
            lacking, remedy = LACKING[part]
            raise SetupError(f"{data}: has no film to {lacking}; {remedy}")
    chosen = {"training": parts["train"], "validation": parts["val"]}
    save_films(run / "films.json", chosen)
    return chosen


def _cut(films: list[Film], config: Config) -> dict[str, list[Film]]:
    """Hold out whole groups of the training films."""
    share = config.validation_fraction
    names = {str(film.image): film for film in films}
    groups = {name: film.group for name, film in names.items()}
    found = split_groups(groups, {"train": 1 - share, "val": share}, with_box=names, seed=config.training.seed)
    return {part: [names[name] for name in held] for part, held in found.items()}


def _save_first(weights: dict[str, Any], run: Path) -> None:
    """Put the weights to begin with into the run, so that it can be repeated."""
    import torch

    with whole(run / "first.ckpt") as aside:
        torch.save({"model": weights}, aside)


def _progress(on_progress: Callable[[int, int, float], None]) -> Callable[[SpineTrainer], None]:
    done = itertools.count(1)

    def tell(trainer: SpineTrainer) -> None:
        steps = len(trainer.train_loader)
        step = trainer.start_epoch * steps + next(done)
        on_progress(step, trainer.epochs * steps, float(trainer.loss.detach()) / trainer.batch_size)

    return tell
