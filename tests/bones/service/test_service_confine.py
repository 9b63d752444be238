"""What processes of the service may not do: dump their memory, take all of the machine's."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from bones_models import limb
from service_factory import client_of, png, settings_in, upload

from bones.service import confine, frames
from bones.service.confine import LEAST_SHARE, memory_bytes, memory_share
from bones.service.settings import MEBIBYTE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

CONFINED = """
import ctypes, resource
from pathlib import Path
import bones.service.worker as worker

class Predictor:
    engine, precision, is_loaded = "none", "fp32", False
    device = {device!r}

worker.load = lambda **options: Predictor()
worker.answer = lambda predictor, message, picture: {{
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
    "limited": resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY,
}}
worker.main()
"""


def confined(device):
    asked = io.BytesIO()
    frames.write(asked, {"memory_bytes": 1 << 30})
    frames.write(asked, {"limit_s": 100})
    command = [sys.executable, "-c", CONFINED.format(device=device)]
    done = subprocess.run(command, input=asked.getvalue(), capture_output=True, timeout=100, check=True)
    answers = io.BytesIO(done.stdout)
    frames.read(answers)
    return frames.read(answers)[0]


def test_a_worker_leaves_no_dump_and_goes_before_the_server():
    assert confined("cpu") == {"dumpable": 0, "oom_score_adj": 1000, "limited": True}
    assert confined("cuda:0")["limited"] is False


def test_a_picture_beyond_its_share_of_memory_is_refused_alone(tmp_path):
    large = png(np.zeros((3000, 3000, 3), np.float32))  # nine million pixels of 18 bytes each
    with client_of(settings_in(tmp_path, worker_memory_mb=96)) as client:
        refused = client.post("/v1/segment", files=upload(large))
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:skiagram:problem:unusable-picture")
        assert "memory" in refused.json()["detail"]
        assert client.post("/v1/segment", files=upload(png(limb()))).status_code == 200
        assert "skiagram_worker_restarts_total{" not in client.get("/metrics").text


def test_memory_is_what_the_strictest_group_leaves(monkeypatch, tmp_path):
    machine = memory_bytes()
    assert machine > 0
    monkeypatch.setattr(confine, "CGROUPS", tmp_path)
    real = confine.Path

    def path(*parts):
        return real(tmp_path / "own") if parts == ("/proc/self/cgroup",) else real(*parts)

    monkeypatch.setattr(confine, "Path", path)
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/system.slice/bones.service\n")
    (tmp_path / "system.slice" / "bones.service").mkdir(parents=True)
    (tmp_path / "system.slice" / "bones.service" / "memory.max").write_text("max\n")
    assert memory_bytes() == machine
    (tmp_path / "system.slice" / "memory.max").write_text(f"{100 * MEBIBYTE}\n")
    assert memory_bytes() == 100 * MEBIBYTE
    assert memory_share(4) == LEAST_SHARE
    (tmp_path / "memory.max").write_text(f"{50 * MEBIBYTE}\n")
    assert memory_bytes() == 50 * MEBIBYTE


def test_an_answer_that_is_none_is_a_dead_worker(monkeypatch):
    import asyncio

    async def read(raw):
        stream = asyncio.StreamReader()
        stream.feed_data(raw)
        stream.feed_eof()
        return await frames.receive(stream)

    assert asyncio.run(read(frames.pack({"a": 1}))) == {"a": 1}
    for raw in (b"\xff" * 8, b"\0\0\0\1\0\0\0\0{", b"\0\0\0\1\0\0\0\0\xff"):
        with pytest.raises(ValueError, match="bytes|Expecting|decode"):
            asyncio.run(read(raw))
    assert json.loads(frames.pack({})[8:]) == {}
