"""Gate and detector per picture against the reference project's way: time and agreement; one run, one machine.

    uv run python benchmarks/bones_predict.py               # some fifteen minutes on 2 cores
    uv run python benchmarks/bones_predict.py --small       # at 300 px, a few pictures, to see that it works
    uv run python benchmarks/bones_predict.py --data DIR    # a data set of one's own in place of phantoms

The reference's way is torch, eager, float32: a SegNet of the reference's width at 224 px, then torchvision's SSD at
640 px with its own resizing, decoding and NMS. Models are loaded on both sides and the detector has the same weights:
the shipped one's (dequantised, where it is INT8), or random ones where none is shipped, with which AP50 says nothing.
Gate and detector are both run on every picture, whatever the gate says. Pictures are files on both sides; the folder's
time includes loading the models and writing every result.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw
from torch import nn

from bones.__main__ import run
from bones.cases import Case, find_cases
from bones.config import Config, Gate
from bones.export import DetectorExport, GateExport, some, squares
from bones.model import build
from bones.phantom import PhantomConfig, write_dataset
from bones.predict import METADATA_VERSION, OPERATING_POINTS, Predictor
from bones.scoring import compare
from bones.segnet import SegNet
from shared.errors import SetupError
from shared.export import export_onnx, quantise
from shared.io.radiograph import read_radiograph
from shared.io.tables import write_json
from shared.metrics.detection import Compared, average_precision, match
from shared.registry import choose_model, find_model
from shared.runtime import read_metadata
from shared.types import Detections

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_GATE = Gate(width=64, size_px=224)
UNTRAINED_GATE = Gate(width=16, size_px=224)
CALIBRATED = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks" / "bones")
    parser.add_argument("--data", type=Path, help="labelled radiographs; phantoms if left out")
    parser.add_argument("--pictures", type=int, default=20, help="how many are timed one by one")
    parser.add_argument("--folder", type=int, default=100, help="how many are timed as a folder; 0 for none")
    parser.add_argument("--scored", type=int, default=40, help="how many AP50 is measured on; 0 for none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="untrained, 300 px, a few pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.small:
        options.pictures, options.folder, options.scored = 3, 6, 4
    options.out.mkdir(parents=True, exist_ok=True)
    needed = max(options.pictures, options.folder, options.scored)
    cases = pictures(options.data, options.out, needed)
    shipped = None if options.small else shipped_model()
    config = Config.model_validate(read_metadata(shipped)["training"]["config"]) if shipped else Config()
    if options.small:
        config = config.model_copy(update={"detector": config.detector.model_copy(update={"size_px": 300})})
    detector = torch_detector(config, shipped)
    files = our_files(detector, config, shipped, options.out, cases)

    print(f"detector: {'the shipped weights' if shipped else 'random weights'}, {config.detector.size_px} px, "
          f"{options.threads} threads")  # fmt: skip
    reference = Reference(detector, SegNet(REFERENCE_GATE.width).eval())
    ours = {name: Predictor(path, "cpu", gate=files["gate"], threads=options.threads)
            for name, path in files.items() if name != "gate"}  # fmt: skip
    result: dict[str, Any] = {"shipped": bool(shipped), "size_px": config.detector.size_px, "threads": options.threads}
    result["per picture"] = per_picture(reference, ours, some(cases, options.pictures))
    if options.folder:
        result["folder"] = folder(reference, files, some(cases, options.folder), options.out, options.threads)
    if options.scored:
        result["ap50"] = ap50(reference, ours, some(cases, options.scored))
    write_json(result, options.out / "bones_predict.json")


def pictures(data: Path | None, out: Path, count: int) -> list[Case]:
    """Labelled pictures: those of ``data``, or phantoms, made once."""
    if data is not None:
        return find_cases(data, ("fracture",))
    made = out / f"phantoms-{count}"
    if not (made / "whole").exists():
        write_dataset(made, count, 9_000_001, PhantomConfig(size_px=1024))
        (made / "whole").touch()
    return find_cases(made, ("fracture",))


def shipped_model() -> Path | None:
    """The shipped detector, if there is one."""
    try:
        return choose_model("bones", "auto", "cpu")
    except (SetupError, KeyError):
        return None


def torch_detector(config: Config, shipped: Path | None) -> nn.Module:
    """The detector in torch, with the weights of the shipped file."""
    torch.manual_seed(0)
    model = build(config).eval()
    if shipped is not None:
        weights = weights_of(shipped)
        state = model.state_dict()
        model.load_state_dict({name: weights[name].reshape(tensor.shape) for name, tensor in state.items()})
    return model


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """A model file's weights by their torch names; those of an INT8 file as what they stand for."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = dict(arrays)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            whole, scale, zero = (arrays[name].astype(np.float32) for name in node.input)
            shape = [-1] + [1] * (whole.ndim - 1) if scale.ndim else []
            name = re.sub(r"^dq_output_|_\d+$", "", node.output[0])
            found[name] = (whole - zero.reshape(shape)) * scale.reshape(shape)
    if "view" in found:  # what the exporter makes of SSD's scale of its first features
        found["ssd.backbone.scale_weight"] = found.pop("view")
    return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in found.items()}


def our_files(
    detector: nn.Module, config: Config, shipped: Path | None, out: Path, cases: Sequence[Case]
) -> dict[str, Path]:
    """Our model files: float32 and INT8 of the same weights, and the gate."""
    files = {"float32": out / "fp32.onnx", "INT8": out / "int8.onnx"}
    kind = DetectorExport(config)
    common = {"metadata_version": METADATA_VERSION, "task": "bones", "precision": "fp32"}
    samples = squares(some(cases, CALIBRATED), kind.size_px)
    notes = common | kind.metadata(detector) | {"operating_points": dict.fromkeys(OPERATING_POINTS, 0.5)}
    export_onnx(detector, samples[:2], files["float32"], notes, outputs=kind.outputs, free_size=False,
                engines=("openvino",))  # fmt: skip
    if shipped is not None and read_metadata(shipped).get("precision") == "int8":
        files["INT8"] = shipped
    else:
        quantise(files["float32"], files["INT8"], samples, lambda path: 1.0)
    try:
        files["gate"] = find_model("bones", "gate")
    except (SetupError, KeyError):
        files["gate"] = out / "gate.onnx"
        gate = GateExport(Config(network="gate", gate=UNTRAINED_GATE))
        network = build(Config(network="gate", gate=UNTRAINED_GATE)).eval()
        # Untrained, many maxima of its pooling are near ties, which each engine breaks its own way.
        export_onnx(gate.exported(network), squares(some(cases, 2), gate.size_px), files["gate"],
                    common | gate.metadata(network), outputs=gate.outputs, free_size=False,
                    tolerance=1.0)  # fmt: skip
    return files


class Reference:
    """The reference's way: read with Pillow, gate at 224, detect at the detector's size, all in torch."""

    def __init__(self, detector: Any, gate: nn.Module) -> None:
        self.detector, self.gate = detector, gate

    def __call__(self, path: Path) -> Detections:
        """Read a picture and run both networks on it."""
        with Image.open(path) as image:
            small = np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
            picture = np.asarray(image.convert("RGB"), np.float32) / 255
        with torch.no_grad():
            torch.sigmoid(self.gate(torch.from_numpy(small)[None, None]))
        return self.detect(picture)

    def detect(self, picture: np.ndarray) -> Detections:
        """Run torchvision's SSD on a picture ``y x 3`` in 0..1."""
        with torch.no_grad():
            found = self.detector.ssd([torch.from_numpy(picture).permute(2, 0, 1)])[0]
        height, width = picture.shape[:2]
        return Detections(
            found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy(), {1: "fracture"}, width, height
        )


def per_picture(reference: Reference, ours: dict[str, Predictor], cases: Sequence[Case]) -> dict[str, Any]:
    """Seconds per picture, the sides in turn on each picture, so that a busy machine slows all alike."""
    for predictor in ours.values():
        both(predictor, cases[0].picture)
    reference(cases[0].picture)
    seconds: dict[str, list[float]] = {name: [] for name in ("reference", *ours)}
    for case in cases:
        seconds["reference"].append(timed(reference, case.picture))
        for name, predictor in ours.items():
            seconds[name].append(timed(both, predictor, case.picture))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        print(f"gate and detector, {name:10} {median * 1000:8.0f} ms a picture, {medians['reference'] / median:5.1f} x")
    return {"seconds": seconds, "median_seconds": medians}


def both(predictor: Predictor, path: Path) -> Detections:
    """Run both networks of ours on a picture, whatever the gate says."""
    radiograph = read_radiograph(path)
    assert predictor.gate is not None
    predictor.gate(radiograph)
    return predictor(radiograph, gated=False)


def folder(
    reference: Reference, files: dict[str, Path], cases: Sequence[Case], out: Path, threads: int
) -> dict[str, float]:
    """Seconds for many pictures, with every result written; ours as its command does it, loading included."""
    there, here = out / "folder-ours", out / "folder-reference"
    here.mkdir(exist_ok=True)
    words = ["predict", *(str(case.picture) for case in cases), "--out", str(there), "--model", str(files["INT8"])]
    words += ["--gate", str(files["gate"]), "--device", "cpu", "--threads", str(threads), "--overwrite", "--quiet"]
    seconds = {"ours": timed(run, words), "reference": timed(reference_folder, reference, cases, here)}
    passed = sum('"passed": true' in path.read_text() for path in there.glob("*.json"))
    print(
        f"a folder of {len(cases)}: reference {seconds['reference']:.1f} s, ours {seconds['ours']:.1f} s, "
        f"{seconds['reference'] / seconds['ours']:.1f} x; the gate passed {passed}"
    )
    return seconds | {"passed": passed, "pictures": len(cases)}


def reference_folder(reference: Reference, cases: Sequence[Case], out: Path) -> None:
    """Every picture with the boxes that score 0.5, as PNG."""
    for case in cases:
        found = reference(case.picture)
        with Image.open(case.picture) as image:
            shown = image.convert("RGB")
        draw = ImageDraw.Draw(shown)
        for box, score in zip(found.boxes_px, found.scores, strict=True):
            if score >= 0.5:
                draw.rectangle(tuple(map(float, box)), outline="red", width=3)
        shown.save(out / f"{case.picture.stem}.png")


def ap50(reference: Reference, ours: dict[str, Predictor], cases: Sequence[Case]) -> dict[str, float]:
    """AP50 of the same weights on both sides, on the same pictures."""
    wanted = []
    for case in cases:
        grey = read_radiograph(case.picture).array
        found = reference.detect(np.repeat(grey[..., None], 3, axis=2))
        boxes = case.boxes if case.boxes is not None else np.zeros((0, 4), np.float32)
        wanted.append(Compared(found, boxes, np.ones(len(boxes), np.int64)))
    scores = {"reference": average_precision(match(wanted))}
    scores |= {name: average_precision(match(compare(predictor, cases))) for name, predictor in ours.items()}
    for name, score in scores.items():
        print(f"AP50 on {len(cases)} pictures, {name:10} {score:.4f}, {score - scores['reference']:+.4f}")
    return scores


def timed(work: Any, *arguments: Any) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
