"""Scores written into a model file change its metadata and nothing else."""

import numpy as np
import onnx
import pytest
import torch

from shared.errors import SetupError
from shared.export import export_onnx, record_scores
from shared.runtime import Session, read_metadata


def test_recorded_scores_leave_the_network_as_it_is(tmp_path):
    path = tmp_path / "model.onnx"
    sample = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    export_onnx(torch.nn.Conv2d(1, 1, 3).eval(), [sample, sample], path, {"task": "toy"}, engines=("onnxruntime",))
    before, said = Session(path, "cpu", "onnxruntime")(sample), read_metadata(path)

    record_scores(path, {"dice": 0.5, "cases": 2, "data": "held-out"})
    record_scores(path, {"dice": 0.75, "cases": 3, "data": "held-out"})

    assert read_metadata(path) == said | {"scores": {"dice": 0.75, "cases": 3, "data": "held-out"}}
    assert np.array_equal(Session(path, "cpu", "onnxruntime")(sample), before)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_of_others_is_refused(tmp_path):
    path = tmp_path / "other.onnx"
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(SetupError, match="without Skiagram metadata"):
        record_scores(path, {"dice": 0.5})
