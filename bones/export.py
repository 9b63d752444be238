"""From a run folder to ``model.onnx``, gate or detector, and its INT8 twin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from bones.cases import Case
from bones.config import Config
from bones.decode import YOLO_SELECTION, Selection
from bones.evaluate import evaluate_cases, from_model, is_labelled, note_model, points_of
from bones.evaluate_gate import GateScores, evaluate_gate
from bones.gate import GateSettings
from bones.masks import has_bone_mask
from bones.model import build
from bones.predict import METADATA_VERSION, OPERATING_POINTS, Gate, Predictor
from bones.preprocess import fit
from bones.scores import Scores
from bones.scoring import FALSE_BOXES_PER_PICTURE, bone_iou, choose_operating_points, compare
from bones.splitting import group_cases
from bones.train import choose_cases
from shared.config import config_hash, load_config
from shared.errors import SetupError
from shared.export import PARITY, export_onnx, quantise, update_metadata
from shared.io.atomic import whole
from shared.io.radiograph import read_radiograph
from shared.metrics.detection import average_precision, match
from shared.report import Report, git_commit, product_version, recorded

CALIBRATED = 24  # pictures that INT8 ranges are taken from
JUDGED = 60  # pictures that INT8 is judged on
POINTED = 120  # pictures that operating points are chosen on
# Its shapes depend on how much it finds, which torch's newer exporter cannot express and OpenVINO computes otherwise
# (boxes 100 px away, where ONNX Runtime's are within 0.002 px). Masks are read off features at these boxes' places, so
# they differ by up to a hundredth.
MASKRCNN_OPTIONS: Mapping[str, Any] = {"traced": True, "engines": ("onnxruntime",), "tolerance": 0.02}

T = TypeVar("T")


def export_run(run: Path, out: Path, *, int8: bool = False, provenance: str = "") -> Path:
    """Export a run's best weights to ``out``; with ``int8`` the quantised file instead, float32 beside it.

    Parity and the INT8 gate are judged on the run's validation pictures, and a detector's operating points chosen on
    them: on pictures it has learnt it marks less that is none. INT8 ranges come from its training pictures.
    ``provenance`` says what data these were. The files appear when they are whole, operating points included.

    Raises:
        SetupError: the folder is no finished run.
        GateError: the exported file differs from torch, or INT8 loses too much.
    """
    if int8 and "-int8" not in out.name:
        raise SetupError(f"{out}: an INT8 file keeps its float32 twin beside it; name it NAME-int8.onnx")
    config = load_config(Config, run / "config.json")
    weights = run / "best.ckpt"
    if not weights.exists():
        raise SetupError(f"{weights}: not there; train until the first validation, or give another run")
    checkpoint: dict[str, Any] = torch.load(weights, map_location="cpu", weights_only=True)
    model = build(config)
    model.load_state_dict(checkpoint["model"])
    split = choose_cases(config, run, None, None)
    network = GateExport(config) if config.network == "gate" else DetectorExport(config)
    samples = squares(some(split.validation, 2), network.size_px)
    fp32 = out.with_name(out.name.replace("-int8", "")) if int8 else out
    metadata = _metadata(config, checkpoint, provenance) | network.metadata(model)
    with whole(fp32) as plain, whole(out) if int8 else nullcontext(plain) as final:
        export_onnx(
            network.exported(model.eval()), samples, plain, metadata,
            outputs=network.outputs, free_size=False, **{"tolerance": network.tolerance, **network.options},
        )  # fmt: skip
        if int8:
            judged = some(network.usable(split.validation), JUDGED)
            calibration = squares(some(split.training, CALIBRATED), network.size_px)
            score = partial(network.score, cases=judged)
            quantise(plain, final, calibration, score, correct_bias=network.correct_bias)
        for name, value in network.chosen(final, some(network.usable(split.validation), POINTED)).items():
            for file in {plain, final}:
                update_metadata(file, {name: value})
    return out


class GateExport:
    """What is the gate's own in an export: a probability for each pixel, judged by the IoU of bone."""

    outputs = ("probability",)
    tolerance = 0.02  # SegNet puts values back where maxima stood: at a few pixels two corners are as good as equal
    options: Mapping[str, Any] = {}
    correct_bias = False  # a normalisation follows each convolution

    def __init__(self, config: Config) -> None:
        self.settings = config.gate
        self.size_px = config.gate.size_px

    def exported(self, model: nn.Module) -> nn.Module:
        """Return the network in the form that is exported."""
        from bones.segnet import exported

        return exported(model)

    def metadata(self, model: nn.Module) -> dict[str, Any]:
        """Return what prediction needs to know; the thresholds are the defaults until better ones are chosen."""
        return {
            "network": "gate", "kind": self.settings.kind, "labels": {"1": "bone"}, "size_px": self.size_px,
            "gate": GateSettings().model_dump(mode="json"),
            "intended_use": "tells radiographs of bone from other pictures; research only, not a medical device",
        }  # fmt: skip

    def usable(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the cases whose bone is drawn."""
        return [case for case in cases if has_bone_mask(case)]

    def score(self, path: Path, cases: Sequence[Case]) -> float:
        """Return the mean IoU of bone over the cases."""
        gate = Gate(path, "cpu")
        each = [bone_iou(gate(read_radiograph(case.picture)).mask, case) for case in cases]
        return float(np.mean([iou for iou in each if iou is not None]))

    def chosen(self, path: Path, cases: Sequence[Case]) -> dict[str, Any]:
        """Return no thresholds: pictures that are no radiographs are needed to choose them (``bones.gate_tuning``)."""
        return {}


class DetectorExport:
    """What is a detector's own in an export: boxes, judged by AP50, and its operating points."""

    correct_bias = True
    tolerance = PARITY

    def __init__(self, config: Config) -> None:
        self.settings = config.detector
        self.size_px = config.detector.size_px
        self.options: Mapping[str, Any] = MASKRCNN_OPTIONS if config.detector.kind == "maskrcnn" else {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return {
            "ssd300_vgg16": ("logits", "deltas"),
            "yolo": ("predictions",),
            "maskrcnn": ("boxes", "labels", "scores", "masks"),
        }[self.settings.kind]

    def exported(self, model: nn.Module) -> nn.Module:
        """Return the network in the form that is exported."""
        if self.settings.kind == "maskrcnn":
            from bones.maskrcnn import ExportedInstances

            return ExportedInstances(model)
        return model

    def metadata(self, model: nn.Module) -> dict[str, Any]:
        """Return what prediction needs to know; the operating points are 0 until they are chosen."""
        found: dict[str, Any] = {
            "network": "detector", "kind": self.settings.kind, "size_px": self.size_px,
            "labels": {"0": "background"} | {str(k): name for k, name in enumerate(self.settings.labels, 1)},
            "operating_points": dict.fromkeys(OPERATING_POINTS, 0.0),
            "intended_use": "research on fractures in radiographs of bone; not a medical device",
        }  # fmt: skip
        if self.settings.kind == "ssd300_vgg16":
            from bones.ssd import SingleShotDetector, anchor_metadata

            assert isinstance(model, SingleShotDetector)
            found |= {"anchors": anchor_metadata(model), "selection": Selection().model_dump(mode="json")}
        if self.settings.kind == "maskrcnn":
            found |= {"engine": "onnxruntime"}
        if self.settings.kind == "yolo":
            found |= {"selection": YOLO_SELECTION.model_dump(mode="json"), "licence": "AGPL-3.0-or-later"}
        return found

    def usable(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the cases of which it is known where fractures are; others would count as without."""
        return [case for case in cases if is_labelled(case)]

    def score(self, path: Path, cases: Sequence[Case]) -> float:
        """Return AP50 over the cases."""
        return average_precision(match(compare(Predictor(path, "cpu", gate="none"), cases)))

    def chosen(self, path: Path, cases: Sequence[Case]) -> dict[str, Any]:
        """Return the operating points, chosen on the cases."""
        matched = match(compare(Predictor(path, "cpu", gate="none"), cases))
        return {
            "operating_points": choose_operating_points(matched),
            "operating_points_chosen": {
                "false_boxes_per_picture": FALSE_BOXES_PER_PICTURE, "pictures": len(cases), "of": "validation",
            },
        }  # fmt: skip


def finish(
    run: Path, *, device: str = "auto", on_case: Callable[[int, str], None] = lambda done, case: None
) -> tuple[Path, Scores | GateScores]:
    """Export a run to ``RUN/model.onnx`` and score it, without a gate, on the run's held-out cases: ``RUN/scores``."""
    model = export_run(run, run / "model.onnx", provenance=f"the run {run.name}")
    config = load_config(Config, run / "config.json")
    held_out, out = choose_cases(config, run, None, None).validation, run / "scores"
    report = Report("bones", "evaluate", {"model": model, "split": "validation", "device": device})
    with recorded(report, out / "report.json"):
        if config.network == "gate":
            return model, evaluate_gate(model, held_out, out, report, device, on_case=on_case)
        predictor = Predictor(model, device, gate="none")
        note_model(report, predictor)
        cases = [case for case in held_out if is_labelled(case)]
        points, groups = points_of(predictor), group_cases(cases)
        return model, evaluate_cases(from_model(predictor), points, cases, groups, out, report, on_case)


def squares(cases: Iterable[Case], size_px: int) -> list[np.ndarray]:
    """Return pictures as a network is given them, ``1 1 y x`` each."""
    return [fit(read_radiograph(case.picture).array, size_px)[None, None] for case in cases]


def some(items: Sequence[T], count: int) -> list[T]:
    """Return at most so many, spread evenly over all."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[k] for k in chosen]


def _metadata(config: Config, checkpoint: Mapping[str, Any], provenance: str) -> dict[str, Any]:
    """Return what a model file says of any network of this task, and where it came from."""
    return {
        "metadata_version": METADATA_VERSION,
        "task": "bones",
        "precision": "fp32",
        "input": {"layout": "n c y x", "channels": 1, "range": [0, 1], "fit": "both sides to size_px, bilinear"},
        "training": {
            "config": config.model_dump(mode="json"), "config_sha256": config_hash(config),
            "steps": checkpoint.get("step"), "validation": checkpoint.get("score"),
        },
        "provenance": provenance,
        "licence": "Apache-2.0",
        "version": product_version(),
        "commit": git_commit(Path(__file__).resolve().parents[1]),
    }  # fmt: skip
