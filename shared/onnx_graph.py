"""Rewriting an ONNX graph without changing what it computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper


def split_concatenations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn each convolution of concatenated channels into the sum of one convolution for each part.

    A skip connection and what comes up from below differ in range: apart, each gets an INT8 scale of its own, and no
    copy of both is made. Returns a new model that computes the same.
    """
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    channels = _channels(proto)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made_by = {output: node for node in proto.graph.node for output in node.output}
    del out.graph.node[:]
    for node in proto.graph.node:
        concat = made_by.get(node.input[0]) if node.op_type == "Conv" else None
        if concat is None or concat.op_type != "Concat" or node.input[1] not in weights:
            out.graph.node.append(node)
            continue
        weight, widths = weights[node.input[1]], [channels.get(part, 0) for part in concat.input]
        if min(widths) == 0 or sum(widths) != weight.shape[1]:  # grouped, or concatenated along another axis
            out.graph.node.append(node)
            continue
        pieces = np.split(weight, np.cumsum(widths)[:-1], axis=1)
        out.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(piece), f"{node.input[1]}.{part}")
            for part, piece in enumerate(pieces)
        )
        out.graph.node.extend(_sum_of_convolutions(node, concat.input))
    _drop_unused(out)
    return out


def divide_convolutions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn each convolution whose channels are then split, with or without SiLU between, into one for each part.

    OpenVINO 2026.4 computes something else where quantised channels are split or joined (`split_concatenations`);
    without either, each part has an INT8 scale of its own. Returns a new model that computes the same.
    """
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made_by = {output: node for node in proto.graph.node for output in node.output}
    divided: dict[str, list[onnx.NodeProto]] = {}
    for split in proto.graph.node:
        convolution = _convolution_of(split, made_by) if split.op_type == "Split" else None
        if convolution is None or not weights.keys() >= {*convolution.input[1:]} or _attribute(split, "axis", 0) != 1:
            continue
        weight, group = weights[convolution.input[1]], _attribute(convolution, "group", 1)
        sizes = weights.get(split.input[1]) if len(split.input) > 1 and split.input[1] else None
        if group != 1 or (sizes is None and len(weight) % len(split.output)):
            continue
        ends = np.cumsum(sizes)[:-1] if sizes is not None else len(split.output)
        parts = [np.split(weights[name], ends) for name in convolution.input[1:]]
        nodes = []
        for number, target in enumerate(split.output):
            names = [f"{name}.{target}" for name in convolution.input[1:]]
            out.graph.initializer.extend(
                numpy_helper.from_array(np.ascontiguousarray(part[number]), name)
                for part, name in zip(parts, names, strict=True)
            )
            nodes += _with_silu(convolution, names, target, activated=made_by[split.input[0]] is not convolution)
        divided[split.output[0]] = nodes
    del out.graph.node[:]
    for node in proto.graph.node:
        out.graph.node.extend(divided.get(node.output[0], [node]) if node.op_type == "Split" else [node])
    _drop_unused(out)
    return out


def behind_pyramids(proto: onnx.ModelProto) -> list[str]:
    """Name the convolutions that read a pool of a pyramid: max pools one behind another, each of them read.

    OpenVINO 2026.4 computes something else where such pools are quantised, if only in networks of some size.
    """
    made_by = {output: node for node in proto.graph.node for output in node.output}
    pools = {node.output[0]: node for node in proto.graph.node if node.op_type == "MaxPool"}
    follows = {name: node.input[0] for name, node in pools.items() if node.input[0] in pools}
    pyramid = {*follows, *follows.values()}
    return [node.name for node in made_by.values() if node.op_type == "Conv" and node.input[0] in pyramid]


def sums_of_convolutions(proto: onnx.ModelProto) -> list[str]:
    """Name the additions whose terms are convolutions alone, such as those of `split_concatenations`."""
    made: set[str] = set()
    names = []
    for node in proto.graph.node:
        if node.op_type == "Add" and made.issuperset(node.input):
            names.append(node.name)
        elif node.op_type != "Conv":
            continue
        made.update(node.output)
    return names


def _convolution_of(split: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Give the convolution that a Split's input comes from, itself or through SiLU: x times the logistic of x."""
    node = made_by.get(split.input[0])
    if node is not None and node.op_type == "Mul":
        before = [made_by[name] for name in node.input if name in made_by]  # the others are constants
        sigmoid = next((one for one in before if one.op_type == "Sigmoid"), None)
        node = made_by.get(sigmoid.input[0]) if sigmoid is not None and sigmoid.input[0] in node.input else None
    return node if node is not None and node.op_type == "Conv" else None


def _with_silu(
    convolution: onnx.NodeProto, parameters: Sequence[str], target: str, activated: bool
) -> list[onnx.NodeProto]:
    """Give a convolution with other weights, and SiLU behind it where ``activated``."""
    own = onnx.NodeProto()
    own.CopyFrom(convolution)
    own.name, own.input[:] = f"{convolution.name}.{target}", [convolution.input[0], *parameters]
    own.output[0] = f"{target}.plain" if activated else target
    if not activated:
        return [own]
    logistic, both = f"{target}.logistic", [f"{target}.plain", f"{target}.logistic"]
    return [
        own,
        helper.make_node("Sigmoid", [own.output[0]], [logistic], logistic),
        helper.make_node("Mul", both, [target], f"{target}.silu"),
    ]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(found.i) for found in node.attribute if found.name == name), default)


def _sum_of_convolutions(node: onnx.NodeProto, parts: Sequence[str]) -> list[onnx.NodeProto]:
    """Convolve each part with its piece of the weights, the bias with the first, and add them up."""
    nodes: list[onnx.NodeProto] = []
    total = ""
    for number, part in enumerate(parts):
        convolution = onnx.NodeProto()
        convolution.CopyFrom(node)
        convolution.name, convolution.output[0] = f"{node.name}.{number}", f"{node.output[0]}.{number}"
        convolution.input[:] = [part, f"{node.input[1]}.{number}", *(node.input[2:] if number == 0 else [])]
        nodes.append(convolution)
        if number == 0:
            total = convolution.output[0]
            continue
        name = f"{node.name}.sum{number}"
        added = node.output[0] if number == len(parts) - 1 else name
        nodes.append(helper.make_node("Add", [total, convolution.output[0]], [added], name))
        total = added
    return nodes


def _channels(proto: onnx.ModelProto) -> dict[str, int]:
    """Number of channels (axis 1) of each value, 0 where it is not known."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in [*graph.input, *graph.value_info]}
    return {name: shape[1].dim_value for name, shape in shapes.items() if len(shape) > 1}


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes and weights that nothing reads any more."""
    wanted = {output.name for output in proto.graph.output}
    nodes = []
    for node in reversed(proto.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
    weights = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(reversed(nodes))
    proto.graph.initializer.extend(weights)
