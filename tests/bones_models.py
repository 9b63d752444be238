"""A gate and a detector of a few numbers, in the form of real model files: bright is bone, brightest is a fracture."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.runtime import METADATA_KEY

SIZE_PX, CELL_PX = 64, 8
GRID = SIZE_PX // CELL_PX
POINTS = {"screening": 0.2, "balanced": 0.5, "specific": 0.8}


def write_gate(path: Path, **changes) -> Path:
    """A gate: the probability of bone is a steep function of each pixel's grey; it turns away what is all dark."""
    nodes = [
        helper.make_node("Sub", ["image", "middle"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
    ]
    numbers = {"middle": np.float32(0.3), "slope": np.float32(40)}
    return _write(path, nodes, numbers, ("probability",), gate_metadata() | changes)


def gate_metadata():
    return {
        "metadata_version": 1,
        "task": "bones",
        "network": "gate",
        "size_px": 32,
        "gate": {"max_roughness": 5.0},
        "precision": "fp32",
    }


def write_detector(path: Path, **changes) -> Path:
    """An SSD of one map of 8 x 8 places: where the mean grey of a place is above 0.6 there is a box on just that place.

    A logit is 20 (grey - 0.6), so that a place of grey 0.6 has a score of a half and one of 0.7 of 0.88.
    """
    weight = np.zeros((4, 1, CELL_PX, CELL_PX), np.float32)  # two anchors a place, background and fracture each
    weight[1] = 20 / CELL_PX**2
    bias = np.array([0, -12, 50, 0], np.float32)
    shape = np.array([1, 2, 2, GRID, GRID], np.int64)
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["places"], strides=[CELL_PX, CELL_PX]),
        helper.make_node("Reshape", ["places", "apart"], ["anchors"]),
        helper.make_node("Transpose", ["anchors"], ["last"], perm=[0, 3, 4, 1, 2]),
        helper.make_node("Reshape", ["last", "flat"], ["logits"]),
        helper.make_node("Mul", ["logits", "zero"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "nothing"], ["deltas"], axis=2),
    ]
    flat = np.array([1, 2 * GRID * GRID, 2], np.int64)
    numbers = {"weight": weight, "bias": bias, "apart": shape, "flat": flat, "zero": np.float32(0)}
    return _write(path, nodes, numbers, ("logits", "deltas"), detector_metadata() | changes)


def detector_metadata():
    return {
        "metadata_version": 1,
        "task": "bones",
        "network": "detector",
        "kind": "ssd300_vgg16",
        "labels": {"0": "background", "1": "fracture"},
        "size_px": SIZE_PX,
        "anchors": {"grids": [[GRID, GRID]], "aspect_ratios": [[]], "scales": [1 / GRID, 2 / GRID], "steps_px": None},
        "operating_points": POINTS,
        "precision": "fp32",
    }


def limb(width_px: int = 128, height_px: int = 256) -> np.ndarray:
    """A dark picture with a grey bar from top to bottom, in 0..1: the gate takes it for bone; nothing is broken."""
    picture = np.zeros((height_px, width_px), np.float32)
    picture[:, width_px // 4 : width_px // 2] = 0.5
    return picture


def dark(width_px: int = 128, height_px: int = 256) -> np.ndarray:
    """A picture on which nothing is as bright as bone."""
    return np.tile(np.linspace(0, 0.1, width_px, dtype=np.float32), (height_px, 1))


def broken(width_px: int = 128, height_px: int = 256, grey: float = 1.0) -> np.ndarray:
    """The same with a bright spot, whose box is that of place (3, 2) of the detector's grid."""
    picture = limb(width_px, height_px)
    x1, y1, x2, y2 = spot(width_px, height_px)
    picture[y1:y2, x1:x2] = grey
    return picture


def spot(width_px: int, height_px: int) -> tuple[int, int, int, int]:
    return 2 * width_px // GRID, 3 * height_px // GRID, 3 * width_px // GRID, 4 * height_px // GRID


def _write(path, nodes, numbers, outputs, metadata):
    shape = [1, 1, "y", "x"]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path
