"""How the server ends: what runs is finished, within its time; jobs stay queued."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import acting_worker
import httpx
import pytest
from acting_worker import told
from service_factory import settings_in, upload

from bones.service.auth import LOCAL
from bones.service.jobs import Jobs

SERVE = """
import sys
import bones.service.inference as inference
inference.WORKER = (sys.executable, "-S", "-E", sys.argv[1])
from bones.service.serve import serve
serve("127.0.0.1", int(sys.argv[2]), gate=sys.argv[3], model=sys.argv[4], jobs_url=sys.argv[5], workers=1)
"""


@contextmanager
def serving(folder, **environment):
    """A server of its own; gives its process, its address, and a function that asks it in a thread of its own."""
    settings = settings_in(folder)
    port = free_port()
    words = [acting_worker.__file__, str(port), settings.gate, settings.model, settings.jobs_url.get_secret_value()]
    command = [sys.executable, "-c", SERVE, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as server:
        try:
            wait_for(port)
            yield server, f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def asking(address, seconds, answers):
    """Ask for a picture that takes so long, in a thread; what comes of it is put with the answers."""

    def ask():
        try:
            answers.append(httpx.post(f"{address}/v1/detect", files=upload(told(f"sleep {seconds}")), timeout=400))
        except httpx.TransportError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_stop_lets_running_requests_finish(tmp_path):
    answers = []
    with serving(tmp_path) as (server, address):
        threads = [asking(address, seconds, answers) for seconds in (5, 0)]
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline and not httpx.get(f"{address}/ready").json()["waiting"]:
            time.sleep(0.05)
        server.terminate()
        for thread in threads:
            thread.join()
        _, said = server.communicate(timeout=200)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "Application shutdown complete" in said
    assert "a.png" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_a_stop_waits_only_so_long_and_puts_a_jobs_picture_back(tmp_path):
    answers = []
    with serving(tmp_path, SKIAGRAM_STOP_SECONDS="1", SKIAGRAM_PICTURE_SECONDS="600") as (server, address):
        job = httpx.post(f"{address}/v1/jobs", files=upload(told("sleep 500"))).json()
        while httpx.get(f"{address}/v1/jobs/{job['id']}").json()["state"] != "running":
            time.sleep(0.05)
        thread = asking(address, 500, answers)
        while not httpx.get(f"{address}/ready").json()["waiting"]:
            time.sleep(0.05)
        server.terminate()
        _, said = server.communicate(timeout=200)
        thread.join()
    assert "Application shutdown complete" in said
    assert isinstance(answers[0], httpx.TransportError) or answers[0].status_code in (500, 503)
    left = Jobs(settings_in(tmp_path).jobs_url.get_secret_value())
    assert [file.state for file in left.status(job["id"], LOCAL).files] == ["queued"]
    left.stop()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health")
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError
