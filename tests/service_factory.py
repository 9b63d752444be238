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


def write_models(folder: Path) -> dict[str, Path]:
    """Write a gate and a detector; what `Settings` takes."""
    return {"gate": write_gate(folder / "gate.onnx"), "model": write_detector(folder / "detector.onnx")}


def client_of(settings: Settings, **more: Any) -> TestClient:
    """Someone on this machine who asks the service; use it as a context to start the workers."""
    return TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50_000), **more)


def png(picture: np.ndarray) -> bytes:
    """Store a picture in 0..1 as PNG."""
    file = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
