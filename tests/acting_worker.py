"""A worker that does what a picture tells it to, in place of looking at it; see `told`."""

import os
import sys
import time
from pathlib import Path

HEAD = b"\x89PNG\r\n\x1a\n"
STATE = {"engine": "none", "device": "cpu", "precision": "fp32", "detector_loaded": True}
RESULT = {
    "schema_version": 1, "file": "", "width_px": 1, "height_px": 1, "model_sha256": "", "operating_point": "balanced",
    "threshold": 0.5, "gate": None, "detections": [], "forced": False,
}  # fmt: skip


def told(what: str) -> bytes:
    """A picture that makes the worker ``sleep S``, ``die``, ``die once FILE``, ``fail`` or tell its ``environment``."""
    return HEAD + what.encode()


def do(word, *arguments):
    if word == "sleep":
        time.sleep(float(arguments[0]))
    if word == "die" and not (arguments and Path(arguments[1]).exists()):
        if arguments:
            Path(arguments[1]).touch()
        os._exit(1)
    if word == "fail":
        return {"failed": "ValueError\n  somewhere"}
    if word == "load":
        return {"setup": "it cannot be loaded"}
    told = " ".join(sorted(os.environ)) if word == "environment" else word
    return {"result": RESULT | {"engine": told}}


def main() -> None:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of tests/, which has a folder bones too
    from bones.service import frames

    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    frames.read(requests)
    refusal = os.environ.get("WORKER_REFUSES")
    frames.write(answers, {"setup": refusal} if refusal else {"state": STATE})
    while (message := frames.read(requests)) is not None:
        frames.write(answers, {**do(*message[1].removeprefix(HEAD).decode().split()), "state": STATE})


if __name__ == "__main__":
    main()
