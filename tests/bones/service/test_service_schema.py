"""schemathesis against the service's own OpenAPI: nothing that can be made up breaks what it says of itself."""

import threading
import time
from contextlib import suppress

import pytest
import schemathesis
import uvicorn
from bones_models import broken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from radiograph_factory import dicom, film
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from service_factory import photograph, png, settings_in

from bones.service import create_app

KEY = "a-key-for-schemathesis-01"
FEW, MANY = 30, 150
"""Requests to each of the seven operations that take any, right ones and as many wrong ones."""

PICTURES = st.sampled_from([png(broken()), photograph(), dicom(film()), b"", b"GIF89a", png(broken())[:90]])
for media_type in ("image/png", "image/jpeg", "image/tiff", "image/bmp", "application/dicom"):
    schemathesis.openapi.media_type(media_type, PICTURES | st.binary(max_size=200))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The service on a loopback port, with a key."""
    app = create_app(settings_in(tmp_path_factory.mktemp("schema"), api_keys=(KEY,)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started and running.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    running.join()


@pytest.fixture(scope="module")
def described(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


OPERATIONS = [
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
    ("/v1/models", "GET"),
    ("/v1/segment", "POST"),
    ("/v1/detect", "POST"),
    ("/v1/jobs", "POST"),
    ("/v1/jobs/{job_id}", "GET"),
    ("/v1/jobs/{job_id}", "DELETE"),
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


def ask(described, path, method, mode, examples):
    """Make up requests that the description allows, or that it forbids, and hold the answers against it."""
    asked = 0
    positive = mode is GenerationMode.POSITIVE
    # Made-up bytes are no picture, whatever the description allows: 415 and 422 are right.
    excluded = [positive_data_acceptance, *([negative_data_rejection] if positive else [])]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    def each(case):
        nonlocal asked
        asked += 1
        body = case.body if isinstance(case.body, dict) else {}
        if positive and path == "/v1/jobs" and isinstance(body.get("file"), bytes):
            case.body = body | {"file": [body["file"]] * 2}  # schemathesis forgets that there are several
        known = {"Authorization": f"Bearer {KEY}"} if positive or "Authorization" in (case.headers or {}) else {}
        case.call_and_validate(headers=known, excluded_checks=excluded, timeout=120)

    with suppress(Unsatisfiable):  # nothing about a request without parameters can be wrong
        each()
    return asked


def test_every_operation_is_asked(described):
    found = {(each.ok().path, each.ok().method.upper()) for each in described.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_made_up_requests_find_nothing(described, path, method, mode):
    ask(described, path, method, mode, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_2000_made_up_requests_find_nothing(described, path, method, mode):
    asked = ask(described, path, method, mode, MANY)
    assert asked >= MANY or path in ("/health", "/ready")  # which have but one
