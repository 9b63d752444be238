"""Hundreds of broken files: each is answered in a sentence, none brings anything down, none leaves a file behind."""

import time
from collections import Counter

import pytest
from bones_models import broken
from broken_pictures import MAX_PIXELS, corpus
from service_factory import client_of, png, settings_in, upload

from bones.service.problems import MEDIA_TYPE
from bones.service.uploads import HEADS, clean_name
from shared.io.dicom_file import looks_dicom

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def files():
    found = corpus()
    assert len(dict(found)) == len(found) > 300
    return found


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A service whose every temporary file would be seen."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "temp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "TEMP", "TMP"):
            patch.setenv(name, str(folder / "temp"))
        settings = settings_in(folder, max_pixels=MAX_PIXELS, picture_seconds=LIMIT_S, max_job_files=1000)
        with client_of(settings) as client:
            yield client, folder


def restarts(client):
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("skiagram_worker_restarts_total"))


def test_broken_files_are_answered(attacked, files):
    client, folder = attacked
    before = sorted(folder.iterdir())
    statuses, slowest = Counter(), 0.0
    for name, content in files:
        started = time.perf_counter()
        answer = client.post("/v1/detect?force=true", files=upload(content, "picture"))
        slowest = max(slowest, time.perf_counter() - started)
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 415, 422), (name, answer.text)
        if answer.status_code != 200:
            assert answer.headers["content-type"] == MEDIA_TYPE, name
            assert answer.json()["detail"].startswith("the picture: "), name
    assert statuses[200] < 80  # whole ones of odd kinds, and such as survive an altered byte
    assert statuses[415] > 10
    assert statuses[422] > 200
    assert slowest < LIMIT_S
    assert restarts(client) == 0
    assert list((folder / "temp").iterdir()) == []
    assert sorted(folder.iterdir()) == before
    assert client.post("/v1/detect", files=upload(png(broken()))).json()["detections"]


def test_broken_files_of_a_job_fail_alone(attacked, files):
    client, folder = attacked
    kinds = [content for _, content in files if content.startswith(HEADS) or looks_dicom(content[:132])]
    kinds = [content for content in kinds if len(content) < 50_000][::5]
    answer = client.post("/v1/jobs", files=[("file", ("a.png", content)) for content in [*kinds, png(broken())]])
    assert answer.status_code == 202
    where, job = answer.headers["location"], answer.json()
    deadline = time.monotonic() + 200
    while job["state"] != "done" and time.monotonic() < deadline:
        time.sleep(0.2)
        job = client.get(where).json()
    assert job["finished"] == job["total"] == len(kinds) + 1
    assert {file["problem"]["status"] for file in job["files"] if file["state"] == "failed"} == {422}
    assert all("result" in file for file in job["files"] if file["state"] == "done")
    assert job["files"][-1]["result"]["detections"]
    assert client.delete(where).status_code == 204
    assert list((folder / "temp").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\..\\a.png", "a\0b.png", "\r\nX-Evil: 1", "é\u202e.png", "x" * 1000]
)
def test_names_do_no_harm(client, name):
    answer = client.post("/v1/segment", files=upload(png(broken()), name))
    assert answer.status_code == 200
    shown = answer.json()["file"]
    assert shown == clean_name(shown)
    assert 0 < len(shown) <= 200
    assert not set(shown) & set("/\\\0\r\n\u202e")
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x--\r\n",
        b"--x\r\n\r\n\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nabc\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
        + b"A: b\r\n" * 5000
        + b"\r\nabc\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="\xff\xfe"; filename="\xff"\r\n\r\nabc\r\n--x--\r\n',
        b"--x\r\n" + b'Content-Disposition: form-data; name="a"\r\n\r\n1\r\n--x\r\n' * 500,
        b"\0" * 10_000,
    ],
)
@pytest.mark.parametrize("path", ["/v1/detect", "/v1/jobs"])
@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "multipart/form-data", "application/json", "", "a/b;;;=\xff"]
)
def test_forms_that_are_none_are_refused(client, path, body, kind):
    answer = client.post(path, content=body, headers={"Content-Type": kind.encode("latin-1")})
    assert answer.status_code in (400, 415, 422)
    assert answer.headers["content-type"] == MEDIA_TYPE
