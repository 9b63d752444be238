"""The command line ``coronary``: parses, calls, exits. Heavy imports happen inside the verbs."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from shared.cli import Answer, Voice, run_command
from shared.errors import SetupError
from shared.registry import TASKS

Device = Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")]
Precision = Literal["auto", "fp32", "int8"]
Quiet = Annotated[Voice, arg(name=""), FlagCreatePairsOff]
Flag = FlagCreatePairsOff[bool]
PresetName = Literal["smoke", "lite", "best", "reference-baseline", "reference", "reference-ablation"]


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
    from coronary.batch import Options, plan, predict_case
    from coronary.predict import Predictor
    from shared.cohort import run_cohort
    from shared.report import Report, recorded

    if not inputs:
        raise SetupError("no scan was named; give files or folders")
    options = Options(series, dicom_seg)
    items = plan(inputs, out, options)
    arguments = {
        "inputs": inputs, "out": out, "device": device, "precision": precision, "overwrite": overwrite,
        "series": series, "dicom_seg": dicom_seg, "any_scan": any_scan, "threads": threads,
    }  # fmt: skip
    with recorded(Report("coronary", "predict", arguments), out / "report.json") as report:
        with report.stage("load model"):
            predictor = Predictor(model, device, precision=precision, threads=threads, contrast_check=not any_scan)
        report.use_model(predictor.session.path, predictor.session.sha256)
        report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
        with voice.progress("coronary", total=len(items)) as update:
            done = 0

            def windows(ran: int, of: int) -> None:
                update(done + 0.95 * ran / of, items[done].path.name)

            def ended(record: Any) -> None:
                nonlocal done
                done += 1
                update(done, None)
                report.add_record(record)
                if record.reason is None:
                    voice.say(_line(record))
                else:
                    print(f"error: {record.reason}", file=sys.stderr)

            result = run_cohort(
                items, lambda item: predict_case(item, predictor, options, windows), overwrite=overwrite, on_end=ended
            )
        report.exit_status = result.exit_status
        if result.stopped is not None:
            report.failures.append(str(result.stopped) or "interrupted")
            print(f"error: {report.failures[-1]}", file=sys.stderr)
    counts = {status: len(result.having(status)) for status in ("done", "skipped", "failed")}
    voice.say(
        f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed; results in {out} "
        f"({predictor.engine} on {predictor.device}, {predictor.precision})"
    )
    if counts["skipped"]:
        voice.say("skipped were there already, with whatever settings made them; --overwrite makes them again")
    return Answer(report.as_dict(), result.exit_status)


def _line(record: Any) -> str:
    """One line for people about one scan."""
    if record.status != "done":
        return f"{record.item.path}: {record.status}"
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


def train_verb(argv: list[str]) -> Callable[..., Answer]:
    """Build the verb ``train``: its flags are the config's fields, their defaults those of the preset in ``argv``."""
    from coronary.config import PRESETS, Config
    from shared.config import apply_preset, load_config

    flags = dict(itertools.pairwise(argv)) | dict(a.split("=", 1) for a in argv if "=" in a)
    chosen = apply_preset(Config(), PRESETS.get(flags.get("--preset", ""), {}))
    old = Path(flags.get("--resume", "."))
    ablation = (old / "ablation.json").exists()
    if "--resume" in flags and (old / "ablation.json" if ablation else old / "config.json").exists():
        chosen = load_config(Config, old / ("baseline/config.json" if ablation else "config.json"))

    def train(
        preset: PresetName | None = None,
        data: Path | None = None,
        labels: Path | None = None,
        split_file: Path | None = None,
        fold: int | None = None,
        out: Path | None = None,
        resume: Path | None = None,
        cache: Path | None = None,
        finish: bool = True,
        config: OmitArgPrefixes[Config] = chosen,
        voice: Quiet = Voice(),
    ) -> Answer:
        """Train from a preset; without --data on phantoms that it makes itself. Then export and score the run.

        Args:
            preset: what to start from; every field of it is a flag below.
            data: folder in ImageCAS's layout, ID.img.nii.gz beside ID.label.nii.gz.
            labels: folder of other labels than those beside the scans.
            split_file: which cases are for what: ImageCAS's workbook or a JSON file; else a seeded split.
            fold: which of the file's splits.
            out: run folder; runs/coronary/PRESET if left out.
            resume: a run folder to go on with; its own config is where the flags below start from.
            cache: folder for preprocessed cases, which runs may share; in the run folder if left out.
            finish: at the end, export to RUN/model.onnx and score it on the held-out cases.
            config: the run's settings.
            voice: how to speak.
        """
        if preset is None and resume is None:
            raise SetupError(f"no preset was named; give --preset {' | '.join(PRESETS)}, or --resume RUN")
        if resume is not None and not ablation and not (resume / "config.json").exists():
            raise SetupError(f"{resume}: no run there (it has no config.json); give the folder of a run")
        folder = resume or out or Path("runs/coronary") / str(preset)
        if resume is None and any((folder / name).exists() for name in ("last.ckpt", "ablation.json")):
            raise SetupError(f"{folder}: holds a run already; go on with --resume {folder}, or give another --out")
        source = {"data": data, "labels": labels, "split": split_file, "fold": fold, "cache": cache}
        return _train(config, folder, source, ablation or preset == "reference-ablation", finish, voice)

    return train


def _train(config: Any, folder: Path, source: dict[str, Any], ablation: bool, finish: bool, voice: Voice) -> Answer:
    """Train a run, or both runs of an ablation, and tell how to go on."""
    from coronary.ablation import ablate
    from coronary.export import finish as export_and_score
    from coronary.train import train
    from shared.training_devices import is_first_process

    with voice.progress("training") as update:

        def on_progress(step: int, total: int, loss: float) -> None:
            update(step, f"step {step} of {total}, loss {loss:.3f}", total)

        told: dict[str, Any] = {"on_progress": on_progress, "say": voice.say}
        if ablation:
            rows = ablate(config, folder, **source, **told, device=config.training.device)
            for row in rows:
                if row["cases"]:
                    voice.say("{metric:32} {baseline:.3f} without, {augmented:.3f} with augmentation".format_map(row))
            voice.say(f"comparison.png and comparison.csv in {folder}")
            return Answer({"run": folder, "comparison": rows})
        train(config, folder, **source, **told)
    if not is_first_process():
        return Answer()
    if not finish:
        voice.say(f"best and last checkpoints in {folder}; next: coronary export {folder} --out model.onnx")
        return Answer({"run": folder, "config": config})
    with voice.progress("export and scores") as update:
        model, scores = export_and_score(
            folder, cache=source["cache"], device=config.training.device, on_case=lambda n, case: update(n, case)
        )
    _tell_scores(scores, voice)
    voice.say(f"{model}, scored on the held-out cases: {folder / 'scores'}")
    return Answer({"run": folder, "config": config, "model": model, "scores": scores.summary()})


def _tell_scores(scores: Any, voice: Voice) -> None:
    for metric, found in scores.summary().items():
        if found is not None and found["mean"] is not None:
            voice.say(f"{metric:32} {found['mean']:.3f} +- {found['sd'] or 0:.3f}")


def check(data: Positional[Path], /, labels: Path | None = None, voice: Quiet = Voice()) -> Answer:
    """Look for what would spoil training: missing halves, unequal grids, empty or wrong labels, copies.

    Args:
        data: folder in ImageCAS's layout.
        labels: folder of other labels than those beside the scans.
        voice: how to speak.
    """
    from coronary.check import check_folder

    with voice.progress("looking") as update:
        cases, problems = check_folder(data, labels, on_case=lambda done, total: update(done, None, total))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    voice.say(f"{len(cases)} cases in {data}, " + (f"{len(problems)} problems" if problems else "nothing wrong"))
    content = {"cases": [case.name for case in cases], "problems": [str(problem) for problem in problems]}
    return Answer(content, int(bool(problems)))


def evaluate(
    data: Path,
    model: Path | None = None,
    predictions: Path | None = None,
    split: str = "all",
    split_file: Path | None = None,
    fold: int | None = None,
    labels: Path | None = None,
    out: Path | None = None,
    device: Device = "auto",
    voice: Quiet = Voice(),
) -> Answer:
    """Score a model, or masks made by anything else, on labelled scans: scores.json, a CSV, figures, the worst three.

    Args:
        data: folder in ImageCAS's layout.
        model: an ONNX file.
        predictions: folder of masks named after the cases, instead of a model.
        split: training, validation or test of the split file, or all.
        split_file: which cases are for what; DATA/splits.json if left out and there.
        fold: which of the file's splits.
        labels: folder of other labels than those beside the scans.
        out: folder for the scores; runs/coronary/evaluate if left out.
        device: where the network runs.
        voice: how to speak.
    """
    from coronary.evaluate import evaluate_folder

    folder = out or Path("runs/coronary/evaluate")
    with voice.progress("evaluating") as update:
        scores = evaluate_folder(
            model, data, split, folder, device, lambda done, case: update(done, case),
            predictions=predictions, labels=labels, split_file=split_file, fold=fold,
        )  # fmt: skip
    for failure in scores.failures:
        print(f"error: {failure}", file=sys.stderr)
    _tell_scores(scores, voice)
    voice.say(f"in {folder}")
    return Answer({"scores": scores.summary(), "cases": scores.rows}, int(bool(scores.failures)))


def export(
    run: Positional[Path],
    /,
    out: Path,
    int8: Flag = False,
    provenance: str = "",
    cache: Path | None = None,
    voice: Quiet = Voice(),
) -> Answer:
    """Turn a run into one ONNX file, if it computes what torch does; with --int8 the quantised twin as well.

    Args:
        run: the run folder.
        out: the ONNX file; with --int8 name it NAME-int8.onnx, float32 goes to NAME.onnx.
        int8: quantise, if the loss in Dice stays within the gate.
        provenance: where the training data came from, for the model's metadata.
        cache: folder of preprocessed cases, where the run's is not in its own folder.
        voice: how to speak.
    """
    from coronary.export import export_run

    export_run(run, out, int8=int8, provenance=provenance, cache=cache)
    voice.say(f"wrote {out}")
    return Answer({"model": out})


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

    serve(address, port, device, open_browser=open_browser)
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
