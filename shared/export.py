"""From a torch network to the one artefact: an ONNX file with everything needed to use it, behind two gates.

The parity gate compares torch with the engines that will run the file, on inputs of the real range. The INT8 gate
compares the quantised file's score with the float32 file's. A file that fails its gate is not written.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from torch import nn

from shared.errors import SkiagramError
from shared.io.atomic import whole
from shared.onnx_graph import behind_pyramids, divide_convolutions, split_concatenations, sums_of_convolutions
from shared.runtime import METADATA_KEY, EngineName, Session, read_metadata

log = logging.getLogger(__name__)
Sample = Float32[np.ndarray, "n c ..."]
# OpenVINO's sums depend on its threads: one network of instance norms was 6e-4 and 1.3e-3 off on one and two of them,
# five of 13,584 voxels changing sides.
PARITY = 2e-3
TRACED_OPSET = 17  # the latest that torch's older exporter knows whole


class GateError(SkiagramError):
    """The exported file does not compute what it should; nothing was written. Exit status 1."""

    exit_status = 1


def export_onnx(
    model: nn.Module,
    samples: Sequence[Sample],
    out: Path,
    metadata: dict[str, Any],
    *,
    tolerance: float = PARITY,
    engines: Sequence[EngineName] = ("onnxruntime", "openvino"),
    outputs: Sequence[str] = ("logits",),
    free_size: bool = True,
    traced: bool = False,
) -> dict[str, float]:
    """Write ``model`` as ONNX, if every engine agrees with torch on ``samples``.

    Args:
        model: a network in eval mode, on the CPU.
        samples: at least two inputs of the real range, of different sizes where sizes may differ.
        out: the ONNX file.
        metadata: stored as JSON in ``metadata_props``; the measured parity is added to it.
        tolerance: largest allowed difference over the largest magnitude, of each output by itself.
        engines: those that must agree.
        outputs: names of what the network returns, a tensor or a tuple of them.
        free_size: whether the file takes any spatial size, or that of ``samples`` only.
        traced: export by TorchScript, for networks whose shapes depend on what is in the picture.

    Returns:
        The largest relative difference for each engine.

    Raises:
        GateError: an engine differs by more than the tolerance.
    """
    wanted = [_of_torch(model, sample) for sample in samples]  # first, for tracing may leave things in a network
    first = torch.from_numpy(samples[0])
    names: dict[str, Any] = {"input_names": ["image"], "output_names": list(outputs), "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporters warn of their own internals
        if traced:
            with TemporaryDirectory() as folder:
                file = Path(folder) / "traced.onnx"
                torch.onnx.export(model, (first,), file, dynamo=False, opset_version=TRACED_OPSET, **names)
                proto = onnx.load(file)
        else:
            spatial = dict.fromkeys(range(2, first.ndim), torch.export.Dim.DYNAMIC)
            shapes = (spatial,) if free_size else None
            program = torch.onnx.export(model, (first,), dynamo=True, dynamic_shapes=shapes, **names)
            assert program is not None
            proto = program.model_proto
    _strip(proto)
    with whole(out) as aside:
        _save(proto, aside, metadata)
        parity: dict[str, float] = {
            engine: _difference(wanted, Session(aside, "cpu", engine), samples) for engine in engines
        }
        worst = max(parity.values())
        if not worst <= tolerance:
            raise GateError(
                f"{out}: engines differ from torch by {parity}, {tolerance} is allowed; nothing was written"
            )
        _save(proto, aside, metadata | {"parity": {"relative_difference": parity, "inputs": len(samples)}})
    return parity


def quantise(
    source: Path,
    out: Path,
    calibration: Iterable[Sample],
    score: Callable[[Path], float],
    *,
    allowed_loss: float = 0.01,
    correct_bias: bool = False,
    mean_range: bool = False,
    float_first: int = 0,
    prepare: Callable[[Path], None] = lambda path: None,
) -> dict[str, float]:
    """Make the INT8 twin of an ONNX file (QDQ nodes, by NNCF), if its score stays within the gate.

    Convolutions of a concatenation, and those whose channels are split, become one for each part first, and those
    behind a pyramid of pools stay in float32 (see ``shared.onnx_graph``): OpenVINO then computes what ONNX Runtime
    does. Sums of such parts are not rounded once more.

    Args:
        source: the float32 file that ``export_onnx`` wrote.
        out: the INT8 file.
        calibration: inputs of the real range; some tens are enough.
        score: score of a model file, higher is better, such as mean Dice on held-out cases.
        allowed_loss: by how much the score may fall.
        correct_bias: add to each convolution's bias what rounding takes from its mean; of no use where a normalisation
            behind the convolution takes any bias out again.
        mean_range: let the range of activations be the mean of the inputs' ranges, not the widest: finer steps for what
            every input shows, but what few reach is clipped (a lumen is a thousandth of a window).
        float_first: so many first convolutions stay in float32: few operations, and what they round away all later
            ones lack.
        prepare: called with the INT8 file before it is scored, to write into its metadata what holds for it alone.

    Returns:
        The two scores.

    Raises:
        GateError: the score falls by more; nothing is written.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    proto = split_concatenations(divide_convolutions(onnx.load(source)))
    metadata = json.loads({p.key: p.value for p in proto.metadata_props}[METADATA_KEY])
    name = proto.graph.input[0].name
    first = [node.name for node in proto.graph.node if node.op_type == "Conv"][:float_first]
    samples = [{name: sample} for sample in calibration]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # NNCF draws bars on stdout
        warnings.simplefilter("ignore")
        quantised = nncf.quantize(
            proto,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=[*first, *behind_pyramids(proto), *sums_of_convolutions(proto)]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=(
                    RangeEstimatorParameters() if mean_range else RangeEstimatorParametersSet.MINMAX
                ),
                disable_bias_correction=not correct_bias,
            ),
        )
    with whole(out) as aside:
        _save(quantised, aside, metadata | {"precision": "int8"})
        prepare(aside)
        scores = {"fp32": score(source), "int8": score(aside)}
        if not scores["int8"] >= scores["fp32"] - allowed_loss:
            raise GateError(
                f"{out}: INT8 scores {scores['int8']:.4f}, float32 {scores['fp32']:.4f}; nothing was written"
            )
        update_metadata(aside, {"int8_gate": scores})
    return scores


def record_scores(model: Path, scores: Mapping[str, Any]) -> None:
    """Write what an evaluation found into the model file's metadata, as ``scores``; the network stays as it is.

    ``scores`` is flat: a mean for each metric, how many ``cases``, and the name of the ``data``.

    Raises:
        SetupError: the file has no metadata of ours.
    """
    update_metadata(model, {"scores": dict(scores)})


def update_metadata(model: Path, changes: Mapping[str, Any]) -> None:
    """Put entries into the model file's metadata in place of those of the same name; the network stays as it is.

    Raises:
        SetupError: the file has no metadata of ours.
    """
    metadata = read_metadata(model)
    proto = onnx.load(model)
    with whole(model) as aside:
        _save(proto, aside, metadata | dict(changes))


def _save(proto: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> None:
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    onnx.save(proto, path)


def _strip(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes on each node: they hold source paths of the machine that exported."""
    for item in [*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del proto.graph.metadata_props[:]


def _of_torch(model: nn.Module, sample: Sample) -> list[np.ndarray]:
    """What torch makes of a sample, each output."""
    with torch.no_grad():
        result = model(torch.from_numpy(sample))
    return [one.numpy() for one in ((result,) if isinstance(result, torch.Tensor) else result)]


def _difference(wanted: Sequence[list[np.ndarray]], session: Session, samples: Sequence[Sample]) -> float:
    """Largest absolute difference between torch and a session, over the largest magnitude of that output of torch."""
    found = []
    for outputs, sample in zip(wanted, samples, strict=True):
        for one, got in zip(outputs, session.outputs(sample), strict=True):
            if one.shape != got.shape:
                return float("inf")
            found.append(float(np.abs(got - one).max() / max(np.abs(one).max(), 1e-6)))
    worst = float(np.max(found))  # unlike max(), of NaN it makes NaN
    return worst if np.isfinite(worst) else float("inf")
