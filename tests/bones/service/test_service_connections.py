"""Connections that ask nothing are ended, whatever trickles in; those that ask are not."""

import asyncio
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from bones.service import connections
from bones.service.connections import Connection

IDLE_S = 0.3
LONG_S = 4 * IDLE_S
WAIT_S = 60.0


async def app(scope, receive, send):
    """Answer ``/slow`` after some time, all else at once; no body is read."""
    if scope["path"] == "/slow":
        await asyncio.sleep(LONG_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "IDLE_S", IDLE_S)
        config = uvicorn.Config(
            app, port=0, http=Connection, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=100
        )
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run)
        running.start()
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        running.join()


def ended(port, *sent, trickle=b"", answers=0):
    """Send, then trickle a byte now and then; say whether the server ends it, and has answered so often."""
    end, heard = time.monotonic() + WAIT_S, b""
    with socket.create_connection(("127.0.0.1", port), timeout=IDLE_S / 10) as line:
        for part in sent:
            line.sendall(part)
        while time.monotonic() < end:
            try:
                if trickle:
                    line.sendall(trickle)
                some = line.recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                some = b""
            if not some:
                assert heard.count(b"200 OK") == answers
                return True
            heard += some
    return False


GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "trickle", "answers"),
    [
        ([], b"", 0),
        ([GET], b"", 0),
        ([GET + b"X-Slow: "], b"x", 0),
        ([GET + b"\r\n"], b"", 1),
        ([GET + b"\r\n" + GET + b"X-Slow: "], b"x", 1),
        ([POST], b"x", 1),  # the answer was there before the body was, which nobody reads
    ],
    ids=["silent", "half a head", "slow head", "silent after an answer", "slow second head", "slow body"],
)
def test_who_asks_nothing_is_not_waited_for(port, sent, trickle, answers):
    assert ended(port, *sent, trickle=trickle, answers=answers)


def test_who_asks_is_waited_for(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
        for path in ("/slow", *["/"] * 10):
            assert client.get(path).text == "ok"
            time.sleep(IDLE_S / 5)
