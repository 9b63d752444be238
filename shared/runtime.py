"""Run an ONNX model: ONNX Runtime on CUDA, OpenVINO on the CPU, plain ONNX Runtime where neither is.

Device handling lives here and nowhere else. A device or engine that was asked for and is not there is an error;
``Session.engine`` and ``Session.device`` say what was really got, never what was wished for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import threading
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from jaxtyping import Float32

from shared.errors import SetupError

EngineName = Literal["auto", "openvino", "onnxruntime"]
METADATA_KEY = "skiagram"
log = logging.getLogger(__name__)

# Merely imported, OpenVINO and NNCF leave a client ID in the home folder, and NNCF tells Google Analytics of its use,
# unless this package of theirs is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class Engine(Protocol):
    """What both engines offer: a name, the device really used, and a call."""

    name: str
    device: str

    def __call__(self, image: Float32[np.ndarray, "..."]) -> tuple[Float32[np.ndarray, "..."], ...]:
        """Run the network once; all its outputs, in its own order."""
        ...


class Session:
    """A model file, loaded once and called many times, from any thread; any spatial size the network allows.

    Args:
        model: an ONNX file written by ``shared.export`` (its metadata is read, and its own check is the caller's).
        device: ``auto`` (CUDA if it works, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        engine: ``auto``, or one engine by name.
        threads: CPU threads; 0 leaves it to the engine.
        any_size: inputs are of many sizes: OpenVINO compiles the network once for them all. Otherwise it does so for
            each size anew: seconds, for calls that are somewhat faster.
        at_once: calls that run at a time; others wait for their turn. OpenVINO divides the CPU's threads among them:
            each takes longer, all of them together less.

    Raises:
        SetupError: no such file, not an ONNX model, a device or engine that is not there, fewer than no threads, or
            not one call at once.
    """

    def __init__(
        self,
        model: Path,
        device: str = "auto",
        engine: EngineName = "auto",
        threads: int = 0,
        *,
        any_size: bool = False,
        at_once: int = 1,
    ) -> None:
        if threads < 0:
            raise SetupError(f"{threads} threads: give how many, or 0 to leave it to the engine")
        if at_once < 1:
            raise SetupError(f"{at_once} calls at once: give 1 or more")
        self.path = model
        self.metadata = read_metadata(model)
        self._engine = _open_engine(model, device, engine, threads, any_size, at_once)
        self._turns = threading.BoundedSemaphore(at_once)

    @property
    def engine(self) -> str:
        """Engine and version really used, such as ``OpenVINO 2026.4.1``."""
        return self._engine.name

    @property
    def device(self) -> str:
        """Device really used: ``cpu`` or ``cuda:N``."""
        return self._engine.device

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __call__(self, image: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """Run the network on one batch, float32 in and out; the first of its outputs."""
        return self.outputs(image)[0]

    def outputs(self, image: Float32[np.ndarray, "..."]) -> tuple[Float32[np.ndarray, "..."], ...]:
        """Run the network on one batch; all its outputs, in the order the file has them."""
        with self._turns:
            return self._engine(image)


def parse_device(device: str) -> tuple[Literal["auto", "cpu", "cuda"], int]:
    """Split ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into kind and index; SetupError for anything else."""
    match = re.fullmatch(r"(auto|cpu|cuda)(?::(\d+))?", device)
    if match is None or (match[2] is not None and match[1] != "cuda"):
        raise SetupError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    kind: Any = match[1]
    return kind, int(match[2] or 0)


def _open_engine(model: Path, device: str, engine: EngineName, threads: int, any_size: bool, at_once: int) -> Engine:
    kind, index = parse_device(device)
    if kind == "cuda" and engine == "openvino":
        raise SetupError("OpenVINO does not run on CUDA; use --device cpu, or the engine onnxruntime")
    try:
        if kind == "cuda":
            return _OnnxRuntime(model, index, threads)
        if kind == "auto" and engine != "openvino" and cuda_is_plausible():
            try:
                return _OnnxRuntime(model, 0, threads)
            except SetupError as error:
                log.warning("an NVIDIA driver is there, but the CPU is used: %s", error)
        if engine == "openvino" or (engine == "auto" and _installed("openvino")):
            return _OpenVino(model, threads, any_size, at_once)
        return _OnnxRuntime(model, None, threads)
    except ImportError as error:
        raise SetupError(f"the engine for device {device} is not installed ({error}); run uv sync") from error


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def cuda_is_plausible() -> bool:
    """Say whether an NVIDIA driver seems to be there at all; cheap, and no promise that CUDA works."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return False
    return os.name == "nt" or Path("/proc/driver/nvidia/version").exists() or Path("/dev/dxg").exists()


_loading = threading.Lock()


def _openvino_core() -> Any:
    """Return the process's one Core, which is never dropped.

    Its CPU plugin gives the thread that loads it a signal stack, and frees that on whichever thread drops the plugin:
    the next signal (Ctrl-C, a data worker's end) then writes to freed memory.
    """
    with _loading:
        return _load_openvino()


@cache
def _load_openvino() -> Any:
    import openvino
    from openvino import opset13

    core = openvino.Core()
    # A process's first inference fills tables of types in OpenVINO's binding. Two threads that do so at a time wait for
    # each other for ever, one with Python's lock, so it is done here by one.
    image = opset13.parameter([1], np.float32)
    options = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    first = core.compile_model(openvino.Model([opset13.relu(image)], [image]), "CPU", options).create_infer_request()
    first.infer([np.zeros(1, np.float32)], share_inputs=True)
    return core


class _OpenVino:
    """OpenVINO on the CPU, compiled for the shape of the last input, or once for any."""

    device = "cpu"

    def __init__(self, model: Path, threads: int, any_size: bool, at_once: int) -> None:
        import openvino

        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"
        self._core = _openvino_core()
        # float32 means float32: OpenVINO would otherwise compute in bfloat16 on CPUs that have it.
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        if at_once > 1:
            self._options["NUM_STREAMS"] = at_once
        if threads or at_once > 1:
            # Who is told how many threads to take is seldom alone: pinned, two processes of one thread each shared one
            # of two processors, and did no more together than one of them.
            self._options["ENABLE_CPU_PINNING"] = False
        try:
            self._model = self._core.read_model(model)
        except RuntimeError as error:
            raise SetupError(f"{model}: OpenVINO cannot read it ({_first_line(error)}); export it again") from error
        self._any_size, self._at_once = any_size, at_once
        self._compiling = threading.Lock()
        self._shape: tuple[int, ...] | None = None
        self._free: list[Any] | None = None

    def __call__(self, image: Float32[np.ndarray, "..."]) -> tuple[Float32[np.ndarray, "..."], ...]:
        free = self._compiled(None if self._any_size else image.shape)
        request = free.pop()  # there is one for each call at a time
        try:
            found = request.infer([image], share_inputs=True)
            return tuple(found[index] for index in range(len(found)))
        finally:
            free.append(request)

    def _compiled(self, shape: tuple[int, ...] | None) -> list[Any]:
        """Return the free requests of the network compiled for this shape."""
        with self._compiling:
            if self._free is None or shape != self._shape:
                self._free = None  # dropped first, unless a call is using it: two at a time may be too much memory
                network = self._compile(shape)
                self._free, self._shape = [network.create_infer_request() for _ in range(self._at_once)], shape
            return self._free

    def _compile(self, shape: tuple[int, ...] | None) -> Any:
        model = self._model
        if shape is not None:
            model = model.clone()
            model.reshape(shape)
        return self._core.compile_model(model, "CPU", self._options)


class _OnnxRuntime:
    """ONNX Runtime, on one CUDA device or on the CPU."""

    def __init__(self, model: Path, cuda_index: int | None, threads: int) -> None:
        import onnxruntime

        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self.device = "cpu" if cuda_index is None else f"cuda:{cuda_index}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures come back as exceptions; its own lines would spoil --json
        if threads:
            options.intra_op_num_threads = threads
        providers: list[Any] = ["CPUExecutionProvider"]
        if cuda_index is not None:
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise SetupError("CUDA was asked for, but this ONNX Runtime has no CUDA; use --device cpu")
            onnxruntime.set_default_logger_severity(4)
            with contextlib.redirect_stdout(sys.stderr):  # preload_dlls() prints what it cannot find
                onnxruntime.preload_dlls()
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": cuda_index}))
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=providers)
        except Exception as error:  # ONNX Runtime has no common base class for its failures
            where = "on CUDA" if cuda_index is not None else "on the CPU"
            raise SetupError(f"{model}: ONNX Runtime cannot load it {where} ({_first_line(error)})") from error
        # get_available_providers() lists CUDA even where its libraries do not load: ask what the session got.
        if cuda_index is not None and "CUDAExecutionProvider" not in self._session.get_providers():
            raise SetupError(
                f"CUDA was asked for ({self.device}) but cannot be used here; "
                "check the driver, install the extra with `uv sync --extra cuda`, or use --device cpu"
            )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Float32[np.ndarray, "..."]) -> tuple[Float32[np.ndarray, "..."], ...]:
        return tuple(self._session.run(None, {self._input: image}))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]


def read_metadata(model: Path) -> dict[str, Any]:
    """Read what ``shared.export`` wrote into the model's ``metadata_props``, without loading an engine.

    Raises:
        SetupError: the file is missing, is no ONNX file, or holds no Skiagram metadata.
    """
    try:
        with model.open("rb") as file:
            props = dict(_metadata_props(file, model.stat().st_size))
    except OSError as error:
        raise SetupError(f"{model}: no model can be read there ({error.strerror}); check --model") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise SetupError(f"{model}: not an ONNX file ({error}); give a model that `export` wrote") from error
    if METADATA_KEY not in props:
        raise SetupError(f"{model}: an ONNX file without Skiagram metadata; give a model that `export` wrote")
    try:
        metadata: dict[str, Any] = json.loads(props[METADATA_KEY])
    except json.JSONDecodeError as error:
        raise SetupError(f"{model}: its metadata is damaged ({error}); export it again") from error
    return metadata


def _metadata_props(file: BinaryIO, size: int) -> Any:
    """Yield the key-value pairs of ``ModelProto.metadata_props``, field 14 of onnx.proto, skipping all else."""
    while file.tell() < size:
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            _varint(file)
            continue
        if wire != 2 or not 1 <= field <= 26:
            raise ValueError("unexpected content")
        length = _varint(file)
        if file.tell() + length > size:
            raise ValueError("cut short")
        if field == 14:
            yield _string_pair(file.read(length))
        else:
            file.seek(length, os.SEEK_CUR)


def _string_pair(entry: bytes) -> tuple[str, str]:
    """Decode StringStringEntryProto: field 1 is the key, field 2 the value."""
    import io

    file, parts = io.BytesIO(entry), {1: "", 2: ""}
    while file.tell() < len(entry):
        tag = _varint(file)
        parts[tag >> 3] = file.read(_varint(file)).decode()
    return parts[1], parts[2]


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
