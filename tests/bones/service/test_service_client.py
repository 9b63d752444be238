"""The Python client against the service itself, and what it makes of a busy or a strange one."""

import subprocess
import sys

import httpx
import numpy as np
import pytest
from bones_models import broken, limb, spot
from service_factory import photograph, png

from bones.client import Client, ServiceError, mask_of


@pytest.fixture
def service(client):
    return Client(http=client)


def answering(*answers, patience_s=60.0):
    """A client of a service that gives these answers, one after another, and what it was asked."""
    left, asked = list(answers), []

    def answer(request):
        asked.append(request)
        return left.pop(0)

    http = httpx.Client(base_url="http://bones", transport=httpx.MockTransport(answer))
    return Client(key="a key", http=http, patience_s=patience_s), asked


def test_pictures_are_looked_at_by_path_by_bytes_and_by_name(service, tmp_path):
    path = tmp_path / "wrist.png"
    path.write_bytes(png(broken()))
    found = service.detect(path)
    assert (found.file, found.width_px, found.height_px) == ("wrist.png", 128, 256)
    np.testing.assert_allclose([box.box_xyxy_px for box in found.detections], [spot(128, 256)], atol=4)
    assert service.detect(("other.png", path.read_bytes())).file == "other.png"
    assert service.detect(str(path)).detections == service.detect(path.read_bytes()).detections
    assert service.detect(photograph()).gate.passed is False
    assert service.detect(photograph(), force=True).gate is None


def test_the_mask_comes_as_an_array(service):
    mask = mask_of(service.segment(png(limb(160, 320))))
    assert mask.dtype == bool
    assert mask.shape == (320, 160)
    assert mask[:, 40:80].all()
    assert mask.sum() == 320 * 40


def test_a_job_is_waited_for_and_deleted(service):
    seen = []
    job = service.wait(
        service.submit([("a.png", png(broken())), ("b.png", b"\x89PNG\r\n\x1a\n, no more")]).id,
        timeout_s=60,
        on_progress=lambda job: seen.append(job.finished),
    )
    assert seen[-1] == job.total == 2
    assert [file.state for file in job.files] == ["done", "failed"]
    assert len(job.files[0].result.detections) == 1
    assert "damaged" in job.files[1].problem.detail
    service.delete(job.id)
    with pytest.raises(ServiceError) as caught:
        service.job(job.id)
    assert (caught.value.status, caught.value.kind) == (404, "not-found")


def test_what_is_wrong_is_said_as_the_service_says_it(service):
    with pytest.raises(ServiceError, match="truncated") as caught:
        service.detect(png(limb())[:200])
    assert (caught.value.status, caught.value.kind) == (422, "unusable-picture")
    assert len(caught.value.request_id) == 32
    with pytest.raises(ServiceError, match="PNG, JPEG"):
        service.segment(b"no picture at all")
    for ask in (service.detect, service.segment, lambda path: service.submit([path])):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            ask("nowhere.png")


def test_state_and_models(service):
    assert service.is_alive()
    assert service.ready().ready
    assert {model.network for model in service.models().models} == {"gate", "detector"}


def test_a_busy_service_is_asked_again_but_not_for_ever(monkeypatch):
    slept = []
    monkeypatch.setattr("bones.client.time.sleep", slept.append)
    busy = httpx.Response(503, headers={"Retry-After": "3"})
    limited = httpx.Response(429, headers={"Retry-After": "2"})
    client, asked = answering(busy, limited, httpx.Response(200, json={"models": [], "disclaimer": "."}))
    assert client.models().models == []
    assert slept == [3, 2]
    assert [request.headers["Authorization"] for request in asked] == ["Bearer a key"] * 3

    client, asked = answering(busy, patience_s=2.0)
    with pytest.raises(ServiceError, match="503") as caught:
        client.models()
    assert len(asked) == 1
    assert caught.value.status == 503


def test_a_strange_answer_is_an_error_that_says_so():
    with pytest.raises(ServiceError, match="502 Bad Gateway"):
        answering(httpx.Response(502, text="<html>proxy</html>"))[0].models()
    with pytest.raises(ServiceError, match="something else"):
        answering(httpx.Response(200, text="<html>another site</html>"))[0].models()
    starting = {"ready": False, "gate_loaded": False, "detector_loaded": False, "engine": None, "device": None}
    client, _ = answering(httpx.Response(503, json=starting | {"precision": None, "workers": 0, "waiting": 0}))
    assert client.ready().ready is False
    with Client("http://127.0.0.1:9", patience_s=0) as nobody:  # port 9 is for discarding, and nobody does
        assert not nobody.is_alive()
        with pytest.raises(ServiceError, match="No answer"):
            nobody.detect(png(limb()))


def test_the_client_needs_nothing_of_the_server():
    code = "import sys, bones.client; print(*{'fastapi', 'uvicorn', 'openvino', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
