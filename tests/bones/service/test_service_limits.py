"""What a request must pass: keys, rates, sizes, times, origins; and that nothing of it reaches the disk."""

import asyncio
import hashlib
import os
import sys
import tempfile
import threading
import time

import acting_worker
import numpy as np
import pytest
from acting_worker import told
from bones_models import broken
from fastapi.testclient import TestClient
from pydantic import SecretStr
from service_factory import client_of, png, settings_in, upload

from bones.service import auth, create_app, inference
from bones.service.auth import Keys, new_key
from bones.service.serve import check_exposure
from bones.service.settings import MEBIBYTE, Settings, read_settings
from shared.errors import SetupError

KEYS = {"first": "a-key-for-the-first-0001", "second": "a-key-for-the-second-0002"}
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def bearer(whose):
    return {"Authorization": f"Bearer {KEYS[whose]}"}


@pytest.fixture
def acting(monkeypatch):
    monkeypatch.setattr(inference, "WORKER", (sys.executable, "-S", "-E", acting_worker.__file__))


@pytest.fixture
def idle(tmp_path):
    """An application whose workers are not started: enough for what is refused before a worker is asked."""
    return lambda **changes: client_of(settings_in(tmp_path, **changes))


def asking_to_detect(headers=()):
    return {
        "type": "http", "method": "POST", "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"",
        "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x"), *headers],
    }  # fmt: skip


def send(app, parts, pause_s=0.0, headers=()):
    """Ask the application for a detection; give the status and how many parts of the body it took."""
    taken, answer = 0, {}

    async def receive():
        nonlocal taken
        await asyncio.sleep(pause_s)
        taken += 1
        return {"type": "http.request", "body": parts[taken - 1], "more_body": taken < len(parts)}

    async def respond(message):
        answer.setdefault("status", message.get("status"))

    asyncio.run(app(asking_to_detect(headers), receive, respond))
    return answer["status"], taken


def test_what_is_too_large_is_not_read(idle):
    app = idle(max_upload_mb=1).app
    declared = [(b"content-length", b"%d" % (2 * MEBIBYTE))]
    assert send(app, [b"x" * 2 * MEBIBYTE], headers=declared) == (413, 0)
    assert send(app, [FORM] + [b"x" * 300_000] * 50) == (413, 5)  # the first part that is one too many
    part = FORM + b"x" * (MEBIBYTE + 1) + b"\r\n--x--\r\n"
    assert send(app, [part]) == (413, 1)  # within what a form may have, but not as a picture


def test_a_body_that_does_not_come_is_not_waited_for(idle):
    app = idle(upload_seconds=0.3).app
    started = time.perf_counter()
    assert send(app, [FORM] * 1000, pause_s=0.05)[0] == 408
    assert send(app, [FORM], pause_s=60)[0] == 408
    assert time.perf_counter() - started < 20


def test_a_key_has_a_rate_of_its_own(idle):
    client = idle(api_keys=tuple(KEYS.values()), rate_per_minute=3)
    for _ in range(3):
        assert client.get("/v1/models", headers=bearer("first")).status_code == 200
    away = client.get("/v1/models", headers=bearer("first"))
    assert away.status_code == 429
    assert 1 <= int(away.headers["retry-after"]) <= 20
    assert client.get("/v1/models", headers=bearer("second")).status_code == 200
    assert client.get("/health").status_code == 200


def test_a_full_line_is_said_before_the_body_is_read(idle):
    client = idle(max_queue=0)
    with client.app.state.pool.place():
        assert send(client.app, [FORM] * 3) == (503, 0)
        away = client.post("/v1/detect", files=upload(png(broken())))
        assert int(away.headers["retry-after"]) >= 1
        assert away.json()["type"].endswith(":busy")


def test_one_of_several_keys_cannot_take_the_whole_line(idle):
    client = idle(api_keys=tuple(KEYS.values()), max_queue=3)  # and one place with the worker
    line, first = client.app.state.pool, client.app.state.keys.owner_of(KEYS["first"])
    with line.place(first), line.place(first):
        assert client.post("/v1/detect", headers=bearer("first")).status_code == 503
        assert client.post("/v1/detect", headers=bearer("second")).status_code == 422  # has a place, sends no picture
    alone = idle(api_keys=(KEYS["first"],), max_queue=3)
    with alone.app.state.pool.place(first), alone.app.state.pool.place(first):
        assert alone.post("/v1/detect", headers=bearer("first")).status_code == 422


def test_nobody_works_for_a_client_that_has_gone(idle):
    ends = []

    async def forever(what, picture, **arguments):
        try:
            await asyncio.sleep(600)
        finally:
            ends.append(what)

    async def respond(message):
        ends.append(message.get("status"))

    app = idle(max_queue=0).app
    app.state.pool.run = forever
    body = FORM + told("sleep 600") + b"\r\n--x--\r\n"
    coming = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

    async def receive():
        return next(coming)

    asyncio.run(app(asking_to_detect(), receive, respond))
    assert ends[:2] == ["detect", 499]
    with app.state.pool.place():  # its place is free again
        pass


def test_few_jobs_arrive_at_a_time(idle):
    client = idle()
    with client.app.state.guard.job_place(), client.app.state.guard.job_place():
        assert client.post("/v1/jobs", files=upload(png(broken()))).status_code == 503


def test_a_job_has_at_most_so_many_files(idle):
    client = idle(max_job_files=2)
    files = [("file", ("a.png", png(broken())))] * 3
    assert client.post("/v1/jobs", files=files).status_code == 400


def test_keys_are_asked_for(idle):
    hashed = "sha256:" + hashlib.sha256(KEYS["second"].encode()).hexdigest()
    client = idle(api_keys=(KEYS["first"], hashed))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEYS['first']}"},
                    {"Authorization": "Bearer "}, {"Authorization": f"Bearer {hashed}"}):  # fmt: skip
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/detect"), ("POST", "/v1/jobs"),
                             ("GET", "/v1/jobs/some"), ("DELETE", "/v1/jobs/some")):  # fmt: skip
            away = client.request(method, path, headers=headers)
            assert (away.status_code, away.headers["www-authenticate"]) == (401, "Bearer")
    for whose in KEYS:
        assert client.get("/v1/models", headers=bearer(whose)).status_code == 200
    assert client.get("/health").status_code == 200
    assert send(client.app, [FORM]) == (401, 0)


def test_keys_are_kept_as_hashes_and_all_are_compared(monkeypatch, idle):
    compared = []
    monkeypatch.setattr(auth, "compare_digest", lambda *both: compared.append(both) or both[0] == both[1])
    keys = Keys(SecretStr(key) for key in KEYS.values())
    assert keys.owner_of(KEYS["first"]) not in (None, keys.owner_of(KEYS["second"]))
    assert keys.owner_of("wrong") is None
    assert len(compared) == 3 * len(KEYS)
    assert not any(key in repr(vars(keys)) for key in KEYS.values())
    settings = idle(api_keys=tuple(KEYS.values())).app.state.settings
    assert KEYS["first"] not in repr(settings) + str(settings.model_dump())
    key, hashed = new_key()
    assert Keys([SecretStr(hashed)]).owner_of(key) == Keys([SecretStr(key)]).owner_of(key) is not None


@pytest.mark.parametrize("key", ["too-few-letters", "sha256:abc"])
def test_keys_that_are_none_are_refused(key):
    with pytest.raises(SetupError, match="--new-key") as error:
        Keys([SecretStr(key)])
    assert key not in str(error.value)


def test_a_job_is_its_own_keys_affair(acting, tmp_path):
    with client_of(settings_in(tmp_path, api_keys=tuple(KEYS.values()))) as client:
        job = client.post("/v1/jobs", files=upload(told("sleep 0")), headers=bearer("first")).headers["location"]
        assert client.get(job, headers=bearer("first")).status_code == 200
        for method in ("GET", "DELETE"):
            assert client.request(method, job, headers=bearer("second")).status_code == 404
        assert client.delete(job, headers=bearer("first")).status_code == 204


def test_pages_of_other_sites_are_refused_unless_allowed(idle):
    there = {"Origin": "https://elsewhere.example"}
    client = idle(max_queue=0)
    with client.app.state.pool.place():  # 503 is past the check
        assert client.post("/v1/detect", headers=there).status_code == 403
        for none in ("null", "http://[", "http://[localhost"):
            assert client.post("/v1/detect", headers={"Origin": none}).status_code == 403
        assert client.post("/v1/detect", headers={"Origin": "http://localhost"}).status_code == 503
        assert client.post("/v1/detect").status_code == 503
    asked = there | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}
    refused = client.options("/v1/detect", headers=asked)
    assert "access-control-allow-origin" not in refused.headers
    open_to_one = idle(cors_origins=(there["Origin"],), max_queue=0)
    allowed = open_to_one.options("/v1/detect", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == there["Origin"]
    with open_to_one.app.state.pool.place():
        away = open_to_one.post("/v1/detect", headers=there)
        assert (away.status_code, away.headers["access-control-allow-origin"]) == (503, there["Origin"])
        shown = {name.strip().lower() for name in away.headers["access-control-expose-headers"].split(",")}
        assert shown >= {"location", "retry-after", "x-request-id"}
        assert open_to_one.post("/v1/detect", headers={"Origin": "https://other.example"}).status_code == 403


def test_without_a_key_only_this_machine_is_answered(tmp_path):
    def asked(client_host, host, **changes):
        app = create_app(settings_in(tmp_path, **changes))
        asking = TestClient(app, base_url="http://localhost", client=(client_host, 1))
        return [asking.get(path, headers={"Host": host}).status_code for path in ("/health", "/v1/models", "/")]

    for host in ("localhost", "localhost:8010", "127.0.0.1:8010", "[::1]:8010"):
        assert asked("127.0.0.1", host) == [200] * 3
    assert asked("::1", "localhost") == [200] * 3
    assert asked("10.0.0.5", "localhost") == [403] * 3
    assert asked("somebody", "localhost") == [403] * 3
    for host in ("evil.example", "localhost.evil.example", "", "[", "[::1"):
        assert asked("127.0.0.1", host) == [403] * 3
    assert asked("10.0.0.5", "bones.example", allow_open=True)[:2] == [200] * 2
    assert asked("10.0.0.5", "bones.example", api_keys=(KEYS["first"],))[:2] == [200, 401]


def test_an_address_that_others_reach_needs_a_key():
    for host in ("0.0.0.0", "::", "192.0.2.1", "bones.example", ""):
        with pytest.raises(SetupError, match="no key is set"):
            check_exposure(host, Settings())
        check_exposure(host, Settings(api_keys=(KEYS["first"],)))
        check_exposure(host, Settings(allow_open=True))
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(host, Settings())


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SKIAGRAM_MAX_UPLOAD_MB", "7")
    monkeypatch.setenv("SKIAGRAM_API_KEYS", f"{KEYS['first']}, {KEYS['second']}")
    monkeypatch.setenv("SKIAGRAM_CORS_ORIGINS", "")
    settings = read_settings(preload=True)
    assert (settings.max_upload_bytes, len(settings.api_keys), settings.cors_origins) == (7 * MEBIBYTE, 2, ())
    assert settings.preload
    monkeypatch.setenv("SKIAGRAM_MAX_UPLOAD_MB", "much")
    with pytest.raises(SetupError, match="SKIAGRAM_MAX_UPLOAD_MB: .*'much'; correct or unset it"):
        read_settings()


def test_a_secret_that_could_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv("SKIAGRAM_SESSION_SECRET", "summer")
    with pytest.raises(SetupError, match="SKIAGRAM_SESSION_SECRET: .*32 .*correct or unset it") as error:
        read_settings()
    assert "summer" not in str(error.value)


def test_a_missing_model_is_said_at_once(tmp_path):
    with pytest.raises(SetupError, match="no such model"):
        create_app(settings_in(tmp_path, model=tmp_path / "none.onnx"))


def test_no_picture_reaches_the_disk(acting, tmp_path, monkeypatch):
    """Nor does a form with two of them; only a job's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    opened = []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])
        if event.startswith("tempfile."):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    large = told("sleep 0") + b" " * 5 * MEBIBYTE
    settings = settings_in(tmp_path)
    with client_of(settings) as client:
        opened.clear()
        two = {"file": ("a.png", large), "other": ("b.png", large)}
        assert client.post("/v1/detect", files=two).status_code == 200
        assert opened == []
        with tempfile.TemporaryFile():  # the watch does see what it is for
            assert opened
    assert list((tmp_path / "temp").iterdir()) == []


def test_16_clients_leave_the_server_its_air_and_nothing_is_lost(acting, tmp_path):
    with client_of(settings_in(tmp_path, workers=2, max_queue=8)) as client:
        statuses, waits = [], []

        def ask():
            for _ in range(6):
                answer = client.post("/v1/detect", files=upload(told("sleep 0.02")))
                statuses.append((answer.status_code, answer.headers.get("retry-after")))

        clients = [threading.Thread(target=ask) for _ in range(16)]
        for each in clients:
            each.start()
        while any(each.is_alive() for each in clients):
            started = time.perf_counter()
            assert client.get("/health").status_code == 200
            waits.append(time.perf_counter() - started)
    assert len(statuses) == 16 * 6
    assert {status for status, _ in statuses} <= {200, 503}
    assert all(retry for status, retry in statuses if status == 503)
    assert sum(status == 200 for status, _ in statuses) >= 10
    assert np.median(waits) < 1.0
