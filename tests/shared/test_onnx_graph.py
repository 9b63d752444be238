import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.onnx_graph import split_concatenations


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
