"""A process that looks at pictures for the server: it reads strangers' files, so that the server need not.

It has the networks, and neither keys nor the jobs' database; it may be killed at any moment, and ends by itself when
the server has gone. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from bones.service import frames
from bones.service.confine import forbid_dumps, go_first, limit_memory
from shared.errors import InputError, SetupError

NICENESS = 5
"""The server comes before its workers, so that it always answers."""
MARGIN_S = 5
"""How much longer than the server a worker waits before it ends itself."""


def main() -> None:
    """Load the gate, then answer until the pipe ends."""
    requests, answers = _own_pipes()
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the server, which gets them too, says when it is over
        signal.signal(ignored, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    go_first()
    forbid_dumps()
    first = frames.read(requests)
    if first is None:
        return
    memory_bytes = first[0].pop("memory_bytes", None)
    try:
        predictor = load(**first[0])
    except SetupError as error:
        frames.write(answers, {"setup": str(error)})
        return
    if memory_bytes and state(predictor)["device"] == "cpu":  # CUDA takes address space as it likes
        limit_memory(memory_bytes)
    frames.write(answers, {"state": state(predictor)})
    while (message := frames.read(requests)) is not None:
        if hasattr(signal, "alarm"):  # should the server be gone, nobody else would end this
            signal.alarm(math.ceil(message[0]["limit_s"]) + MARGIN_S)
        try:
            frames.write(answers, answer(predictor, *message))
        except BrokenPipeError:
            return
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def load(*, model: str | None, gate: str | None, preload: bool, **options: Any) -> Any:
    """Load the gate, and the detector where that is wanted at once."""
    from bones.predict import Predictor

    predictor = Predictor(model and Path(model), gate=gate and Path(gate), **options)
    if preload:
        predictor.preload()
    return predictor


def state(predictor: Any) -> dict[str, Any]:
    """Say what is loaded, and what it really runs on."""
    return {
        "engine": predictor.engine,
        "device": predictor.device,
        "precision": predictor.precision,
        "detector_loaded": predictor.is_loaded,
    }


def answer(predictor: Any, message: dict[str, Any], picture: bytes) -> dict[str, Any]:
    """Do what a message asks: a result, or the reason why there is none, and the state."""
    from bones.service import views, work

    known = {**work.WORK, **views.WORK}
    try:
        result: dict[str, Any] = {"result": known[message["what"]](predictor, picture, **message["arguments"])}
    except InputError as error:
        result = {"unusable": f"{error.problem}; {error.remedy}"}
    except SetupError as error:
        result = {"setup": str(error)}
    except MemoryError:
        result = {"unusable": "does not fit in this machine's memory; make it smaller"}
    except Exception as error:
        # Not its text: that may quote the picture.
        places = "".join(traceback.format_tb(error.__traceback__))
        result = {"failed": f"{type(error).__name__}\n{places}"}
    return result | {"state": state(predictor)}


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take the two pipes away from everything else that reads or prints."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, answers


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the engines have nothing to tidy up that is worth the wait
