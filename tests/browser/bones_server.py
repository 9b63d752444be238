"""The fracture service on a free port, with the shipped gate and a detector of a few numbers unless told otherwise."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from bones_models import write_detector

ROOT = Path(__file__).resolve().parents[2]
KEY = "a key for the browser tests"
START_S = 120


@contextmanager
def fracture_service(folder, **environment):
    """Serve it; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "SKIAGRAM_MODEL": str(write_detector(folder / "detector.onnx")),
        "SKIAGRAM_GATE": str(ROOT / "data" / "models" / "bones-gate.onnx"),
        "SKIAGRAM_JOBS_URL": f"sqlite:///{folder / 'jobs.sqlite'}",
        "SKIAGRAM_WORKERS": "1",
    }
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bones", "serve", "--port", str(port)],
            cwd=ROOT, env={**os.environ, **settings, **environment}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            end = time.monotonic() + START_S
            while not _answers(f"http://localhost:{port}/health"):
                assert process.poll() is None, (folder / "service.log").read_text()
                assert time.monotonic() < end, "the service did not start"
                time.sleep(0.2)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _answers(address):
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except OSError:
        return False
    return True
