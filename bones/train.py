"""Train a network of the bones task.

bones train --preset smoke                                     # a laptop: minutes, on phantoms it makes itself
bones train --preset lite --data FOLDER --init vgg16.safetensors
bones train --preset best --data FRACATLAS --device cuda
bones train --resume runs/bones/lite                           # go on where it stopped
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bones.cases import Case, find_cases
from bones.config import Config
from bones.data import Fractures, collate, prepare
from bones.model import build
from bones.preprocess import boxes_to_square, fit
from bones.splitting import Split, read_parts, split_cases
from bones.ssd import SingleShotDetector
from bones.train_pictures import draw_examples
from bones.weights import initialise
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.writers import write_json
from shared.metrics.detection import Compared, average_precision, match
from shared.report import Report, recorded
from shared.training import fit as train_network
from shared.training_data import batches
from shared.training_devices import first_then_others, gathered, launch
from shared.training_folder import RunFolder
from shared.types import Detections

log = logging.getLogger(__name__)

METRIC = {"detector": "ap50", "gate": "iou"}
EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """Cases with their cached pictures."""

    cases: Sequence[Case]
    files: Sequence[Path]


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

    The folder holds ``config.json``, ``cases.json`` (who was trained on, who held out), ``report.json``,
    ``examples.png`` and what ``shared.training.fit`` leaves. Called again with the same folder it goes on from
    ``last.ckpt``, with the same cases; ``data`` may then be left out.

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
    arguments = {"data": data, "split": split, "init": init, "out": run}
    report = Report("bones", "train", arguments, config)
    report.device = f"{fabric.device.type} x {fabric.world_size}" if fabric.world_size > 1 else str(fabric.device)
    report.engine, report.precision = f"PyTorch {torch.__version__}", config.training.precision
    tell = say if first else log.debug

    def prepared() -> tuple[Prepared, Prepared]:
        chosen = choose_cases(config, run, data, split, classes, write=first)
        folder = cache or run / "cache"
        workers = None if first else 1  # the others find everything done
        parts = [[case for case in part if case.boxes is not None] for part in (chosen.training, chosen.validation)]
        for part, name in zip(parts, ("train on", "look at after each epoch"), strict=True):
            if not part:
                raise SetupError(f"{data or run}: has no picture with boxes to {name}; see bones check")
        one, other = (Prepared(part, prepare(part, folder, config.sampling.stored_px, workers)) for part in parts)
        return one, other

    with recorded(report, run / "report.json") if first else nullcontext():
        with report.stage("prepare"):
            training, held_out = first_then_others(fabric, prepared)
        samples = Fractures(training.cases, training.files, config)
        boxes = sum(len(case.labels) for case in training.cases)
        tell(
            f"{len(training.cases)} pictures with {boxes} boxes to train on, "
            f"{len(held_out.cases)} pictures looked at after each epoch"
        )
        with report.stage("train"):
            model = train_network(
                build=partial(_started, config, init, run, tell),
                loss_of=_loss,
                batches_from=partial(_batches, samples, config),
                validate=partial(_validate, held_out, config, fabric),
                run=run,
                settings=config.training,
                samples=samples.pictures,
                metric=METRIC["detector"],
                blocks=_blocks,
                fabric=fabric,
                on_step=on_progress,
                say=say,
            )
        if first:
            _show(model, held_out, config, run / "examples.png")
            report.outputs = [run / name for name in ("best.ckpt", "metrics.jsonl", "curves.png", "examples.png")]
            lines = (run / "metrics.jsonl").read_text().splitlines()
            report.results = {"history": [json.loads(line) for line in lines]}
    return run


def choose_cases(
    config: Config,
    run: Path,
    data: Path | None,
    split: Path | None,
    classes: Mapping[str, str] | None = None,
    *,
    write: bool = True,
) -> Split:
    """Return the run's cases by what they are for; the first time, decide it and write it down with the config."""
    run.mkdir(parents=True, exist_ok=True)
    if write:
        with whole(run / "config.json") as aside:
            aside.write_text(config.model_dump_json(indent=2))
    source = run / "source.json"
    if data is None and source.exists():
        data = Path(json.loads(source.read_text())["data"])
    if data is None:
        data = _phantoms(config, run / "phantoms")
    cases = find_cases(data, config.detector.labels, classes)
    if not (run / "cases.json").exists():
        chosen = split_cases(cases, config, split)
        for note in chosen.notes:
            log.warning("%s", note)
        parts = {name: [case.name for case in getattr(chosen, name)] for name in ("training", "validation", "test")}
        write_json({"data": str(data.resolve()), "split": str(split) if split else None}, source)
        write_json(parts, run / "cases.json")
    by_name = {case.name: case for case in cases}
    known = read_parts(run / "cases.json", cases)
    training, validation, test = (
        tuple(by_name[name] for name in known[part]) for part in ("training", "validation", "test")
    )
    return Split(training, validation, test)


def _phantoms(config: Config, folder: Path) -> Path:
    """Make the phantoms of a run without data, once."""
    from bones.phantom import write_dataset

    if not folder.exists():
        write_dataset(folder, count=config.phantoms, seed=config.training.seed)
    return folder


def _started(config: Config, init: Path | None, run: Path, say: Callable[[str], None]) -> nn.Module:
    """Build the network with the weights that a new run starts from; a resumed one has its own."""
    model = build(config)
    if not RunFolder(run, METRIC["detector"], active=False).last.exists():
        say(f"starts from {initialise(model, config, init)}")
    return model


def _loss(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch["image"], batch["targets"])
    return loss


def _batches(samples: Fractures, config: Config, step: int, rank: int, world: int) -> Any:
    return batches(samples, config.training, step, rank, world, collate)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return what may compute its activations again: the trunk's stages."""
    if not isinstance(model, SingleShotDetector):
        return []
    trunk: Any = model.ssd.backbone
    return [trunk.features, *trunk.extra]


def _validate(held_out: Prepared, config: Config, fabric: Fabric, model: nn.Module, rank: int, world: int) -> Any:
    """Return AP50 over the held-out pictures of all processes, the same in each of them."""
    places = range(rank, len(held_out.cases), world)
    compared = detect(model, [held_out.cases[k] for k in places], [held_out.files[k] for k in places], config)
    everyone = [picture for part in gathered(fabric, compared) for picture in part]
    return {METRIC["detector"]: [average_precision(match(everyone))]}


def detect(model: nn.Module, cases: Sequence[Case], files: Sequence[Path], config: Config) -> list[Compared]:
    """Return what a detector finds on cached pictures beside the true boxes, in pixels of the network's square.

    The picture is fitted to the square as prediction does it; IoU is the same there as on the picture itself.
    """
    side, batch = config.detector.size_px, config.training.micro_batch or config.training.batch
    device = next(model.parameters()).device
    names = dict(enumerate(config.detector.labels, 1))
    numbers = {label: number for number, label in names.items()}
    compared: list[Compared] = []
    for start in range(0, len(cases), batch):
        pictures = [fit(np.load(file).astype(np.float32) / 255, side) for file in files[start : start + batch]]
        image = torch.from_numpy(np.stack(pictures)[:, None]).to(device)
        for case, found in zip(cases[start : start + batch], model.detect(image), strict=True):  # type: ignore[operator]
            boxes, scores = (found[name].float().cpu().numpy() for name in ("boxes", "scores"))
            detections = Detections(boxes, scores, found["labels"].cpu().numpy(), names, side, side)
            assert case.boxes is not None
            truth = boxes_to_square(case.boxes, side, case.width_px, case.height_px)
            labels = np.array([numbers[label] for label in case.labels], np.int64)
            compared.append(Compared(detections, truth, labels))
    return compared


def _show(model: nn.Module, held_out: Prepared, config: Config, path: Path) -> None:
    """Draw found and true boxes on some held-out pictures, those with a box first."""
    order = sorted(range(len(held_out.cases)), key=lambda k: (not held_out.cases[k].labels, held_out.cases[k].name))
    cases, files = ([held_out.cases[k] for k in order[:EXAMPLES]], [held_out.files[k] for k in order[:EXAMPLES]])
    side = config.detector.size_px
    pictures = [fit(np.load(file).astype(np.float32) / 255, side) for file in files]
    draw_examples([case.name for case in cases], pictures, detect(model, cases, files, config), path)
