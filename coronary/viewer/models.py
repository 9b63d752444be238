"""Which model is used, and what it says of itself."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coronary.predict import Predictor
from shared.errors import SetupError
from shared.registry import CHECKOUT_MODELS

PATH_VARIABLE = "MODEL_PATH"
PRECISIONS = {"int8": "INT8", "fp32": "float32"}
METRICS = {"dice": "Dice", "cl_dice": "clDice", "hd95_mm": "HD95 in mm", "surface_dice_1mm": "surface Dice at 1 mm"}
MOST_LOADED = 2  # models in memory at once: the one in use, and another visitor's


@dataclass(frozen=True, slots=True)
class Choice:
    """A model file, None for the shipped one, and why it is this one."""

    path: Path | None
    origin: str


def choose(uploaded: Path | None, typed: str) -> Choice:
    """Choose a model: uploaded, else by the path typed, MODEL_PATH, data/models/model.onnx if there, the shipped."""
    if uploaded is not None:
        return Choice(uploaded, "uploaded")
    if typed.strip():
        return Choice(Path(typed.strip()).expanduser(), "path")
    if os.environ.get(PATH_VARIABLE):
        return Choice(Path(os.environ[PATH_VARIABLE]).expanduser(), PATH_VARIABLE)
    own = CHECKOUT_MODELS / "model.onnx"
    return Choice(own, "data/models/model.onnx") if own.is_file() else Choice(None, "shipped")


class Models:
    """Loads a model once for all visitors; the one used longest ago is dropped for a third."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._loaded: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, choice: Choice) -> Predictor:
        """Load a model, or give it if it is loaded.

        Raises:
            SetupError: it is no coronary model that runs here; the text says why, without the path.
        """
        key: tuple[Any, ...] = ("shipped",)
        if choice.path is not None:
            try:
                state = choice.path.stat()
            except OSError as error:
                raise SetupError(f"no model can be read there ({error.strerror})") from error
            key = (str(choice.path), state.st_mtime_ns, state.st_size)
        with self._lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = Predictor(choice.path, self.device)
                except SetupError as error:
                    raise SetupError(str(error).removeprefix(f"{choice.path}: ")) from error
                while len(self._loaded) > MOST_LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]


def card(predictor: Predictor) -> dict[str, str]:
    """What a model says of itself, in words: labels, spacing, provenance, scores, licence."""
    metadata = predictor.session.metadata
    spacing = metadata.get("preprocessing", {}).get("spacing_mm", [])
    labels = metadata.get("labels", {})
    training = metadata.get("training", {})
    rows = {
        "File": predictor.session.path.name,
        "Labels": ", ".join(f"{value} {name}" for value, name in labels.items()),
        "Spacing": " x ".join(f"{mm:g}" for mm in spacing) + " mm",
        "Precision": PRECISIONS.get(predictor.precision, predictor.precision),
        "Runs on": f"{predictor.engine} on {predictor.device}",
        "Provenance": metadata.get("provenance") or "not said",
        "Scores": _scores(metadata, training),
        "Licence": metadata.get("licence") or "not said",
        "Use": metadata.get("intended_use", ""),
        "Version": metadata.get("version", ""),
        "SHA-256": predictor.session.sha256,
    }
    return {name: str(text) for name, text in rows.items() if text}


def _scores(metadata: dict[str, Any], training: dict[str, Any]) -> str:
    """The scores that were recorded in the file, and on what; else those that training and the INT8 gate left."""
    scores = dict(metadata.get("scores") or {})
    cases, data = scores.pop("cases", None), scores.pop("data", None)
    means = _means(scores)
    told = [f"{METRICS[name]} {means[name]:.3f}" for name in METRICS if name in means]
    if told:
        where = f" on {cases} cases" if cases else ""
        return ", ".join(told) + where + (f" of {data}" if data else "")
    gate = metadata.get("int8_gate")
    left = {"Dice in validation": training.get("validation_dice")}
    left |= {f"{PRECISIONS.get(name, name)} Dice at the gate": value for name, value in (gate or {}).items()}
    return ", ".join(f"{name} {value:.3f}" for name, value in _means(left).items()) or "not said"


def _means(scores: dict[str, Any]) -> dict[str, float]:
    """Scores that are numbers; of those with an interval, their mean."""
    means = {name: value.get("mean") if isinstance(value, dict) else value for name, value in scores.items()}
    return {name: float(value) for name, value in means.items() if isinstance(value, int | float)}


@cache
def models(device: str) -> Models:
    """The models of this process."""
    return Models(device)
