"""The verbs of training: check, train, evaluate, export. Heavy imports happen inside them."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from shared.cli import Answer, Voice
from shared.cli_flags import Device, Flag, Quiet
from shared.errors import SetupError

PresetName = Literal["smoke", "lite", "best", "reference-baseline", "reference", "reference-ablation"]


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
        if resume is not None and any(given is not None for given in (preset, out, split_file, fold)):
            raise SetupError("--resume keeps the run's preset, folder and split; leave the flags of these out")
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
    from shared.training_failures import shown

    with shown(voice, "coronary", folder) as on_progress:
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
            spread = "" if found["sd"] is None else f" +- {found['sd']:.3f}"  # a single case has none
            voice.say(f"{metric:32} {found['mean']:.3f}{spread}")


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
    record: Flag = False,
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
        record: write the means into the model file, whose card then shows them.
        voice: how to speak.
    """
    from coronary.evaluate import evaluate_folder

    if record and model is None:
        raise SetupError("--record: there is no model to record the scores in; give --model")

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
    if record and model is not None:
        from shared.export import record_scores

        record_scores(model, scores.means() | {"cases": len(scores.rows), "data": data.name})
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
