"""The command line ``coronary``: parses, calls, exits. Heavy imports happen inside the verbs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from coronary.training_verbs import check, evaluate, export, train_verb
from shared.cli import Answer, Voice, run_command
from shared.cli_flags import Device, Flag, Precision, Quiet
from shared.errors import SetupError
from shared.registry import TASKS


def demo(
    out: Path = Path("runs/demo/coronary"),
    seed: int = 7_000_001,
    device: Device = "auto",
    precision: Precision = "auto",
    voice: Quiet = Voice(),
) -> Answer:
    """Make a phantom that training never saw, segment it with the shipped model, score it.

    Args:
        out: folder for every output.
        seed: random seed of the phantom.
        device: where the network runs.
        precision: INT8 or float32; auto is INT8 on the CPU.
        voice: how to speak.
    """
    from coronary.demo import demo as run

    return run(out, seed, device, precision, voice)


def predict(
    inputs: Positional[list[Path]],
    /,
    out: Path,
    model: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Flag = False,
    series: str | None = None,
    dicom_seg: Flag = False,
    any_scan: Flag = False,
    threads: int = 0,
    voice: Quiet = Voice(),
) -> Answer:
    """Segment scans: NIfTI, NRRD, MHA, DICOM series (folder or .zip), or folders of them.

    Args:
        inputs: scans, or folders to search for scans.
        out: folder for the results; each keeps its scan's name.
        model: an ONNX file or a folder of them; the shipped model if left out.
        device: where the network runs.
        precision: INT8 or float32; auto is INT8 on the CPU and float32 on CUDA.
        overwrite: do again what is done.
        series: DICOM series to read: its number, UID or description; else the largest axial one.
        dicom_seg: write DICOM SEG too (DICOM inputs only).
        any_scan: segment scans without visible contrast as well.
        threads: CPU threads; 0 leaves it to the engine.
        voice: how to speak.
    """
    from coronary.batch import Options, made_with, plan, predict_case
    from coronary.predict import Predictor
    from shared.cli_predict import predict_all
    from shared.report import Report

    if not inputs:
        raise SetupError("no scan was named; give files or folders")
    options = Options(series, dicom_seg, any_scan)
    arguments = {
        "inputs": inputs, "out": out, "device": device, "precision": precision, "overwrite": overwrite,
        "series": series, "dicom_seg": dicom_seg, "any_scan": any_scan, "threads": threads,
    }  # fmt: skip
    return predict_all(
        Report("coronary", "predict", arguments),
        plan(inputs, out, options),
        out,
        load=lambda: Predictor(model, device, precision=precision, threads=threads, contrast_check=not any_scan),
        work=lambda item, predictor, part: predict_case(
            item, predictor, options, lambda ran, of: part(0.95 * ran / of)
        ),
        line=_line,
        voice=voice,
        made_with=lambda predictor: made_with(predictor, options),
        overwrite=overwrite,
    )


def _line(record: Any) -> str:
    """One line for people about one scan."""
    found = record.outcome.result
    text = f"{record.item.path}: {found['branches']} branches, {found['length_mm']:.0f} mm, {record.seconds:.1f} s"
    return "\n  ".join([text, *record.outcome.findings])


def measure(mask: Positional[Path], /, out: Path | None = None, voice: Quiet = Voice()) -> Answer:
    """Measure the artery tree of a mask: lengths, diameters, narrowings. Labels 1 LCA, 2 RCA are kept if there.

    Args:
        mask: a NIfTI, NRRD or MHA mask.
        out: folder for the tree as JSON and CSV; nothing is written if left out.
        voice: how to speak.
    """
    from coronary.demo import tree_table
    from coronary.predict import mask_from_file
    from coronary.tree import measure as measure_tree
    from shared.io.volume import stem
    from shared.io.writers import write_csv, write_json

    tree = measure_tree(mask_from_file(mask))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = stem(mask).removesuffix(".tree")
        write_json(tree.to_dict(), out / f"{name}.tree.json")
        write_csv(tree.to_rows(), out / f"{name}.tree.csv")
    voice.say(*([tree_table(tree)] if tree.branches else ["no artery in this mask"]), *tree.notes)
    return Answer(tree.to_dict())


def phantom(
    out: Path,
    count: int = 1,
    seed: int = 0,
    first_id: int = 1,
    shape: tuple[int, int, int] = (256, 256, 200),
    spacing_mm: tuple[float, float, float] = (0.45, 0.45, 0.5),
    orientation: str = "LPS",
    contrast: bool = True,
    overwrite: Flag = False,
    voice: Quiet = Voice(),
) -> Answer:
    """Write synthetic scans with exact truth in ImageCAS's layout.

    Args:
        out: folder to write to.
        count: how many.
        seed: random seed; a case is a function of it and its id.
        first_id: id of the first case.
        shape: voxels along right-left, back-front, foot-head.
        spacing_mm: voxel size along the same axes.
        orientation: axis codes on disk, such as LPS or RAS.
        contrast: contrast agent in the blood.
        overwrite: write over cases that are there.
        voice: how to speak.
    """
    from coronary.phantom import PhantomConfig, write_dataset

    if count < 1:
        raise SetupError(f"--count {count}: must be at least 1")
    there = [i for i in range(first_id, first_id + count) if (out / f"{i}.img.nii.gz").exists()]
    if there and not overwrite:
        raise SetupError(f"{out}: holds case {there[0]} already; give another --first-id or --out, or --overwrite")
    config = PhantomConfig(shape=shape, spacing_mm=spacing_mm, orientation=orientation, contrast=contrast)
    with voice.progress("phantoms", total=count) as update:
        cases = write_dataset(out, count, seed, config, first_id=first_id, on_case=lambda n: update(n, None))
    voice.say(f"{len(cases)} phantoms in {out}")
    return Answer({"out": out, "cases": cases})


def view(
    address: str = "localhost",
    port: int = 8501,
    open_browser: Flag = False,
    device: Device = "auto",
    voice: Quiet = Voice(),
) -> Answer:
    """Serve the viewer, a page on which scans are looked at, segmented and measured, until Ctrl-C.

    Args:
        address: to listen on; localhost is for this machine alone.
        port: to listen on.
        open_browser: open the page too.
        device: where the network runs.
        voice: how to speak.
    """
    from coronary.viewer.serve import serve

    serve(address, port, device, open_browser=open_browser, quiet=voice.quiet or voice.json)
    return Answer({"address": address, "port": port})


def info(probe: Flag = False, voice: Quiet = Voice()) -> Answer:
    """Tell version, labels, models and engines.

    Args:
        probe: really load each model on the engine that `auto` would take.
        voice: how to speak.
    """
    from shared.registry import info as registry_info

    found = registry_info("coronary", _probe if probe else None)
    voice.say(f"Skiagram {found['version']}: {found['summary']}. Research software, not a medical device.")
    for label, name in found["labels"].items():
        voice.say(f"  label {label}: {name}")
    for precision, model in found["models"].items():
        voice.say(f"  {precision} model: {model.get('path', model.get('problem'))}")
        if "probe" in model:
            voice.say(f"    runs with {model['probe']['engine']} on {model['probe']['device']}")
    for engine, version in found["engines"].items():
        voice.say(f"  {engine}: {version or 'not installed'}")
    return Answer(found)


def _probe(path: Path) -> dict[str, Any]:
    from coronary.predict import Predictor

    predictor = Predictor(path)
    return {"engine": predictor.engine, "device": predictor.device, "precision": predictor.precision}


VERBS: dict[str, Callable[..., Answer]] = {
    "demo": demo,
    "predict": predict,
    "measure": measure,
    "check": check,
    "evaluate": evaluate,
    "export": export,
    "phantom": phantom,
    "view": view,
    "info": info,
}


def run(argv: list[str]) -> Answer | None:
    """Parse ``argv`` and do what it says; only the verb that is asked for is built, so that answers come at once."""
    verb = argv[0] if argv else ""
    if verb == "train":
        return tyro.cli(train_verb(argv[1:]), prog="coronary train", args=argv[1:])
    if verb in VERBS:
        return tyro.cli(VERBS[verb], prog=f"coronary {verb}", args=argv[1:])
    verbs = {**VERBS, "train": train_verb([])}
    description = f"{TASKS['coronary'].summary}. Research software, not a medical device."
    return tyro.extras.subcommand_cli_from_dict(
        verbs, prog="coronary", description=description, args=argv or ["--help"]
    )


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
