"""The shapes of the JSON that the service gives."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of every answer: attribute docstrings are its documentation."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class GateAnswer(Answer):
    """What the gate decided."""

    passed: bool = Field(examples=[True])
    """Whether there is bone to look at."""
    area_fraction: float = Field(examples=[0.2145])
    """The bone's share of the picture."""
    confidence: float = Field(examples=[0.9713])
    """Mean probability within the bone, 0..1."""
    reason: str = Field(examples=["bone on 21% of the picture"])
    """The decision in a sentence."""


class Detection(Answer):
    """One box."""

    box_xyxy_px: tuple[float, float, float, float] = Field(examples=[(120.5, 88.0, 180.25, 151.75)])
    """x1, y1, x2, y2 in pixels of the picture as displayed."""
    score: float = Field(examples=[0.8731])
    """0..1."""
    label: str = Field(examples=["fracture"])
    """What was found."""
    polygon_px: list[tuple[float, float]] | None = None
    """Its outline, where the model draws one."""


class Picture(Answer):
    """What is said of every picture."""

    schema_version: int = Field(examples=[1])
    file: str = Field(examples=["wrist.png"])
    """What the client called it."""
    width_px: int = Field(examples=[1024])
    height_px: int = Field(examples=[1365])
    gate_sha256: str | None = Field(None, examples=["27b1" * 16])
    """Of the gate's file."""
    engine: str = Field(examples=["OpenVINO 2026.4.1"])
    """What the network really ran on."""


class Segmented(Picture):
    """The gate's answer; nothing has been looked at for fractures, so there are no detections."""

    model_sha256: None = None
    operating_point: None = None
    threshold: None = None
    gate: GateAnswer
    detections: None = None
    mask_png: str = Field(json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"})
    """The bone as a PNG of the picture's size, white where it is, in base64."""


class Detected(Picture):
    """Gate and detector; as ``bones predict`` writes it."""

    model_sha256: str = Field(examples=["9f2c" * 16])
    """Of the detector's file."""
    operating_point: str = Field(examples=["balanced"])
    threshold: float = Field(examples=[0.42])
    """Score that a box must reach there."""
    gate: GateAnswer | None
    """Null where it was skipped because of ``force``."""
    detections: list[Detection]
    """Best first; empty if the gate turned the picture away, or nothing was found."""
    forced: bool = Field(examples=[False])
    """Whether the gate was skipped."""


class Failure(Answer):
    """Why one picture of a job has no result; as a problem of its own would say it (RFC 9457)."""

    type: str = Field(examples=["urn:skiagram:problem:unusable-picture"])
    title: str = Field(examples=["The picture cannot be used"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the picture: is damaged or truncated; export or copy it again"])


class JobFile(Answer):
    """One picture of a job: ``result`` when it is done, ``problem`` when it failed."""

    file: str = Field(examples=["wrist.png"])
    state: Literal["queued", "running", "done", "failed"] = Field(examples=["done"])
    result: Detected | None = None
    problem: Failure | None = None


class Job(Answer):
    """How far a job is."""

    id: str = Field(examples=["Zk3qE0mN8vXw1sT5yB7cRg"])
    state: Literal["queued", "running", "done"] = Field(examples=["running"])
    created: datetime = Field(examples=["2026-11-20T09:30:00Z"])
    expires: datetime = Field(examples=["2026-11-21T09:30:00Z"])
    """When it is deleted with everything that belongs to it."""
    total: int = Field(examples=[2])
    finished: int = Field(examples=[1])
    """How many pictures have ended, well or not."""
    files: list[JobFile]


class Alive(Answer):
    """The server runs."""

    status: Literal["alive"] = "alive"


class Ready(Answer):
    """What is loaded and what it really runs on."""

    ready: bool = Field(examples=[True])
    gate_loaded: bool = Field(examples=[True])
    detector_loaded: bool = Field(examples=[False])
    """False until the first picture has passed the gate, unless it is preloaded."""
    engine: str | None = Field(examples=["OpenVINO 2026.4.1"])
    device: str | None = Field(examples=["cpu"])
    precision: str | None = Field(examples=["int8"])
    workers: int = Field(examples=[2])
    """Processes that are there to look at pictures."""
    waiting: int = Field(examples=[0])
    """Pictures that wait for their turn."""


class ModelCard(Answer):
    """What a model file says of itself."""

    network: str = Field(examples=["gate"])
    file: str = Field(examples=["bones-gate.onnx"])
    sha256: str
    card: dict[str, Any]
    """Labels, thresholds, scores, provenance, licence and whatever else the file holds."""


class Models(Answer):
    """The networks that are used."""

    models: list[ModelCard]
    disclaimer: str
