import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.onnx_graph import behind_pyramids, divide_convolutions, split_concatenations, sums_of_convolutions


def two_branches(axis: int = 1, bias: bool = True) -> onnx.ModelProto:
    """Three feature maps, concatenated, convolved; the concatenation is read by nothing else."""
    rng = np.random.default_rng(0)
    weights = {f"w{k}": rng.normal(size=(c, 1, 3, 3, 3)).astype(np.float32) for k, c in enumerate((2, 3, 4))}
    weights["w"] = rng.normal(size=(5, 9 if axis == 1 else 2, 3, 3, 3)).astype(np.float32)
    if axis != 1:
        weights |= {f"w{k}": weights["w0"] for k in range(3)}
    weights["b"] = rng.normal(size=5).astype(np.float32)
    pads = [1] * 6
    nodes = [helper.make_node("Conv", ["x", f"w{k}"], [f"f{k}"], f"conv{k}", pads=pads) for k in range(3)]
    nodes.append(helper.make_node("Concat", ["f0", "f1", "f2"], ["all"], "concat", axis=axis))
    nodes.append(helper.make_node("Conv", ["all", "w", *(["b"] if bias else [])], ["y"], "conv", pads=pads))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "a", "b", "c"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, None, None, None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def computed(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(1, 1, 6, 7, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_a_concatenation_becomes_a_sum(bias):
    before = two_branches(bias=bias)
    after = split_concatenations(before)
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node].count("Concat") == 0
    assert [node.op_type for node in after.graph.node].count("Add") == 2
    assert {tensor.name for tensor in after.graph.initializer} >= {"w.0", "w.1", "w.2"}
    assert "w" not in {tensor.name for tensor in after.graph.initializer}
    np.testing.assert_allclose(computed(after), computed(before), atol=1e-4)


def test_what_is_concatenated_along_another_axis_stays():
    before = two_branches(axis=2)
    assert split_concatenations(before).graph == before.graph


def one_split(activated: bool, sizes: tuple[int, ...] | None, axis: int = 1) -> onnx.ModelProto:
    """A convolution, with SiLU or without, whose channels are split; both parts are read."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 1, 3, 3, 3)).astype(np.float32), "b": rng.normal(size=6).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 6)]
    if activated:
        nodes += [helper.make_node("Sigmoid", ["c"], ["s"], "s"), helper.make_node("Mul", ["c", "s"], ["a"], "silu")]
    given = ["a" if activated else "c"]
    options = {"num_outputs": 2} if sizes is None else {}
    if sizes is not None:
        weights["sizes"] = np.array(sizes, np.int64)
        given.append("sizes")
    nodes.append(helper.make_node("Split", given, ["p", "q"], "split", axis=axis, **options))
    nodes.append(helper.make_node("Concat", ["q", "p"], ["y"], "turned", axis=axis))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 7, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 6, 7, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("sizes", [None, (2, 4), (3, 3)])
def test_a_convolution_whose_channels_are_split_becomes_one_for_each_part(activated, sizes):
    before = one_split(activated, sizes)
    after = divide_convolutions(before)
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    assert (kinds.count("Split"), kinds.count("Conv"), kinds.count("Mul")) == (0, 2, 2 * activated)
    np.testing.assert_allclose(computed(after), computed(before), atol=1e-5)


def test_splits_need_no_names_of_their_own():
    before = one_split(True, (2, 4))
    again = [onnx.NodeProto.FromString(node.SerializeToString()) for node in before.graph.node[:-1]]
    for node in again:  # the same once more, of other values
        node.input[:] = [f"{name}2" if name in "csa" else name for name in node.input]
        node.output[:] = [f"{name}2" for name in node.output]
        node.name = f"{node.name}2"
    del before.graph.node[-1]
    before.graph.node.extend([*again, helper.make_node("Concat", ["q", "p", "p2", "q2"], ["y"], "turned", axis=1)])
    before.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 12
    for node in before.graph.node:
        node.name = "" if node.op_type == "Split" else node.name
    np.testing.assert_allclose(computed(divide_convolutions(before)), computed(before), atol=1e-5)


def test_a_product_with_a_constant_is_no_silu():
    before = one_split(True, (2, 4))
    before.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    before.graph.node[2].input[1] = "two"
    np.testing.assert_allclose(computed(divide_convolutions(before)), computed(before), atol=1e-5)


def test_what_is_split_along_another_axis_stays():
    before = one_split(True, (2, 4), axis=2)
    assert divide_convolutions(before).graph == before.graph


def test_convolutions_behind_a_pyramid_of_pools_are_named():
    def pool(given, made):
        return helper.make_node("MaxPool", [given], [made], made, kernel_shape=[5, 5], pads=[2] * 4)

    def conv(given):
        return helper.make_node("Conv", [given, "w"], [f"of_{given}"], f"conv_{given}")

    nodes = [pool("x", "a"), pool("a", "b"), pool("b", "c"), conv("x"), conv("a"), conv("b"), conv("c")]
    nodes += [pool("of_x", "alone"), conv("alone")]
    graph = helper.make_graph(nodes, "g", [], [])
    assert behind_pyramids(helper.make_model(graph)) == ["conv_a", "conv_b", "conv_c"]


def test_sums_of_convolutions_are_named_and_other_additions_not():
    parts = split_concatenations(two_branches())
    parts.graph.node.append(helper.make_node("Add", ["y", "x"], ["z"], "residual"))
    assert sums_of_convolutions(parts) == ["conv.sum1", "conv.sum2"]
