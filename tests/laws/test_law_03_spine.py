"""Law 3 for spine: the ONNX file computes what torch does, at any size; INT8 stays inside its gate or is no file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from spine_factory import SIZE_PX, film_pixels, tiny_model, tiny_network

from shared.export import GateError, quantise
from shared.io.radiograph import from_array, read_radiograph
from shared.runtime import Session, read_metadata
from spine.decode import OUTPUTS
from spine.preprocess import preprocess

ROOT = Path(__file__).resolve().parents[2]


def inputs():
    """Films as the network sees them: upright, lying, and of another size."""
    picture = from_array(film_pixels()).array
    return [preprocess(p, size)[0] for p, size in ((picture, SIZE_PX), (picture.T, SIZE_PX), (picture, 192))]


@pytest.mark.parametrize(("engine", "any_size"), [("openvino", False), ("openvino", True), ("onnxruntime", True)])
def test_every_output_is_torchs_at_any_size(engine, any_size):
    network = tiny_network()
    session = Session(tiny_model(), "cpu", engine, any_size=any_size)
    for image in inputs():
        with torch.no_grad():
            _, maps = network(torch.from_numpy(image))  # decoded as well, which the file leaves to us
        wanted = [maps[name] for name in ("boxes", "scores", "mask_coefficient", "proto")]
        got = session.outputs(image)
        assert len(got) == len(OUTPUTS)
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3 * float(theirs.abs().max()))
    assert max(read_metadata(tiny_model())["parity"]["relative_difference"].values()) < 1e-3


def rounded_convolutions(path):
    """Whether each convolution's weights are of 8 bits, in the file's order."""
    graph = onnx.load(path).graph
    rounded = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [node.input[1] in rounded for node in graph.node if node.op_type == "Conv"]


def test_int8_is_written_inside_its_gate_and_not_beyond(tmp_path):
    films = inputs()[:1]

    def likeness(path):
        """One less the mean difference of the levels' scores from the float32 file's."""
        one, other = (1 / (1 + np.exp(-Session(p, "cpu").outputs(films[0])[1])) for p in (tiny_model(), path))
        return 1 - float(np.abs(one - other).mean())

    good = tmp_path / "spine-int8.onnx"
    options = {"correct_bias": True, "mean_range": True, "float_first": 2}
    scores = quantise(tiny_model(), good, films, likeness, allowed_loss=0.05, **options)
    assert scores["int8"] > 0.95
    assert rounded_convolutions(good)[:4] == [False, False, True, True]
    assert read_metadata(good)["precision"] == "int8"
    assert read_metadata(good)["int8_gate"] == scores
    with pytest.raises(GateError, match="nothing was written"):
        quantise(tiny_model(), tmp_path / "bad-int8.onnx", films, likeness, allowed_loss=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["spine-int8.onnx"]


def test_the_shipped_int8_file_is_the_same_network_on_both_engines():
    """OpenVINO computed something else behind quantised pools, sums and splits: up to 0.25 of the outputs' spread."""
    model = ROOT / "data" / "models" / "spine-int8.onnx"
    sessions = [Session(model, "cpu", engine, any_size=True) for engine in ("openvino", "onnxruntime")]
    for film in ("ap.png", "chest.png"):  # of two sizes
        image, _ = preprocess(read_radiograph(ROOT / "data" / "samples" / "spine" / film).array, 640)
        for name, ours, theirs in zip(OUTPUTS, *(session.outputs(image) for session in sessions), strict=True):
            assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.08 * theirs.std(), (film, name)
