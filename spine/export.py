"""From a run folder to ``model.onnx`` and its INT8 twin."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shared.config import config_hash, load_config
from shared.errors import SetupError
from shared.export import export_onnx, quantise, update_metadata
from shared.io.radiograph import read_radiograph
from shared.report import Report, git_commit, product_version, recorded
from spine.cases import Film, load_films
from spine.config import LEVELS, Config
from spine.decode import BINS, OUTPUTS, STRIDES_PX
from spine.model import build, read_weights
from spine.model_file import METADATA_VERSION, OperatingPoint
from spine.predict import Predictor
from spine.preprocess import STRIDE_PX, preprocess

# Ours lets in what the order of all can still make sense of; how much is chosen for each model (`spine.tuning`). The
# others are the reference project's: where its F1 peaked, and what it tuned by hand (precision 0.8, recall 0.7).
OPERATING_POINTS = {
    "default": OperatingPoint(confidence=0.1, iou=0.55),
    "reference-f1": OperatingPoint(confidence=0.257, iou=0.55),
    "reference": OperatingPoint(confidence=0.7, iou=0.55),
}
PARITY_FILMS = 2
INT8_FILMS = 48
FLOAT_FIRST = 2  # convolutions; rounded, they alone made most of INT8's error, at a hundredth of the time
GATE_FILMS = 80
UNSURE_BELOW = 0.65  # one film of five has a name less sure; looking again at all of them gains little more


class RawHead(nn.Module):
    """A YOLO-seg network up to its four maps (``spine.decode.OUTPUTS``), its batch normalisations folded in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        fused: Any = copy.deepcopy(network).eval().float()
        self.network = fused.fuse(verbose=False)
        # The head alone: in training mode it returns its maps and decodes nothing. Its layers stay as they are.
        self.network.model[-1].training = True

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps of ``n 3 y x`` in 0..1."""
        maps = self.network.predict(image)
        return maps["boxes"], maps["scores"], maps["mask_coefficient"], maps["proto"]

    def train(self, mode: bool = True) -> RawHead:
        """Stay as it is: exporters set modes, and the head's own would change what it returns."""
        return self


def export_run(
    run: Path, out: Path, *, int8: bool = False, provenance: str = "", metadata: Mapping[str, Any] | None = None
) -> Path:
    """Export a run's best weights to ``out``; with ``int8`` the quantised file instead, float32 beside it.

    Parity and the INT8 gate are judged on the films that the run looked at after each epoch, and the default operating
    point is chosen on them; INT8 ranges come from its training films. ``provenance`` says what data these were;
    ``metadata`` joins what stands in the file anyway.

    Raises:
        SetupError: the folder is no run with weights.
        GateError: the exported file differs from torch, or INT8 loses too much average precision or too many names.
    """
    if int8 and "-int8" not in out.name:
        raise SetupError(f"{out}: an INT8 file keeps its float32 twin beside it; name it NAME-int8.onnx")
    config = load_config(Config, run / "config.json")
    weights = run / "best.ckpt"
    if not weights.exists():
        raise SetupError(f"{weights}: not there; train until the first validation, or give another run")
    network = build(config)
    network.load_state_dict(read_weights(weights))
    films = load_films(run / "films.json")
    held = films["validation"]
    fp32 = out.with_name(out.name.replace("-int8", "")) if int8 else out
    notes = model_metadata(config, provenance) | dict(metadata or {})
    export_network(network, [film.image for film in held[:PARITY_FILMS]], fp32, notes)
    _point(fp32, held)
    if int8:
        from spine.evaluate import evaluate

        quantise(
            fp32,
            out,
            inputs_of([film.image for film in films["training"][:INT8_FILMS]], config.size_px),
            score=lambda path: evaluate(path, held[:GATE_FILMS], device="cpu").gate(),
            correct_bias=True,
            mean_range=True,
            float_first=FLOAT_FIRST,
            prepare=lambda path: _point(path, held),
        )
    return out


def _point(model: Path, films: Sequence[Film]) -> None:
    """Choose how a model's candidates are to be taken, and write it into its file: rounded scores are others."""
    from spine.tuning import choose

    predictor = Predictor(model, "cpu")
    once, twice = choose(predictor, films), choose(predictor, films, mirrored=True)
    points = {name: point.model_dump() for name, point in (OPERATING_POINTS | {"default": once.point}).items()}
    second = {"below": UNSURE_BELOW, "confidence": twice.point.confidence, **twice.name_trust}
    shares = {"right_names_by_confidence": once.shares, "right_names_by_confidence_mirrored": twice.shares}
    update_metadata(model, {"operating_points": points, **once.name_trust, "second_look": second, **shares})


def finish(
    run: Path, *, device: str = "auto", on_case: Callable[[int, str], None] = lambda done, film: None
) -> tuple[Path, Any]:
    """Export a run to ``RUN/model.onnx`` and score it on the run's held-out films into ``RUN/scores``."""
    from spine.evaluate import evaluate_films

    model = export_run(run, run / "model.onnx", provenance=f"the run {run.name}")
    held = load_films(run / "films.json")["validation"]
    report = Report("spine", "evaluate", {"model": model, "split": "validation", "device": device})
    with recorded(report, run / "scores" / "report.json"):
        return model, evaluate_films(Predictor(model, device), held, run / "scores", report, on_case)


def export_network(network: nn.Module, films: Sequence[Path], out: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network as ONNX of any film's size, if the engines compute what torch does on these films.

    Raises:
        GateError: they do not; nothing is written.
    """
    inputs = inputs_of(films, int(metadata["size_px"]))
    small = np.ascontiguousarray(inputs[0][..., : 4 * STRIDE_PX, : 3 * STRIDE_PX])  # another size than any film's
    export_onnx(RawHead(network), [*inputs, small], out, dict(metadata), outputs=OUTPUTS)


def inputs_of(films: Sequence[Path], size_px: int) -> list[np.ndarray]:
    """Return the network's inputs of films."""
    return [preprocess(read_radiograph(film).array, size_px)[0] for film in films]


def model_metadata(config: Config, provenance: str) -> dict[str, Any]:
    """Return everything needed to use the model, and where it came from."""
    return {
        "metadata_version": METADATA_VERSION,
        "task": "spine",
        "precision": "fp32",
        "labels": list(LEVELS),
        "input": {"layout": "n c y x", "unit": "grey 0..1, bone bright", "channels": 3, "multiple_of": STRIDE_PX},
        "size_px": config.size_px,
        "outputs": {"names": OUTPUTS, "strides_px": STRIDES_PX, "bins": BINS},
        "operating_points": {name: point.model_dump() for name, point in OPERATING_POINTS.items()},
        "training": {"config": config.model_dump(mode="json"), "config_sha256": config_hash(config)},
        "provenance": provenance,
        "licence": "AGPL-3.0-or-later",
        "version": product_version(),
        "commit": git_commit(Path(__file__).resolve().parents[1]),
        "intended_use": "research on spine radiographs; not a medical device",
    }
