"""Train the coronary network.

coronary train --preset smoke                                   # a laptop: minutes, on phantoms it makes itself
coronary train --preset lite --data ImageCAS --device cuda      # one GPU
coronary train --preset best --data ImageCAS --devices 4        # four of them
coronary train --resume runs/coronary/lite                      # go on where it stopped
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coronary.cache import CachedCase, prepare, refuse_copies
from coronary.cases import find_cases, load_split, relocate, save_split
from coronary.cases import split as split_data
from coronary.check import check_headers, unusable
from coronary.config import Config
from coronary.data import Patches
from coronary.losses import build_loss
from coronary.model import build
from coronary.phantom import PhantomConfig, write_dataset
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.metrics.overlap import dice
from shared.report import Report, recorded
from shared.sliding_window import plan_windows, slide
from shared.training import fit
from shared.training_data import batches
from shared.training_devices import first_then_others, launch

log = logging.getLogger(__name__)

METRIC = "dice"
HALVED = 2**4  # by the network's four poolings


def train(
    config: Config,
    run: Path,
    data: Path | None = None,
    *,
    labels: Path | None = None,
    split: Path | None = None,
    fold: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Train from ``data`` (ImageCAS's layout; None makes phantoms) and return the run folder.

    The folder holds ``config.json``, ``cases.json``, ``report.json``, what ``shared.training.fit`` leaves, and the
    cache of preprocessed cases. Called again with the same folder it goes on from ``last.ckpt``, with the same cases.

    Args:
        config: the run's settings.
        run: run folder.
        data: folder of labelled scans.
        labels: folder of other labels than those beside the scans.
        split: file that says which cases are for what (see ``coronary.cases.split``).
        fold: which of the file's splits.
        cache: folder for preprocessed cases, which runs may share; in the run folder if left out.
        on_progress: told step, total and loss after each step.
        say: told in a sentence how the run began and ended.

    Raises:
        SetupError: settings, devices, files or folders do not do.
        DataError: some cases cannot be used; all are named.
    """
    _check_sizes(config)
    fabric = launch(config.training)
    arguments = {"data": data, "labels": labels, "split": split, "fold": fold, "out": run}
    report = Report("coronary", "train", arguments, config)
    report.device = f"{fabric.device.type} x {fabric.world_size}" if fabric.world_size > 1 else str(fabric.device)
    report.engine, report.precision = f"PyTorch {torch.__version__}", config.training.precision

    def prepared() -> tuple[list[CachedCase], list[CachedCase]]:
        if fabric.global_rank == 0:
            _choose_cases(config, run, data, labels, split, fold)
        workers = None if fabric.global_rank == 0 else 1  # the others find everything done
        return _cached(config, run, cache or run / "cache", workers)

    with recorded(report, run / "report.json") if fabric.global_rank == 0 else nullcontext():
        with report.stage("prepare"):
            training, held_out = first_then_others(fabric, prepared)
        tell = say if fabric.global_rank == 0 else log.debug
        tell(f"{len(training)} cases to train on, {len(held_out)} looked at after each epoch")
        patches = Patches(training, config)
        with report.stage("train"):
            fit(
                build=lambda: build(config),
                loss_of=_loss(config),
                batches_from=lambda step, rank, world: batches(patches, config.training, step, rank, world),
                validate=lambda model, rank, world: validate(model, held_out[rank::world], config),
                run=run,
                settings=config.training,
                samples=len(training) * config.sampling.patches_per_case,
                metric=METRIC,
                fabric=fabric,
                on_step=on_progress,
                say=say,
            )
        report.outputs = [run / name for name in ("best.ckpt", "last.ckpt", "metrics.jsonl", "curves.png")]
        report.results = {"history": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]}
    return run


def _check_sizes(config: Config) -> None:
    """Refuse patches and windows that cannot be halved four times.

    The network would pad them within, and bfloat16's gradients of that are not finite.
    """
    for name, size in (("patch", config.sampling.patch), ("window", config.inference.window)):
        if any(side % HALVED for side in size):
            nearest = " ".join(str(max(round(side / HALVED), 1) * HALVED) for side in size)
            given = " ".join(map(str, size))
            raise SetupError(f"{name} {given}: sides must be multiples of {HALVED}; give --{name} {nearest}")


def _choose_cases(
    config: Config, run: Path, data: Path | None, labels: Path | None, split: Path | None, fold: int | None
) -> None:
    """Write the run's config and, the first time, which cases it trains on and which it holds out."""
    run.mkdir(parents=True, exist_ok=True)
    with whole(run / "config.json") as aside:
        aside.write_text(config.model_dump_json(indent=2))
    if (run / "cases.json").exists():
        if data is not None:
            relocate(run / "cases.json", find_cases(data, labels))
        return
    seed = config.training.seed
    if data is None:
        data = run / "phantoms"
        write_dataset(data, count=config.phantoms, seed=seed, config=PhantomConfig())
    chosen = split_data(find_cases(data, labels), split, fold, config.validation_fraction, seed)
    training, validation = chosen.part("training"), chosen.part("validation")
    if problems := check_headers([*training, *validation]):  # seconds, where preprocessing takes an hour
        raise unusable(problems)
    save_split(run / "cases.json", training, validation, chosen.test)


def _cached(config: Config, run: Path, cache: Path, workers: int | None) -> tuple[list[CachedCase], list[CachedCase]]:
    """Preprocess the run's cases, and return those to train on and those to look at after each epoch."""
    training, validation = load_split(run / "cases.json")
    cached = prepare([*training, *validation], config.preprocessing, cache, workers)
    for_training, held_out = cached[: len(training)], cached[len(training) :]
    refuse_copies(for_training, held_out)
    return for_training, held_out[: config.validation_cases]


def _loss(config: Config) -> Callable[[nn.Module, Any], Tensor]:
    criterion = build_loss(config.loss)

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return criterion(model(batch["image"]), batch["label"], batch.get("skeleton"))

    return loss_of


def validate(model: nn.Module, cases: Sequence[CachedCase], config: Config) -> dict[str, list[float]]:
    """Dice and skeleton recall of whole cached cases, through the same sliding window that prediction uses.

    Skeleton recall is the share of the label's tubed skeleton that is found: it sees a lost thin branch, which Dice
    hardly does, and the cache has what it needs.
    """
    device = next(model.parameters()).device

    def network(window: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(window).to(device)).float().cpu().numpy()  # type: ignore[no-any-return]

    scores: dict[str, list[float]] = {METRIC: [], "skeleton_recall": []}
    for case in cases:
        image = np.asarray(case.image, np.float32)
        shape: Any = image.shape
        plan = plan_windows(shape, config.inference.window, config.inference.overlap)
        air = case.notes["pad_value"]
        difference, _ = slide(image, network, plan, blending=config.inference.blending, pad_value=air)
        scores[METRIC].append(dice(difference > 0, case.occupancy >= 128))
        scores["skeleton_recall"].append(float((difference[tuple(case.skeleton.T)] > 0).mean()))
    return scores
