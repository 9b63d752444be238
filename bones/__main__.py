"""The command line ``bones``: parses, calls, exits. Heavy imports happen inside the verbs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from bones.training_verbs import check, evaluate, export, sweep_verb, train_verb
from shared.cli import Answer, Voice, run_command
from shared.cli_flags import Device, Flag, Precision, Quiet
from shared.errors import SetupError
from shared.registry import TASKS

OperatingPoint = Literal["screening", "balanced", "specific"]


def demo(
    out: Path = Path("runs/demo/bones"),
    seed: int = 7_000_001,
    device: Device = "auto",
    precision: Precision = "auto",
    voice: Quiet = Voice(),
) -> Answer:
    """Look at a shipped X-ray and at a phantom with breaks that training never saw; score the phantom.

    Args:
        out: folder for every output.
        seed: random seed of the phantom.
        device: where the networks run.
        precision: INT8 or float32; auto is INT8 on the CPU.
        voice: how to speak.
    """
    from bones.demo import demo as run

    return run(out, seed, device, precision, voice)


def predict(
    inputs: Positional[list[Path]],
    /,
    out: Path,
    model: Path | None = None,
    gate: Literal["none"] | Path | None = None,
    operating_point: OperatingPoint = "balanced",
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Flag = False,
    threads: int = 0,
    voice: Quiet = Voice(),
) -> Answer:
    """Find fractures in radiographs: PNG, JPEG, TIFF, BMP or DICOM files, or folders of them.

    Args:
        inputs: pictures, or folders to search for pictures.
        out: folder for the results; each keeps its picture's name.
        model: the detector's ONNX file or a folder of models; the shipped one if left out.
        gate: the gate's ONNX file or a folder of models, or none; the shipped one if left out.
        operating_point: how much is reported: screening reports more, specific less.
        device: where the networks run.
        precision: INT8 or float32; auto is INT8 on the CPU and float32 on CUDA.
        overwrite: do again what is done.
        threads: CPU threads; 0 leaves it to the engine.
        voice: how to speak.
    """
    from bones.batch import made_with, plan, predict_case, write_tables
    from bones.predict import Predictor
    from shared.cli_predict import predict_all
    from shared.report import Report

    if not inputs:
        raise SetupError("no picture was named; give files or folders")
    items = plan(inputs, out)
    arguments = {
        "inputs": inputs, "out": out, "gate": gate, "operating_point": operating_point, "device": device,
        "precision": precision, "overwrite": overwrite, "threads": threads,
    }  # fmt: skip
    report = Report("bones", "predict", arguments)

    def load() -> Predictor:
        predictor = Predictor(
            model, device, gate=gate, precision=precision, operating_point=operating_point, threads=threads
        )
        report.results["gate"] = predictor.gate and {"name": predictor.gate.path.name, "sha256": predictor.gate.sha256}
        return predictor

    return predict_all(
        report,
        items,
        out,
        load=load,
        work=lambda item, predictor, part: predict_case(item, predictor),
        line=_line,
        voice=voice,
        made_with=made_with,
        overwrite=overwrite,
        after=lambda predictor: write_tables(items, out, predictor.names),
    )


def _line(record: Any) -> str:
    """One line for people about one picture."""
    found = record.outcome.result
    if found["gate_passed"] is False:
        return f"{record.item.path}: {record.outcome.findings[-1]}"
    boxes = f"{found['detections'] or 'no'} {'box' if found['detections'] == 1 else 'boxes'}"
    best = f", the best scores {found['best_score']:.2f}" if found["detections"] else ""
    return "\n  ".join([f"{record.item.path}: {boxes}{best}, {record.seconds:.1f} s", *record.outcome.findings])


def serve(
    host: str = "127.0.0.1",
    port: int = 8010,
    preload: Flag = False,
    model: Path | None = None,
    gate: Path | None = None,
    operating_point: OperatingPoint | None = None,
    device: Device | None = None,
    precision: Precision | None = None,
    new_key: Flag = False,
    voice: Quiet = Voice(),
) -> Answer:
    """Serve pages and JSON until Ctrl-C; every setting is also an environment variable (SKIAGRAM_...).

    Args:
        host: address to listen on; 127.0.0.1 is for this machine alone, any other needs a key.
        port: to listen on.
        preload: load the detector at start, not on the first picture that passes the gate.
        model: the detector's ONNX file or a folder of models; the shipped one if left out.
        gate: the gate's ONNX file or a folder of models.
        operating_point: how much is reported: screening reports more, specific less.
        device: where the networks run.
        precision: INT8 or float32; auto is INT8 on the CPU and float32 on CUDA.
        new_key: make an API key, print it and what SKIAGRAM_API_KEYS may hold, and end.
        voice: how to speak.
    """
    from bones.service.auth import new_key as made
    from bones.service.serve import serve as run

    if new_key:
        key, hashed = made()
        voice.say(f"key, for whoever may ask: {key}\nfor SKIAGRAM_API_KEYS: {hashed}")
        return Answer({"key": key, "hash": hashed})
    chosen = {
        "preload": preload or None, "model": model, "gate": gate, "operating_point": operating_point, "device": device,
        "precision": precision,
    }  # fmt: skip
    given = {name: value for name, value in chosen.items() if value is not None}
    run(host, port, quiet=voice.quiet or voice.json, **given)
    return Answer({"host": host, "port": port})


def phantom(
    out: Path,
    count: int = 1,
    seed: int = 0,
    first_id: int = 1,
    size_px: int = 512,
    broken: float = 0.7,
    overwrite: Flag = False,
    voice: Quiet = Voice(),
) -> Answer:
    """Write synthetic radiographs of limbs with exact boxes and masks, as a COCO data set.

    Args:
        out: folder to write to.
        count: how many.
        seed: random seed; a picture is a function of it and its id.
        first_id: id of the first picture.
        size_px: longest side of a picture.
        broken: share of pictures with at least one break.
        overwrite: write over pictures that are there.
        voice: how to speak.
    """
    from bones.phantom import PhantomConfig, write_dataset

    if count < 1:
        raise SetupError(f"--count {count}: must be at least 1")
    there = next((path for path in out.glob("*/_annotations.coco.json")), None)
    if there and not overwrite:
        raise SetupError(f"{out}: holds a data set already; give another --out, or --overwrite")
    config = PhantomConfig(size_px=size_px, broken=broken)
    with voice.progress("phantoms", total=count) as update:
        cases = write_dataset(out, count, seed, config, first_id=first_id, on_case=lambda n: update(n, None))
    voice.say(f"{len(cases)} phantoms in {out}")
    return Answer({"out": out, "cases": cases})


def info(probe: Flag = False, voice: Quiet = Voice()) -> Answer:
    """Tell version, labels, models and engines.

    Args:
        probe: really load each model on the engine that `auto` would take.
        voice: how to speak.
    """
    from shared.registry import info as registry_info

    found = registry_info("bones", _probe if probe else None)
    voice.say(f"Skiagram {found['version']}: {found['summary']}. Research software, not a medical device.")
    for label, name in found["labels"].items():
        voice.say(f"  label {label}: {name}")
    for kind, model in found["models"].items():
        voice.say(f"  {kind} model: {model.get('path', model.get('problem'))}")
        if "probe" in model:
            voice.say(f"    runs with {model['probe']['engine']} on {model['probe']['device']}")
    for engine, version in found["engines"].items():
        voice.say(f"  {engine}: {version or 'not installed'}")
    return Answer(found)


def _probe(path: Path) -> dict[str, Any]:
    from bones.predict import Gate, Predictor
    from shared.runtime import read_metadata

    if read_metadata(path).get("network") == "gate":
        session = Gate(path).session
        return {"engine": session.engine, "device": session.device}
    predictor = Predictor(path, gate="none")
    return {"engine": predictor.engine, "device": predictor.device, "precision": predictor.precision}


VERBS: dict[str, Callable[..., Answer]] = {
    "demo": demo,
    "predict": predict,
    "check": check,
    "evaluate": evaluate,
    "export": export,
    "phantom": phantom,
    "serve": serve,
    "info": info,
}


BUILT = {"train": train_verb, "sweep": sweep_verb}
"""Verbs whose flags depend on what else stands on the command line."""


def run(argv: list[str]) -> Answer | None:
    """Parse ``argv`` and do what it says; only the verb that is asked for is built, so that answers come at once."""
    verb = argv[0] if argv else ""
    if verb in BUILT:
        return tyro.cli(BUILT[verb](argv[1:]), prog=f"bones {verb}", args=argv[1:])
    if verb in VERBS:
        return tyro.cli(VERBS[verb], prog=f"bones {verb}", args=argv[1:])
    verbs = {**VERBS, **{name: build([]) for name, build in BUILT.items()}}
    description = f"{TASKS['bones'].summary}. Research software, not a medical device."
    answer: Answer = tyro.extras.subcommand_cli_from_dict(
        verbs, prog="bones", description=description, args=argv or ["--help"]
    )
    return answer


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
