"""The image's own lines in a clean folder: it installs, is small, has no torch, and its start line serves.

No container engine is needed: what docker/Dockerfile says is carried out here, with the libraries in uv's cache.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from bones_models import broken, write_detector
from service_factory import png

from bones.client import Client

ROOT = Path(__file__).resolve().parents[3]
LINES = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
MAX_MB = 800
KEY = "a key for the image's test"
# What python:3.12-slim has: the C and C++ libraries, zlib.
BASE_LIBRARIES = {
    "libc", "libm", "libdl", "libpthread", "librt", "libresolv", "libutil", "libstdc++", "libgcc_s", "libz",
}  # fmt: skip
HASH_OR_VERSION = r"\.so|-[0-9a-f]{8}"
OPTIONAL_LIBRARIES = {"libOpenCL"}  # OpenVINO's plugin for GPUs, which is not loaded


def lines_of(instruction, stage):
    """What follows an instruction in a stage, in order."""
    found, now = [], ""
    for line in LINES:
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            now = rest.split(" AS ")[1].strip()
        elif word == instruction and now == stage:
            found.append(rest.strip())
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder that would be /app, installed as the image is."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv here: pip install uv")
    app = tmp_path_factory.mktemp("image") / "app"
    app.mkdir()
    for line in lines_of("COPY", "build"):
        *sources, target = line.split()
        for source in (path for pattern in sources for path in ROOT.glob(pattern)):
            _copy(source, app / target / (source.name if target.endswith("/") else ""))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    environment |= {"UV_OFFLINE": "1"} | {name: os.environ[name] for name in ("UV_CACHE_DIR",) if name in os.environ}
    for line in lines_of("RUN", "build"):
        if "pip install" not in line:  # of uv itself
            done = subprocess.run(["sh", "-ec", line], cwd=app, env=environment, capture_output=True, text=True)
            if "network was disabled" in done.stderr:
                pytest.skip("uv's cache has not all that the image needs: uv sync fills it")
            assert done.returncode == 0, done.stderr
    return app


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target = target / source.name if target.is_dir() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def test_the_environment_is_small_and_has_no_torch(image):
    megabytes = sum(path.lstat().st_size for path in (image / ".venv").rglob("*") if not path.is_symlink()) / 1e6
    print(f"{megabytes:.0f} MB")
    assert 100 < megabytes < MAX_MB
    modules = {path.name.lower() for path in (image / ".venv").glob("lib/python3*/site-packages/*")}
    assert {"fastapi", "openvino", "onnxruntime"} <= modules
    assert modules.isdisjoint({"torch", "torchvision", "ultralytics", "monai", "streamlit", "matplotlib", "onnx"})


@pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd here")
def test_no_library_of_the_system_is_needed_that_the_slim_image_lacks(image):
    files = [str(path) for path in (image / ".venv").rglob("*.so*") if not path.is_symlink()]
    said = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    names = {found[1].split(".so")[0] for found in re.finditer(r"^\s+(\S+) => (?!\S*/\.venv/)", said, re.MULTILINE)}
    bundled = {re.split(HASH_OR_VERSION, Path(file).name)[0] for file in files}
    assert {re.split(HASH_OR_VERSION, name)[0] for name in names} - bundled <= BASE_LIBRARIES | OPTIONAL_LIBRARIES


def snapshot(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_the_start_line_serves_checks_its_health_and_stops(image, tmp_path):
    """Where a port and a folder are this test's own, all else is the image's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"HOME": str(tmp_path), "LANG": "C.UTF-8", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    for line in lines_of("ENV", "service"):
        for name, value in re.findall(r"(\w+)=(\S+)", line):
            value = value.replace("$PATH", environment["PATH"]).replace("/var/lib/skiagram", str(tmp_path))
            environment[name] = value.replace("/app", str(image))
    command = json.loads(lines_of("ENTRYPOINT", "service")[0]) + json.loads(lines_of("CMD", "service")[0])
    command[0] = str(image / ".venv" / "bin" / command[0])

    def started(**more):
        return subprocess.Popen(
            [word.replace("8000", port) for word in command],
            cwd=image, env=environment | more, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    refused = started()  # the line listens to everybody, and there is no key
    assert "no key is set" in refused.communicate(timeout=120)[1]
    assert refused.returncode == 2
    command[command.index("0.0.0.0")] = "127.0.0.1"
    model = str(write_detector(tmp_path / "detector.onnx"))
    before = snapshot(image)
    server = started(SKIAGRAM_API_KEYS=KEY, SKIAGRAM_MODEL=model, SKIAGRAM_WORKERS="1")
    try:
        with Client(f"http://127.0.0.1:{port}", KEY) as client:
            end = time.monotonic() + 200
            while not (client.is_alive() and client.ready().ready):
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < end, "the service did not start"
                time.sleep(0.3)
            check = json.loads(re.search(r"CMD (\[.*\])", lines_of("HEALTHCHECK", "service")[0])[1])
            check = [word.replace("8000", port) for word in check]
            subprocess.run(check, env=environment, check=True, timeout=60)
            assert len(client.detect(png(broken()), force=True).detections) == 1
            assert client.wait(client.submit([png(broken())]).id, timeout_s=60).files[0].state == "done"
            assert {model.file for model in client.models().models} == {"bones-gate.onnx", "detector.onnx"}
    finally:
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[1]
    assert server.returncode in (0, -signal.SIGTERM), said
    assert "shutdown complete" in said
    assert KEY not in said
    assert snapshot(image) == before  # its root may be read-only
