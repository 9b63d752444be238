"""The verbs of training: check, train, evaluate, export, sweep. Heavy imports happen inside them."""

import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from shared.cli import Answer, Voice
from shared.cli_flags import Device, Flag, Quiet
from shared.errors import SetupError

PresetName = Literal["smoke", "lite", "best", "reference", "reference-gate", "lite-gate"]
Network = Literal["gate", "detector"]
Kind = Literal["ssd300_vgg16", "yolo", "maskrcnn", "segnet", "unet"]


def train_verb(argv: list[str]) -> Callable[..., Answer]:
    """Build the verb ``train``: its flags are the config's fields, their defaults those of the preset in ``argv``.

    Of gate and detector only the settings of the one that is trained are flags: both have a size and a kind.
    """
    from bones.config import PRESETS, Config, Sampling
    from shared.config import apply_preset, load_config
    from shared.training_settings import TrainingSettings

    flags = dict(itertools.pairwise(argv)) | dict(a.split("=", 1) for a in argv if "=" in a)
    chosen = apply_preset(Config(), PRESETS.get(flags.get("--preset", ""), {}))
    old = Path(flags.get("--resume", "."))
    if "--resume" in flags and (old / "config.json").exists():
        chosen = load_config(Config, old / "config.json")
    part = "gate" if flags.get("--network", chosen.network) == "gate" else "detector"
    kind = type(getattr(chosen, part))

    def train(
        preset: PresetName | None = None,
        network: Network = chosen.network,
        data: Path | None = None,
        split_file: Path | None = None,
        classes: tuple[str, ...] = (),
        init: Path | None = None,
        out: Path | None = None,
        resume: Path | None = None,
        cache: Path | None = None,
        finish: bool = True,
        settings: OmitArgPrefixes[kind] = getattr(chosen, part),  # type: ignore[valid-type]
        sampling: OmitArgPrefixes[Sampling] = chosen.sampling,
        training: OmitArgPrefixes[TrainingSettings] = chosen.training,
        validation_fraction: float = chosen.validation_fraction,
        phantoms: int = chosen.phantoms,
        voice: Quiet = Voice(),
    ) -> Answer:
        """Train from a preset; without --data on phantoms that it makes itself. Then export and score the run.

        Args:
            preset: what to start from; every field of it is a flag below.
            network: which of the two is trained; its own settings are flags below.
            data: folder of labelled radiographs: FracAtlas, Roboflow, CVAT, COCO, VOC, YOLO, MURA, PH2.
            split_file: which pictures are for what: a JSON file or a folder of lists; else the data set's or a seeded
                split, in which no patient and no copy of a picture is on two sides.
            classes: NAME=LABEL, which class of the data set is which label.
            init: weights to start from: an earlier run, or a file.
            out: run folder; runs/bones/PRESET if left out.
            resume: a run folder to go on with; its own config is where the flags below start from.
            cache: folder for pictures as they were read, which runs may share; in the run folder if left out.
            finish: at the end, export to RUN/model.onnx and score it on the held-out pictures.
            settings: of the network.
            sampling: what is done to training pictures, after the split.
            training: of the training itself.
            validation_fraction: share of the groups held out where the data set has no split.
            phantoms: how many phantoms to make where no data folder is given.
            voice: how to speak.
        """
        if preset is None and resume is None:
            raise SetupError(f"no preset was named; give --preset {' | '.join(PRESETS)}, or --resume RUN")
        if resume is not None and not (resume / "config.json").exists():
            raise SetupError(f"{resume}: no run there (it has no config.json); give the folder of a run")
        if resume is not None and (classes or any(given is not None for given in (preset, out, split_file, init))):
            raise SetupError("--resume keeps the run's preset, folder, split, classes and weights; leave these out")
        folder = resume or out or Path("runs/bones") / str(preset)
        if resume is None and (folder / "last.ckpt").exists():
            raise SetupError(f"{folder}: holds a run already; go on with --resume {folder}, or give another --out")
        diff = {
            "network": network, part: settings, "sampling": sampling, "training": training,
            "validation_fraction": validation_fraction, "phantoms": phantoms,
        }  # fmt: skip
        source = {"data": data, "split": split_file, "init": init, "cache": cache, "classes": _pairs(classes)}
        return _train(apply_preset(chosen, diff), folder, source, finish, resume is not None, voice)

    return train


def _pairs(classes: tuple[str, ...]) -> dict[str, str] | None:
    """Read NAME=LABEL."""
    for text in classes:
        if "=" not in text:
            raise SetupError(f"--classes {text}: write NAME=LABEL, such as fissure=fracture")
    return dict(text.split("=", 1) for text in classes) or None


def _train(config: Any, folder: Path, source: dict[str, Any], finish: bool, resumed: bool, voice: Voice) -> Answer:
    """Train a run, and tell how to go on."""
    from bones.export import finish as export_and_score
    from bones.train import forget_failed_start, train
    from shared.training_devices import is_first_process
    from shared.training_failures import shown

    if not resumed:
        forget_failed_start(folder)
    with shown(voice, "bones", folder) as on_progress:
        train(config, folder, **source, on_progress=on_progress, say=voice.say)
    if not is_first_process():
        return Answer()
    if not finish:
        voice.say(f"best and last checkpoints in {folder}; next: bones export {folder} --out model.onnx")
        return Answer({"run": folder, "config": config})
    with voice.progress("export and scores") as update:
        model, scores = export_and_score(
            folder, device=config.training.device, on_case=lambda done, case: update(done, case)
        )
    _tell_scores(scores.means(), voice)
    voice.say(f"{model}, scored on the held-out pictures: {folder / 'scores'}")
    return Answer({"run": folder, "config": config, "model": model, "scores": scores.summary()})


def check(data: Positional[Path], /, voice: Quiet = Voice()) -> Answer:
    """Look for what would spoil training: unreadable pictures, bad boxes, missing labels, copies that cross a split.

    Args:
        data: folder of labelled radiographs: FracAtlas, Roboflow, CVAT, COCO, VOC, YOLO, MURA, PH2.
        voice: how to speak.
    """
    from bones.check import check_folder

    with voice.progress("looking") as update:
        found = check_folder(data, on_picture=lambda done, total: update(done, None, total))
    for problem in found.problems:
        print(f"{'note' if problem.note else 'error'}: {problem}", file=sys.stderr)
    voice.say(
        f"{found.pictures} pictures in {data} ({found.layout}): {found.with_boxes} with boxes, "
        f"{found.without_boxes} without, {found.unlabelled} unlabelled, {found.with_masks} with bone masks"
    )
    for label, count in found.labels.items():
        voice.say(f"  {label}: {count} boxes")
    notes = sum(problem.note for problem in found.problems)
    voice.say(f"errors: {len(found.problems) - notes}, notes: {notes}" if found.problems else "nothing wrong")
    content = {
        name: getattr(found, name)
        for name in ("layout", "pictures", "with_boxes", "without_boxes", "unlabelled", "with_masks", "patients")
    }
    content |= {"parts": dict(found.parts), "labels": dict(found.labels)}
    content |= {"problems": [str(problem) for problem in found.problems]}
    return Answer(content, int(not found.sound))


def evaluate(
    data: Path,
    model: Path | None = None,
    predictions: Path | None = None,
    split: str = "validation",
    split_file: Path | None = None,
    classes: tuple[str, ...] = (),
    gate: Literal["none"] | Path | None = None,
    others: Path | None = None,
    out: Path | None = None,
    device: Device = "auto",
    record: Flag = False,
    voice: Quiet = Voice(),
) -> Answer:
    """Score a detector, a gate, or boxes made by anything else: scores.json, a CSV, figures, the worst three.

    Args:
        data: folder of labelled radiographs.
        model: an ONNX file, of a detector or of a gate; the shipped detector if left out.
        predictions: folder of JSON files as `bones predict` writes them, instead of a model.
        split: training, validation or test of the split, or all.
        split_file: which pictures are for what; else the data set's own split, else that of the model's training.
        classes: NAME=LABEL, which class of the data set is which label.
        gate: the gate that a detector is also scored behind, or none; the shipped one if left out.
        others: folder of pictures that are no radiographs, for a gate's specificity.
        out: folder for the scores; runs/bones/evaluate if left out.
        device: where the networks run.
        record: write the means into the model file, whose card then shows them.
        voice: how to speak.
    """
    from bones.evaluate import evaluate_folder

    if record and model is None:
        raise SetupError("--record: there is no model to record the scores in; give --model")
    folder = out or Path("runs/bones/evaluate")
    with voice.progress("evaluating") as update:
        scores = evaluate_folder(
            model, data, split, folder, device, lambda done, case: update(done, case),
            predictions=predictions, gate=gate, others=others, split_file=split_file, classes=_pairs(classes),
        )  # fmt: skip
    for failure in scores.failures:
        print(f"error: {failure}", file=sys.stderr)
    if not scores.pictures:
        return Answer({"scores": {}, "cases": []}, 1)
    means = scores.means()
    _tell_scores(means, voice)
    voice.say(f"in {folder}")
    if record and model is not None:
        from shared.export import record_scores

        record_scores(model, means | {"cases": len(scores.pictures), "data": data.name})
    return Answer({"scores": scores.summary(), "cases": scores.rows()}, int(bool(scores.failures)))


def _tell_scores(means: Mapping[str, float], voice: Voice) -> None:
    for name, value in means.items():
        voice.say(f"{name:24} {value:.3f}")


def export(
    run: Positional[Path], /, out: Path, int8: Flag = False, provenance: str = "", voice: Quiet = Voice()
) -> Answer:
    """Turn a run into one ONNX file, if it computes what torch does; with --int8 the quantised twin as well.

    Args:
        run: the run folder.
        out: the ONNX file; with --int8 name it NAME-int8.onnx, float32 goes to NAME.onnx.
        int8: quantise, if what is lost in AP50, or for the gate in IoU, stays within bounds.
        provenance: where the training data came from, for the model's metadata.
        voice: how to speak.
    """
    from bones.export import export_run

    export_run(run, out, int8=int8, provenance=provenance)
    voice.say(f"wrote {out}")
    return Answer({"model": out})


def sweep_verb(argv: list[str]) -> Callable[..., Answer]:
    """Build the verb ``sweep``; the settings of every run start from the preset in ``argv``."""
    from bones.config import PRESETS, Config, Sampling
    from shared.config import apply_preset
    from shared.training_settings import TrainingSettings

    flags = dict(itertools.pairwise(argv)) | dict(a.split("=", 1) for a in argv if "=" in a)
    part = "gate" if flags.get("--task") == "gate" else "detector"
    preset_name = "reference-gate" if part == "gate" else "reference"
    chosen = apply_preset(Config(), PRESETS.get(flags.get("--preset", preset_name), {}) | {"network": part})
    kind = type(getattr(chosen, part))

    def sweep(
        task: Network = "detector",
        data: Path | None = None,
        sizes: tuple[int, ...] = (),
        lr: tuple[float, ...] = (),
        epochs: tuple[int, ...] = (),
        kinds: tuple[Kind, ...] = (),
        preset: PresetName | None = None,
        split_file: Path | None = None,
        classes: tuple[str, ...] = (),
        init: Path | None = None,
        out: Path | None = None,
        cache: Path | None = None,
        settings: Annotated[kind, arg(name=part)] = getattr(chosen, part),  # type: ignore[valid-type]
        sampling: Sampling = chosen.sampling,
        training: TrainingSettings = chosen.training,
        validation_fraction: float = chosen.validation_fraction,
        phantoms: int = chosen.phantoms,
        voice: Quiet = Voice(),
    ) -> Answer:
        """Train and score every combination of sizes, rates, epochs and networks; go on with what is missing.

        Args:
            task: which of the two networks.
            data: folder of labelled radiographs; phantoms that it makes itself if left out.
            sizes: sides of the network's square input, px; the preset's if left out, as for the next three.
            lr: learning rates.
            epochs: how many epochs.
            kinds: networks; of gates segnet and unet if left out.
            preset: what every run starts from; reference, or reference-gate, if left out.
            split_file: which pictures are for what; else the data set's or a seeded split.
            classes: NAME=LABEL, which class of the data set is which label.
            init: weights to start from, an earlier run or a file; a gate is then trained without them too.
            out: folder of all runs; runs/bones/sweep-TASK if left out.
            cache: folder for pictures as they were read; in --out if left out.
            settings: of the network, in every run.
            sampling: what is done to training pictures, after the split.
            training: of the training itself.
            validation_fraction: share of the groups held out where the data set has no split.
            phantoms: how many phantoms to make where no data folder is given.
            voice: how to speak.
        """
        diff = {
            part: settings, "sampling": sampling, "training": training, "validation_fraction": validation_fraction,
            "phantoms": phantoms,
        }  # fmt: skip
        lists = {"sizes": sizes, "rates": lr, "epochs": epochs, "kinds": kinds, "init": init}
        source = {"data": data, "split": split_file, "cache": cache, "classes": _pairs(classes)}
        return _sweep(apply_preset(chosen, diff), lists, out or Path(f"runs/bones/sweep-{task}"), source, voice)

    return sweep


def _sweep(config: Any, lists: dict[str, Any], folder: Path, source: dict[str, Any], voice: Voice) -> Answer:
    """Train and score all arms, and print the table."""
    from bones.sweep import arms_of, sweep, table_cells

    arms = arms_of(config, **lists)
    with voice.progress("sweep") as update:

        def on_progress(step: int, total: int, loss: float) -> None:
            update(step, f"step {step} of {total}, loss {loss:.3f}", total)

        rows = sweep(arms, folder, **source, on_progress=on_progress, say=voice.say)
    if not rows:
        return Answer()
    from rich.table import Table

    titles, cells = table_cells(rows, config.network)
    table = Table(*titles)
    for row in cells:
        table.add_row(*row)
    voice.say(table)
    voice.say(f"sweep.csv, sweep.json and sweep.png in {folder}")
    return Answer({"out": folder, "runs": rows})
