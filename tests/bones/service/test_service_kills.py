"""The service itself, killed twenty times while it works off jobs: the server, or the process that reads pictures."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bones_models import broken
from service_factory import png, settings_in

from bones.client import Client, ServiceError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
]

START_S = 120.0
PICTURES = 6
"""In one job."""


class Service:
    """`bones serve` on a port of its own, started anew after each kill."""

    def __init__(self, folder):
        settings_in(folder)  # writes the models
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SKIAGRAM_")} | {
            "SKIAGRAM_GATE": str(folder / "gate.onnx"),
            "SKIAGRAM_MODEL": str(folder / "detector.onnx"),
            "SKIAGRAM_JOBS_URL": f"sqlite:///{folder / 'jobs.sqlite'}",
            "SKIAGRAM_WORKERS": "1",
            "SKIAGRAM_THREADS": "1",
            "SKIAGRAM_RATE_PER_MINUTE": "1e6",
        }
        self.client = Client(f"http://127.0.0.1:{self.port}", timeout_s=60, patience_s=0)
        self.start()

    def start(self):
        command = [sys.executable, "-m", "bones", "serve", "--port", str(self.port), "--quiet"]
        self.process = subprocess.Popen(command, env=self.environment)
        end = time.monotonic() + START_S
        while not self.client.is_alive():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)

    def kill_server(self):
        self.process.kill()
        self.process.wait()

    def workers(self):
        """Give the processes whose parent the server is."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = path.read_text().rpartition(")")[2].split()[1]
            except OSError:  # gone meanwhile
                continue
            if int(parent) == self.process.pid:
                found.append(int(path.parent.name))
        return found


def hand_in(service, rng, accepted):
    """Hand a job in, of pictures whose width tells them apart; an answer that does not come is no acceptance."""
    widths = [rng.randrange(64, 256) for _ in range(PICTURES)]
    try:
        job = service.client.submit([(f"{width}.png", png(broken(width, 2 * width))) for width in widths])
    except ServiceError:
        return
    accepted[job.id] = widths


def test_20_kills_and_every_accepted_picture_has_its_own_result(tmp_path):
    service, rng, accepted = Service(tmp_path), random.Random(6), {}
    for number in range(20):
        for _ in range(3):
            hand_in(service, rng, accepted)
        time.sleep(rng.uniform(0.0, 0.4))
        if number % 2:
            service.kill_server()
            service.start()
        else:
            for worker in service.workers():
                os.kill(worker, signal.SIGKILL)
    assert len(accepted) > 20
    for job_id, widths in accepted.items():
        job = service.client.wait(job_id, timeout_s=120)
        assert [(file.file, file.state) for file in job.files] == [(f"{width}.png", "done") for width in widths]
        assert [file.result.width_px for file in job.files] == widths
        assert all(len(file.result.detections) == 1 for file in job.files)
    left = service.workers()
    service.process.terminate()  # as docker and systemd end it
    assert service.process.wait(60) in (0, -signal.SIGTERM)
    service.client.close()
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    assert not any(b"\x89PNG" in path.read_bytes() for path in tmp_path.glob("jobs.sqlite*"))
