"""Train a network of the bones task.

bones train --preset smoke                                     # a laptop: minutes, on phantoms it makes itself
bones train --preset lite --data FOLDER --init vgg16.safetensors
bones train --preset best --data FRACATLAS --device cuda
bones train --preset reference-gate --data FOLDER              # the gate: pictures with bone masks
bones train --resume runs/bones/lite                           # go on where it stopped
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import nn

from bones.cases import find_cases
from bones.config import Config
from bones.data import Prepared, collate, prepare
from bones.model import build
from bones.splitting import Split, read_parts, split_cases
from bones.train_detector import DetectorTraining
from bones.train_gate import GateTraining
from bones.weights import initialise
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.writers import write_json
from shared.report import Report, recorded
from shared.training import fit
from shared.training_data import batches
from shared.training_devices import first_then_others, launch

log = logging.getLogger(__name__)


def train(
    config: Config,
    run: Path,
    data: Path | None = None,
    *,
    split: Path | None = None,
    init: Path | None = None,
    cache: Path | None = None,
    classes: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> Path:
    """Train the network that ``config.network`` names and return the run folder.

    The folder holds ``config.json``, ``cases.json`` (who was trained on, who held out), ``source.json``,
    ``report.json``, ``examples.png`` and what ``shared.training.fit`` leaves. Called again with the same folder it goes
    on from ``last.ckpt``, with the same cases; ``data`` may then be left out.

    Args:
        config: the run's settings.
        run: run folder.
        data: folder of labelled radiographs (see ``bones.cases``); None makes phantoms.
        split: file or folder that says which cases are for what (see ``bones.splitting``).
        init: weights to start from (see ``bones.weights``).
        cache: folder for pictures as they were read, which runs may share; in the run folder if left out.
        classes: which class of the data set is which label.
        on_progress: told step, total and loss after each step.
        say: told in a sentence how the run began and ended.

    Raises:
        SetupError: data, weights or settings do not do.
        DataError: labels cannot be used.
    """
    fabric = launch(config.training)
    first = fabric.global_rank == 0
    tell = say if first else log.debug
    job = (GateTraining if config.network == "gate" else DetectorTraining)(config, fabric)
    arguments = {"data": data, "split": split, "init": init, "classes": classes, "out": run}
    report = Report("bones", "train", arguments, config)
    report.device = f"{fabric.device.type} x {fabric.world_size}" if fabric.world_size > 1 else str(fabric.device)
    report.engine, report.precision = f"PyTorch {torch.__version__}", config.training.precision

    def prepared() -> tuple[Prepared, Prepared]:
        chosen = choose_cases(config, run, data, split, classes, write=first)
        training, held_out = (
            [case for case in part if job.is_usable(case)] for part in (chosen.training, chosen.validation)
        )
        if not training or not held_out:
            raise SetupError(f"{data or run}: has no {job.needs} to {'look at' if training else 'train on'}; see check")
        folder, workers = cache or run / "cache", None if first else 1  # the others find everything done
        return (
            prepare(training, folder, config.sampling.stored_px, workers, masks=job.masks),
            prepare(held_out, folder, config.sampling.stored_px, workers, masks=job.masks),
        )

    with recorded(report, run / "report.json") if first else nullcontext():
        with report.stage("prepare"):
            training, held_out = first_then_others(fabric, prepared)
        samples = job.samples(training)
        tell(f"{len(training.cases)} pictures to train on, {len(held_out.cases)} looked at after each epoch")
        with report.stage("train"):
            model = fit(
                build=partial(_started, config, init, run, tell),
                loss_of=job.loss,
                batches_from=lambda step, rank, world: batches(samples, config.training, step, rank, world, collate),
                validate=lambda model, rank, world: job.validate(model, held_out, rank, world),
                run=run,
                settings=config.training,
                samples=samples.pictures,
                metric=job.metric,
                blocks=job.blocks,
                fabric=fabric,
                on_step=on_progress,
                say=say,
            )
        if first:
            job.show(model, held_out, run / "examples.png")
            report.outputs = [run / name for name in ("best.ckpt", "metrics.jsonl", "curves.png", "examples.png")]
            lines = (run / "metrics.jsonl").read_text().splitlines()
            report.results = {"history": [json.loads(line) for line in lines]}
    return run


@rank_zero_only
def forget_failed_start(run: Path) -> None:
    """Let a run that starts anew choose its cases anew, where a start that failed before its first checkpoint chose."""
    for name in ("cases.json", "source.json"):
        (run / name).unlink(missing_ok=True)


def choose_cases(
    config: Config,
    run: Path,
    data: Path | None,
    split: Path | None,
    classes: Mapping[str, str] | None = None,
    *,
    write: bool = True,
) -> Split:
    """Return the run's cases by what they are for; the first time, decide it and write it down with the config.

    What is None is as it was then, so that whoever asks later (resuming, export, scores) gets the same cases; ``data``
    may have moved meanwhile.
    """
    run.mkdir(parents=True, exist_ok=True)
    source = run / "source.json"
    told = json.loads(source.read_text()) if source.exists() else {}
    if data is None:
        data = Path(told["data"]) if told else _phantoms(config, run / "phantoms")
    if classes is None:
        classes = told.get("classes")
    cases = find_cases(data, None if config.network == "gate" else config.detector.labels, classes)
    if not (run / "cases.json").exists():
        chosen = split_cases(cases, config, split)
        for note in chosen.notes:
            log.warning("%s", note)
        parts = {name: [case.name for case in getattr(chosen, name)] for name in ("training", "validation", "test")}
        write_json(parts, run / "cases.json")
    if write:
        with whole(run / "config.json") as aside:
            aside.write_text(config.model_dump_json(indent=2))
        origin = str(split) if split else told.get("split")
        write_json({"data": str(data.resolve()), "split": origin, "classes": classes and dict(classes)}, source)
    by_name = {case.name: case for case in cases}
    known = read_parts(run / "cases.json", cases)
    training, validation, test = (
        tuple(by_name[name] for name in known[part]) for part in ("training", "validation", "test")
    )
    return Split(training, validation, test)


def _phantoms(config: Config, folder: Path) -> Path:
    """Make the phantoms of a run without data, once."""
    from bones.phantom import write_dataset

    done = folder / "whole"
    if not done.exists():
        write_dataset(folder, count=config.phantoms, seed=config.training.seed)
        done.touch()
    return folder


def _started(config: Config, init: Path | None, run: Path, say: Callable[[str], None]) -> nn.Module:
    """Build the network with the weights that a new run starts from; a resumed one has its own."""
    model = build(config)
    if not (run / "last.ckpt").exists():
        say(f"starts from {initialise(model, config, init)}")
    return model
