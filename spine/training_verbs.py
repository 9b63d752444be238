"""The verbs of training: merge, train, evaluate, export. Heavy imports happen inside them."""

import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from shared.cli import Answer, Voice
from shared.cli_flags import Device, Flag, Quiet
from shared.errors import SetupError

PresetName = Literal["smoke", "lite", "best", "reference"]


def train_verb(argv: list[str]) -> Callable[..., Answer]:
    """Build the verb ``train``: its flags are the config's fields, their defaults those of the preset in ``argv``."""
    from shared.config import apply_preset, load_config
    from spine.config import PRESETS, Config

    flags = dict(itertools.pairwise(argv)) | dict(a.split("=", 1) for a in argv if "=" in a)
    chosen = apply_preset(Config(), PRESETS.get(flags.get("--preset", ""), {}))
    old = Path(flags.get("--resume", ".")) / "config.json"
    if "--resume" in flags and old.exists():
        chosen = load_config(Config, old)

    def train(
        preset: PresetName | None = None,
        data: Path | None = None,
        init: Path | None = None,
        out: Path | None = None,
        resume: Path | None = None,
        finish: bool = True,
        config: OmitArgPrefixes[Config] = chosen,
        voice: Quiet = Voice(),
    ) -> Answer:
        """Train from a preset; without --data on phantoms that it makes itself. Then export and score the run.

        Args:
            preset: what to start from; every field of it is a flag below.
            data: folder that `spine merge` wrote.
            init: weights to begin with: a float32 .onnx model, a .safetensors file or a run's best.ckpt; random ones if
                left out.
            out: run folder; runs/spine/PRESET if left out.
            resume: a run folder to go on with; its own config is where the flags below start from.
            finish: at the end, export to RUN/model.onnx and score it on the films looked at after each epoch.
            config: the run's settings.
            voice: how to speak.
        """
        if preset is None and resume is None:
            raise SetupError(f"no preset was named; give --preset {' | '.join(PRESETS)}, or --resume RUN")
        if resume is not None and not (resume / "config.json").exists():
            raise SetupError(f"{resume}: no run there (it has no config.json); give the folder of a run")
        folder = resume or out or Path("runs/spine") / str(preset)
        if resume is None and (folder / "last.ckpt").exists():
            raise SetupError(f"{folder}: holds a run already; go on with --resume {folder}, or give another --out")
        return _train(config, folder, data, init, finish, voice)

    return train


def _train(config: Any, folder: Path, data: Path | None, init: Path | None, finish: bool, voice: Voice) -> Answer:
    """Train a run, and tell how to go on."""
    from shared.training_failures import shown
    from spine.train import ended, train

    with shown(voice, "spine", folder) as on_progress:
        train(config, folder, data, init=init, on_progress=on_progress, say=voice.say)
    if not finish or not ended(config, folder):
        voice.say(f"best and last checkpoints in {folder}; next: spine export {folder} --out model.onnx")
        return Answer({"run": folder, "config": config})
    from spine.export import finish as export_and_score

    with voice.progress("export and scores") as update:
        model, scores = export_and_score(
            folder, device=config.training.device, on_case=lambda done, film: update(done, film)
        )
    _tell_scores(scores, voice)
    voice.say(f"{model}, scored on the films looked at after each epoch: {folder / 'scores'}")
    return Answer({"run": folder, "config": config, "model": model, "scores": scores.means()})


def _tell_scores(scores: Any, voice: Voice) -> None:
    for name, value in scores.means().items():
        voice.say(f"{name:32} {value:.3f}")


def merge(
    sources: Positional[list[Path]],
    /,
    out: Path,
    split: Literal["keep", "new"] = "keep",
    patients: Path | None = None,
    aliases: Path | None = None,
    shifts: Path | None = None,
    seed: int = 0,
    voice: Quiet = Voice(),
) -> Answer:
    """Merge exports (Roboflow or YOLO-seg, COCO, corner landmarks) into one data set with the 24 levels in order.

    Args:
        sources: exports' folders, zip files unpacked, or files.
        out: folder to make.
        split: keep the parts that sources give their films and draw those of the others, or draw all anew.
        patients: a CSV of file and patient, whose films stay on one side.
        aliases: a JSON object of class names that are not known, to levels or `ignore`.
        shifts: a CSV of file and levels for films with wrong names; -1 makes C7 of T1; no number leaves one out.
        seed: random seed of a new split.
        voice: how to speak.
    """
    import json

    from spine.merge import REFUSED
    from spine.merge import merge as run
    from spine.sources import patients_from_table, shifts_from_table

    if not sources:
        raise SetupError("no export was named; give folders or files")
    try:
        names = None if aliases is None else dict(json.loads(aliases.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(f"{aliases}: is no JSON object of names ({error}); mend it or leave --aliases out") from error
    whose = None if patients is None else patients_from_table(patients)
    moved = None if shifts is None else shifts_from_table(shifts)
    with voice.progress("reading films") as update:
        merged = run(
            sources, out, split=split, patients=whose, aliases=names, shifts=moved, seed=seed,
            on_film=lambda done, total: update(done, None, total),
        )  # fmt: skip
    voice.say(_distribution(merged.rows()))
    for done, count in Counter(refusal.done for refusal in merged.refusals).items():
        voice.say(f"{done}: {count}; each with its reason in {out / REFUSED}")
    if merged.moved:
        voice.say(f"names moved on {merged.moved} films")
    films = ", ".join(f"{count} for {part}" for part, count in merged.films.items())
    voice.say(f"{merged.films.total()} films in {out}: {films}")
    if not merged.films["validation"] + merged.films["test"]:
        voice.say("no film is held out to score a model on; --split new draws some")
    return Answer(merged.as_dict())


def _distribution(rows: list[dict[str, Any]]) -> Any:
    """A table of how many of each level there are."""
    from rich.table import Table

    table = Table(*(str(name) for name in (rows[0] if rows else ())))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def evaluate(
    data: Path,
    model: Path | None = None,
    split: str = "validation",
    operating_point: str = "default",
    confidence: float | None = None,
    iou: float | None = None,
    second_look: Literal["unsure", "always", "never"] = "unsure",
    out: Path | None = None,
    device: Device = "auto",
    record: Flag = False,
    voice: Quiet = Voice(),
) -> Answer:
    """Score a model on labelled films: boxes, masks, names before and after ordering; tables, figures, worst films.

    Args:
        data: folder that `spine merge` or `spine phantom` wrote.
        model: an ONNX file or a folder of them; the shipped model if left out.
        split: training, validation or test of the data set, or all.
        operating_point: which of the model's: default, reference or reference-f1.
        confidence: what a candidate's best score must exceed, instead of the operating point's.
        iou: overlap from which on two candidates are one, instead of the operating point's.
        second_look: look at a film again, mirrored (test-time augmentation): if its names are unsure, always or never.
        out: folder for the scores; runs/spine/evaluate if left out.
        device: where the network runs.
        record: write the means into the model file, whose card then shows them.
        voice: how to speak.
    """
    from spine.evaluate import SHIFTS, evaluate_folder

    if record and model is None:
        raise SetupError("--record: the shipped model is not written to; give --model")
    if record and (operating_point, confidence, iou, second_look) != ("default", None, None, "unsure"):
        raise SetupError("--record: a model's scores are those of its defaults; leave operating point and looks out")
    folder = out or Path("runs/spine/evaluate")
    with voice.progress("evaluating") as update:
        scores = evaluate_folder(
            model, data, split, folder, device, lambda done, film: update(done, film),
            operating_point=operating_point, confidence=confidence, iou=iou, second_look=second_look,
        )  # fmt: skip
    for failure in scores.failures:
        print(f"error: {failure}", file=sys.stderr)
    if not scores.films:
        return Answer({"scores": {}, "films": []}, 1)
    _tell_scores(scores, voice)
    voice.say(f"in {folder}")
    if shifted := sum(scored.shift != 0 for scored in scores.films):
        voice.say(
            f"films named off by the same number of levels throughout: {shifted}, in {folder / SHIFTS}; look at them, "
            "and where the labels are wrong: spine merge --shifts"
        )
    if record and model is not None:
        from shared.export import record_scores

        record_scores(model, scores.means() | {"cases": len(scores.films), "data": f"{data.name}, {split}"})
    rows = [scored.row() for scored in scores.films]
    return Answer({"scores": scores.means(), "films": rows}, int(bool(scores.failures)))


def export(
    run: Positional[Path],
    /,
    out: Path,
    int8: Flag = False,
    provenance: str = "",
    untrained: tuple[str, ...] = (),
    voice: Quiet = Voice(),
) -> Answer:
    """Turn a run into one ONNX file, if it computes what torch does; with --int8 the quantised twin as well.

    Args:
        run: the run folder.
        out: the ONNX file; with --int8 name it NAME-int8.onnx, float32 goes to NAME.onnx.
        int8: quantise, if the loss in average precision and right names stays within the gate.
        provenance: where the training data came from, for the model's metadata.
        untrained: levels that no labelled film showed, such as C1 C2; films with such names bear a finding.
        voice: how to speak.
    """
    from shared.runtime import read_metadata
    from spine.config import LEVELS
    from spine.export import export_run

    if wrong := [level for level in untrained if level not in LEVELS]:
        raise SetupError(f"--untrained {' '.join(wrong)}: no such level; give C1 to C7, T1 to T12, L1 to L5")
    export_run(run, out, int8=int8, provenance=provenance, metadata={"untrained": list(untrained)})
    voice.say(f"wrote {out}")
    if int8 and not read_metadata(out)["int8_gate"]["fp32"]:
        voice.say("float32 scores 0 on the films held out, so the INT8 gate says nothing: train longer")
    return Answer({"model": out})
