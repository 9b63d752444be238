"""The tasks: their labels, verbs and model files. The single source of truth, quick to import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import SetupError, SkiagramError
from shared.report import installed_version, product_version, sha256_of

Precision = Literal["fp32", "int8"]
ModelKind = Literal["fp32", "int8", "gate"]
"""A task's network in either precision, and the small network before it, where a task has one."""

MODELS_VARIABLE = "SKIAGRAM_MODELS"
CHECKOUT_MODELS = Path(__file__).resolve().parents[1] / "data" / "models"

VERBS: Mapping[str, str] = {
    "demo": "the shipped model on a phantom or a shipped sample: what it finds, scores, time",
    "predict": "files or folders in, the same names out",
    "train": "train from a preset, on a data set or on phantoms",
    "evaluate": "scores of a model on a data set's split",
    "export": "a training run into one ONNX file, behind the parity gate",
    "phantom": "write a synthetic data set with exact truth",
    "info": "tasks, labels, models and engines",
}
"""What every task can do; a task's own verbs stand in its entry."""

_ENGINES = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime"), "openvino": ("openvino",)}
_HASHED_AT_ONCE_BYTES = 64 * 2**20  # some 0.15 s at 400 MB/s, the slowest hashing we expect


@dataclass(frozen=True, slots=True)
class Task:
    """One task: what it is, the labels of its output, and the names of its model files."""

    name: str
    summary: str
    labels: Mapping[int, str]
    models: Mapping[ModelKind, str]
    extra: str
    """The project extra that installs what prediction needs."""
    own_verbs: Mapping[str, str]

    @property
    def verbs(self) -> Mapping[str, str]:
        """Every verb of this task with one line each: the common ones, then its own."""
        return {**VERBS, **self.own_verbs}


_VERTEBRAE = (*(f"C{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))

TASKS: Mapping[str, Task] = {
    "bones": Task(
        name="bones",
        summary="fractures in radiographs, behind a gate that looks for bone: boxes with scores",
        labels={0: "background", 1: "fracture"},
        models={"fp32": "bones-fracture-fp32.onnx", "int8": "bones-fracture.onnx", "gate": "bones-gate.onnx"},
        extra="bones",
        own_verbs={
            "check": "look for what would spoil training in a data set",
            "sweep": "train and score over sizes, rates and epochs",
            "serve": "answer people in the browser and programs over HTTP",
        },
    ),
    "coronary": Task(
        name="coronary",
        summary="coronary arteries in CT angiography: mask, centreline tree, mesh",
        labels={0: "background", 1: "LCA", 2: "RCA", 3: "unassigned artery"},
        models={"fp32": "coronary.onnx", "int8": "coronary-int8.onnx"},
        extra="coronary",
        own_verbs={
            "check": "look for what would spoil training in a data set",
            "measure": "lengths, diameters and narrowings of a mask",
            "view": "the viewer: look at scans in the browser, segment and measure them",
        },
    ),
    "spine": Task(
        name="spine",
        summary="vertebrae C1 to L5 in spine films, outlined and named in anatomical order",
        labels=dict(enumerate(("background", *_VERTEBRAE))),
        models={"fp32": "spine.onnx", "int8": "spine-int8.onnx"},
        extra="spine",
        own_verbs={"merge": "exports of several kinds into one data set of 24 levels"},
    ),
}


def find_model(task: str, model: ModelKind, explicit: Path | None = None) -> Path:
    """Return a model file of ``task``: ``explicit`` (a file, or a folder of models), else the first place with one.

    Places in order: the folder named by SKIAGRAM_MODELS, the checkout's data/models. What was asked for explicitly
    is never replaced by something else. Raises SetupError that names every place tried.
    """
    if explicit is not None and explicit.is_file():
        return explicit
    name = TASKS[task].models[model]
    flag = "--gate" if model == "gate" else "--model"
    if explicit is not None:
        chosen = explicit / name if explicit.is_dir() else explicit
        if chosen.is_file():
            return chosen
        raise SetupError(f"{chosen}: no such model file; give {flag} an ONNX file or a folder that holds {name}")
    places = model_folders()
    for place in places:
        if (place / name).is_file():
            return place / name
    tried = ", ".join(str(place) for place in places)
    raise SetupError(f"{name}: no such model in {tried}; give {flag} FILE or set {MODELS_VARIABLE} to its folder")


def choose_model(
    task: str, precision: Literal["auto", "fp32", "int8"], device: str, explicit: Path | None = None
) -> Path:
    """Return the model file of ``task`` that suits the device: ``auto`` is INT8 on the CPU and float32 on CUDA.

    With ``auto``, where there is no file of the one, the other is taken. Raises as `find_model`.
    """
    from shared.runtime import cuda_is_plausible

    if precision != "auto":
        return find_model(task, precision, explicit)
    on_cpu = device == "cpu" or (device == "auto" and not cuda_is_plausible())
    wanted: tuple[Precision, ...] = ("int8", "fp32") if on_cpu else ("fp32", "int8")
    for kind in wanted:
        with suppress(SetupError):
            return find_model(task, kind, explicit)
    return find_model(task, "fp32", explicit)


def model_folders() -> tuple[Path, ...]:
    """Return the folders searched for models, in order. Raises SetupError if SKIAGRAM_MODELS names no folder."""
    named = os.environ.get(MODELS_VARIABLE)
    if not named:
        return (CHECKOUT_MODELS,)
    if not Path(named).is_dir():
        raise SetupError(f"{named}: {MODELS_VARIABLE} names it, but it is no folder; correct the variable or unset it")
    return (Path(named), CHECKOUT_MODELS)


def info(task: str, probe: Callable[[Path], Any] | None = None) -> dict[str, Any]:
    """Return what ``coronary info`` tells: version, labels, verbs, models found (size, sha256), engines installed.

    Versions come from package metadata, so nothing is imported. ``probe`` is called with each model file and really
    loads it; what it returns, or the error it ends in, joins that model's entry.
    """
    entry = TASKS[task]
    return {
        "schema_version": 1,
        "version": product_version(),
        "task": entry.name,
        "summary": entry.summary,
        "labels": {str(label): name for label, name in entry.labels.items()},
        "verbs": dict(entry.verbs),
        "models": {model: _model(task, model, probe) for model in entry.models},
        "engines": {engine: _first_version(wheels) for engine, wheels in _ENGINES.items()},
    }


def _first_version(wheels: tuple[str, ...]) -> str | None:
    return next((version for wheel in wheels if (version := installed_version(wheel))), None)


def _model(task: str, model: ModelKind, probe: Callable[[Path], Any] | None) -> dict[str, Any]:
    try:
        path = find_model(task, model)
    except SetupError as error:
        return {"found": False, "problem": str(error)}
    size = path.stat().st_size
    entry: dict[str, Any] = {"found": True, "path": str(path), "bytes": size}
    if size <= _HASHED_AT_ONCE_BYTES or probe is not None:
        entry["sha256"] = sha256_of(path)
    if probe is not None:
        try:
            entry["probe"] = probe(path)
        except SkiagramError as error:
            entry["problem"] = str(error)
    return entry
