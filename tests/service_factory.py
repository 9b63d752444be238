"""The fracture service with networks of a few numbers, for tests that ask it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from bones_models import write_detector, write_gate
from fastapi.testclient import TestClient
from PIL import Image

from bones.service import create_app
from bones.service.settings import Settings


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Write models and keep jobs in a folder; one worker of one thread."""
    given: dict[str, Any] = {
        "gate": write_gate(folder / "gate.onnx"),
        "model": write_detector(folder / "detector.onnx"),
        "jobs_url": f"sqlite:///{folder / 'jobs.sqlite'}",
        "workers": 1,
        "threads": 1,
        "rate_per_minute": 1e6,
    }
    return Settings(**{**given, **changes})


def client_of(settings: Settings, **more: Any) -> TestClient:
    """Someone on this machine who asks the service; use it as a context to start the workers."""
    return TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50_000), **more)


def upload(content: bytes, name: str = "picture.png") -> dict[str, tuple[str, bytes]]:
    """A form with one picture; what `TestClient.post` takes as ``files``."""
    return {"file": (name, content)}


def png(picture: np.ndarray) -> bytes:
    """Store a picture in 0..1 as PNG."""
    file = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def photograph() -> bytes:
    """A coloured picture, which the gate turns away."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()
