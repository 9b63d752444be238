"""Engines and devices: what was asked for is what runs, or it is an error (law 8)."""

import json
import logging
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.errors import SetupError
from shared.registry import CHECKOUT_MODELS
from shared.runtime import METADATA_KEY, Session, parse_device, read_metadata


@pytest.fixture
def model(tmp_path):
    shape = [1, 1, "x", "y", "z"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "relu",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: json.dumps({"task": "test", "note": "µm"}), "other": "x"})
    path = tmp_path / "relu.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "auto"])
def test_both_engines_run_any_size(model, engine):
    session = Session(model, "cpu", engine)
    for shape in [(1, 1, 2, 3, 4), (1, 1, 5, 3, 2)]:
        image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(session(image), np.maximum(image, 0))
    assert session.device == "cpu"
    assert ("ONNX Runtime" in session.engine) == (engine == "onnxruntime")


def test_threads_whose_number_is_given_are_not_pinned(model):
    """Pinned, two processes of one thread each shared one processor: docs/decisions/0010-service-processes.md."""
    session = Session(model, "cpu", "openvino", threads=1)
    session(np.zeros((1, 1, 2, 3, 4), np.float32))
    compiled = session._engine._free[0].get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_fewer_than_no_threads_are_refused(model):
    with pytest.raises(SetupError, match="-1 threads"):
        Session(model, "cpu", threads=-1)
    with pytest.raises(SetupError, match="0 calls at once"):
        Session(model, "cpu", at_once=0)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_output_comes_in_the_files_order(tmp_path, engine):
    shape = [1, 1, "y", "x"]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["image"], ["second"]), helper.make_node("Relu", ["image"], ["first"])],
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("first", "second")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {METADATA_KEY: "{}"})
    onnx.save(proto, tmp_path / "two.onnx")
    session = Session(tmp_path / "two.onnx", "cpu", engine)
    image = np.random.default_rng(0).normal(size=(1, 1, 4, 5)).astype(np.float32)
    first, second = session.outputs(image)
    np.testing.assert_array_equal(first, np.maximum(image, 0))
    np.testing.assert_array_equal(second, -image)
    np.testing.assert_array_equal(session(image), first)


@pytest.mark.parametrize(("any_size", "wanted"), [(False, [3, 4, 3]), (True, [None])])
def test_the_network_is_compiled_for_each_size_or_once_for_all(model, monkeypatch, any_size, wanted):
    session = Session(model, "cpu", "openvino", any_size=any_size)
    compiled = []
    make = session._engine._compile
    monkeypatch.setattr(session._engine, "_compile", lambda s: compiled.append(s and s[-1]) or make(s))
    for width in (3, 4, 4, 3):
        image = np.random.default_rng(width).normal(size=(1, 1, 2, 2, width)).astype(np.float32)
        np.testing.assert_array_equal(session(image), np.maximum(image, 0))
    assert compiled == wanted


@pytest.mark.parametrize("any_size", [False, True])
@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_any_thread_may_call(model, engine, at_once, any_size):
    session = Session(model, "cpu", engine, any_size=any_size, at_once=at_once)
    images = [np.random.default_rng(k).normal(size=(1, 1, 2, 20, 3 + k % 3)).astype(np.float32) for k in range(60)]
    with ThreadPoolExecutor(6) as pool:
        for image, result in zip(images, pool.map(session, images), strict=True):
            np.testing.assert_array_equal(result, np.maximum(image, 0))


def test_calls_at_a_time_share_the_threads(model):
    session = Session(model, "cpu", "openvino", threads=2, at_once=2)
    session(np.zeros((1, 1, 2, 3, 4), np.float32))
    compiled = session._engine._free[0].get_compiled_model()
    assert compiled.get_property("NUM_STREAMS") == 2
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_metadata_is_read_without_an_engine(model):
    assert read_metadata(model) == {"task": "test", "note": "µm"}


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "", "auto:0"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(SetupError, match="use auto, cpu, cuda or cuda:N"):
        parse_device(device)


def test_cuda_that_is_not_there_is_an_error_and_quiet(model, capfd):
    with pytest.raises(SetupError, match="CUDA was asked for") as caught:
        Session(model, "cuda")
    assert caught.value.exit_status == 2
    assert capfd.readouterr().out == ""


def test_openvino_on_cuda_is_refused(model):
    with pytest.raises(SetupError, match="OpenVINO does not run on CUDA"):
        Session(model, "cuda", "openvino")


def _fake_onnxruntime(monkeypatch, got, fails=False):
    """An ONNX Runtime that lists CUDA; its session gets the providers ``got``."""
    made = []

    class InferenceSession:
        def __init__(self, path, options, providers):
            if fails:
                raise RuntimeError("CUDA error 35: driver too old")
            made.append(providers)

        def get_providers(self):
            return got

        def get_inputs(self):
            return [types.SimpleNamespace(name="image")]

        def run(self, names, feeds):
            return [feeds["image"] + 1]

    fake = types.SimpleNamespace(
        __version__="9.9", SessionOptions=types.SimpleNamespace, InferenceSession=InferenceSession,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        preload_dlls=lambda: print("cannot load"), set_default_logger_severity=lambda level: None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return made


def test_cuda_is_what_the_session_got_not_what_is_listed(model, monkeypatch, capfd):
    _fake_onnxruntime(monkeypatch, got=["CPUExecutionProvider"])
    with pytest.raises(SetupError, match="cannot be used here"):
        Session(model, "cuda:1")
    assert capfd.readouterr().out == ""


def test_cuda_index_reaches_the_provider(model, monkeypatch):
    made = _fake_onnxruntime(monkeypatch, got=["CUDAExecutionProvider", "CPUExecutionProvider"])
    session = Session(model, "cuda:1")
    assert session.device == "cuda:1"
    assert made[0][0] == ("CUDAExecutionProvider", {"device_id": 1})


def test_auto_falls_back_to_the_cpu_and_says_so(model, monkeypatch, caplog):
    monkeypatch.setattr("shared.runtime.cuda_is_plausible", lambda: True)
    _fake_onnxruntime(monkeypatch, got=[], fails=True)
    with caplog.at_level(logging.WARNING):
        session = Session(model, "auto")
    assert session.device == "cpu"
    assert "OpenVINO" in session.engine
    assert "the CPU is used" in caplog.text


def test_auto_takes_cuda_where_it_works(model, monkeypatch):
    monkeypatch.setattr("shared.runtime.cuda_is_plausible", lambda: True)
    _fake_onnxruntime(monkeypatch, got=["CUDAExecutionProvider"])
    assert Session(model, "auto").device == "cuda:0"


def _text(path):
    path.write_text("not a model, just a text that is long enough to be parsed\n" * 5)


def _truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def _empty(path):
    path.write_bytes(b"")


def _foreign(path):
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)


@pytest.mark.parametrize("damage", [_text, _truncated, _empty, _foreign])
def test_a_file_that_is_no_model_is_named(model, damage):
    damage(model)
    with pytest.raises(SetupError, match="relu.onnx: .*`export` wrote"):
        Session(model, "cpu")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(SetupError, match="none.onnx.*--model"):
        Session(tmp_path / "none.onnx")


FIRST_CALLS_OF_TWO_THREADS = """
import builtins, os, sys, threading, time
from pathlib import Path
import numpy
from shared.runtime import Session
session = Session(Path(sys.argv[1]), "cpu", "openvino", any_size=True, at_once=2)
load = builtins.__import__
def slowly(name, *more, **named):  # the binding imports numpy while it fills its tables
    time.sleep(0.2 * ("numpy" in name))
    return load(name, *more, **named)
builtins.__import__ = slowly
image = numpy.zeros((1, 1, 2, 3, 4), "float32")
threads = [threading.Thread(target=session, args=(image,)) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""


def test_first_calls_of_two_threads_do_not_wait_for_each_other_for_ever(model):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLS_OF_TWO_THREADS, str(model)], capture_output=True, text=True, check=False,
        timeout=60, cwd=CHECKOUT_MODELS.parents[1],
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr


ENGINES_AT_HOME = """
import sys
from pathlib import Path
import numpy
from shared.runtime import Session
Session(Path(sys.argv[1]), "cpu", "openvino")(numpy.zeros((1, 1, 4, 4, 4), "float32"))
import nncf
nncf.telemetry.telemetry.start_session("quantization")
print(sorted(str(path) for path in Path.home().rglob("*")), sys.modules["openvino_telemetry"])
"""


def test_engines_tell_nobody_of_their_use_and_leave_nothing_at_home(model, tmp_path):
    """OpenVINO and NNCF each make a client ID in the home folder for what they send to Google Analytics."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CI", "NNCF", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-c", ENGINES_AT_HOME, str(model)], capture_output=True, text=True, check=False,
        env=environment | {"HOME": str(home)}, cwd=CHECKOUT_MODELS.parents[1],
    )  # fmt: skip
    assert done.stdout.strip().endswith("[] None"), done.stdout + done.stderr


SIGNALS_AFTER_A_SESSION = """
import gc, os, signal, sys, threading
from pathlib import Path
from shared.runtime import Session
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
held = [Session(Path(sys.argv[1]), "cpu", "openvino")]
held[0](__import__("numpy").zeros((1, 1, 32, 32, 32), "float32"))
thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
thread.start(), thread.join()
for _ in range(50):
    os.kill(os.getpid(), signal.SIGINT)
    bytearray(100_000)
print(len(heard))
"""


def test_signals_are_safe_after_a_session_was_dropped_on_another_thread():
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS_AFTER_A_SESSION, str(CHECKOUT_MODELS / "coronary-int8.onnx")],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
