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
        "Precision": predictor.precision,
        "Runs on": f"{predictor.engine}, {predictor.device}",
        "Provenance": metadata.get("provenance") or "not said",
        "Scores": _scores(metadata, training),
        "Licence": metadata.get("licence") or "not said",
        "Use": metadata.get("intended_use", ""),
        "Version": metadata.get("version", ""),
        "SHA-256": predictor.session.sha256,
    }
    return {name: str(text) for name, text in rows.items() if text}


def _scores(metadata: dict[str, Any], training: dict[str, Any]) -> str:
    scores = dict(metadata.get("scores") or {})
    if not scores and isinstance(training.get("validation_dice"), float):
        scores = {"validation Dice": training["validation_dice"]}
    if isinstance(metadata.get("int8_gate"), dict):
        scores |= {f"{name} Dice at the INT8 gate": value for name, value in metadata["int8_gate"].items()}
    told = []
    for name, value in scores.items():
        value = value.get("mean") if isinstance(value, dict) else value
        if isinstance(value, int | float):
            told.append(f"{name} {value:.3f}")
    return ", ".join(told) or "not said"


@cache
def models(device: str) -> Models:
    """The models of this process."""
    return Models(device)
