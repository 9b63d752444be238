"""A viewer on a free port, and Debian's Chromium: for the browser tests, the screenshots and the benchmark."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
# WebGL2 in software, and nothing that would reach out.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic",
]  # fmt: skip


@contextmanager
def viewer(folder, **environment):
    """Serve the viewer on a free port; gives its address and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"SKIAGRAM_VIEWER_FOLDER": str(folder), "SKIAGRAM_VIEWER_DEVICE": "cpu"} | environment
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "coronary/viewer/app.py", "--server.port", str(port)],
        cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    address = f"http://localhost:{port}"
    try:
        end = time.monotonic() + 300  # a busy machine is no failure
        while True:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < end, "the viewer did not start"
                time.sleep(0.2)
        yield address, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()  # none outlives its test
            log.close()
