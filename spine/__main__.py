"""The command line ``spine``: parses, calls, exits. Heavy imports happen inside the verbs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from shared.cli import Answer, Voice, run_command
from shared.cli_flags import Device, Flag, Precision, Quiet
from shared.errors import SetupError
from shared.registry import TASKS
from spine.training_verbs import evaluate, export, merge, train_verb


def demo(
    out: Path = Path("runs/demo/spine"),
    device: Device = "auto",
    precision: Precision = "auto",
    voice: Quiet = Voice(),
) -> Answer:
    """Find and name the vertebrae of the shipped film with the shipped model.

    Args:
        out: folder for every output.
        device: where the network runs.
        precision: INT8 or float32; auto is INT8 on the CPU, if there is such a model.
        voice: how to speak.
    """
    from spine.demo import demo as run

    return run(out, device, precision, voice)


def predict(
    inputs: Positional[list[Path]],
    /,
    out: Path,
    model: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    operating_point: str = "default",
    confidence: float | None = None,
    iou: float | None = None,
    second_look: Literal["unsure", "always", "never"] = "unsure",
    overwrite: Flag = False,
    threads: int = 0,
    voice: Quiet = Voice(),
) -> Answer:
    """Find and name the vertebrae of films: PNG, JPEG, TIFF, BMP, DICOM, or folders of them.

    Args:
        inputs: films, or folders to search for films.
        out: folder for the results; each keeps its film's name.
        model: an ONNX file or a folder of them; the shipped model if left out.
        device: where the network runs.
        precision: INT8 or float32; auto is INT8 on the CPU, if there is such a model, and float32 on CUDA.
        operating_point: which of the model's: default, reference or reference-f1.
        confidence: what a candidate's best score must exceed, instead of the operating point's.
        iou: overlap from which on two candidates are one, instead of the operating point's.
        second_look: look at a film again, mirrored (test-time augmentation): if its names are unsure, always or never.
        overwrite: do again what is done.
        threads: CPU threads; 0 leaves it to the engine.
        voice: how to speak.
    """
    from shared.cli_predict import predict_all
    from shared.report import Report
    from spine.batch import AT_ONCE, made_with, plan, predict_case, write_tables
    from spine.predict import Predictor

    if not inputs:
        raise SetupError("no film was named; give files or folders")
    items = plan(inputs, out)
    arguments = {
        "inputs": inputs, "out": out, "device": device, "precision": precision, "operating_point": operating_point,
        "confidence": confidence, "iou": iou, "second_look": second_look, "overwrite": overwrite,
        "threads": threads,
    }  # fmt: skip

    at_once = 1 if threads == 1 else min(AT_ONCE, len(items))

    def load() -> Predictor:
        predictor = Predictor(
            model, device, precision=precision, operating_point=operating_point, threads=threads,
            second_look=second_look, at_once=at_once,
        )  # fmt: skip
        predictor.operating_point = predictor.operating_point.but(confidence, iou)
        return predictor

    return predict_all(
        Report("spine", "predict", arguments), items, out, load,
        lambda item, predictor, part: predict_case(item, predictor),
        _line, voice, made_with=made_with, overwrite=overwrite, at_once=at_once,
        after=lambda predictor: write_tables(items, out),
    )  # fmt: skip


def _line(record: Any) -> str:
    """One line for people about one film."""
    from spine.predict import in_words

    found = record.outcome.result
    words = in_words(found["vertebrae"], found["from"], found["to"])
    text = f"{record.item.path}: {words}, {record.seconds:.2f} s"
    return "\n  ".join([text, *record.outcome.findings])


def phantom(
    out: Path,
    count: int = 20,
    seed: int = 0,
    view: Literal["ap", "lateral", "both"] = "both",
    region: Literal["cervical", "thoracic", "lumbar", "whole", "all"] = "all",
    long_side_px: int = 640,
    voice: Quiet = Voice(),
) -> Answer:
    """Write a data set of synthetic films with exact outlines and names, as `spine merge` writes it.

    Args:
        out: folder to make.
        count: how many films.
        seed: random seed; a film is a function of it and its number.
        view: from the front, from the side, or both in turn.
        region: which part of the spine, or all in turn.
        long_side_px: longer side of a film.
        voice: how to speak.
    """
    from spine.phantom import PhantomConfig, write_dataset

    if count < 1:
        raise SetupError(f"--count {count}: must be at least 1")
    changes: dict[str, Any] = {"long_side_px": long_side_px}
    changes |= {"views": (view,)} if view != "both" else {}
    changes |= {"regions": (region,)} if region != "all" else {}
    config = PhantomConfig.model_validate(changes)
    with voice.progress("phantoms", total=count) as update:
        films = write_dataset(out, count, seed, config, on_case=lambda done: update(done, None))
    voice.say(f"{len(films)} phantoms in {out}")
    return Answer({"out": out, "films": films})


def info(probe: Flag = False, voice: Quiet = Voice()) -> Answer:
    """Tell version, labels, models and engines.

    Args:
        probe: really load each model on the engine that `auto` would take.
        voice: how to speak.
    """
    from shared.registry import info as registry_info

    found = registry_info("spine", _probe if probe else None)
    voice.say(f"Skiagram {found['version']}: {found['summary']}. Research software, not a medical device.")
    voice.say(f"  labels: {', '.join(found['labels'].values())}")
    some = any(model["found"] for model in found["models"].values())
    for precision, model in found["models"].items():
        voice.say(
            f"  {precision} model: {model.get('path') or ('none; the other serves' if some else model['problem'])}"
        )
        if "probe" in model:
            voice.say(f"    runs with {model['probe']['engine']} on {model['probe']['device']}")
    for engine, version in found["engines"].items():
        voice.say(f"  {engine}: {version or 'not installed'}")
    return Answer(found)


def _probe(path: Path) -> dict[str, Any]:
    from spine.predict import Predictor

    predictor = Predictor(path)
    return {"engine": predictor.engine, "device": predictor.device, "precision": predictor.precision}


VERBS: dict[str, Callable[..., Answer]] = {
    "demo": demo,
    "predict": predict,
    "merge": merge,
    "evaluate": evaluate,
    "export": export,
    "phantom": phantom,
    "info": info,
}


def run(argv: list[str]) -> Answer | None:
    """Parse ``argv`` and do what it says; only the verb that is asked for is built, so that answers come at once."""
    verb = argv[0] if argv else ""
    if verb == "train":
        return tyro.cli(train_verb(argv[1:]), prog="spine train", args=argv[1:])
    if verb in VERBS:
        return tyro.cli(VERBS[verb], prog=f"spine {verb}", args=argv[1:])
    verbs = {**VERBS, "train": train_verb([])}
    description = f"{TASKS['spine'].summary}. Research software, not a medical device."
    answer: Answer = tyro.extras.subcommand_cli_from_dict(
        verbs, prog="spine", description=description, args=argv or ["--help"]
    )
    return answer


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
