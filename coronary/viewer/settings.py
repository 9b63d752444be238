"""What whoever runs the viewer may set: each field also as an environment variable, SKIAGRAM_VIEWER_MAX_UPLOAD_MB."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from shared.config import Config
from shared.errors import SetupError

PREFIX = "SKIAGRAM_VIEWER_"


class ViewerSettings(Config):
    """Limits and places; the defaults suit one person on their own machine."""

    max_upload_mb: PositiveInt = 2048
    """Largest scan that may be uploaded."""
    max_model_mb: PositiveInt = 500
    """Largest model that may be uploaded."""
    max_scans: PositiveInt = 10
    """Scans kept for a visitor; the one opened longest ago makes room."""
    leave_minutes: PositiveFloat = 5.0
    """How long a visitor's files outlive their last open page (a reload must find them)."""
    keep_minutes: PositiveFloat = 12 * 60.0
    """How long they are kept at most after they were last looked at, page open or not."""
    server_paths: bool | None = None
    """Whether scans and models may be opened by a path on the server; None: only where the page is for this machine."""
    folder: Path | None = None
    """Where uploads and results lie meanwhile; a temporary folder where None."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where the network runs: auto, cpu, cuda or cuda:N."""
    quiet: bool = False
    """Whether the server keeps to itself where the page is."""


@cache
def settings() -> ViewerSettings:
    """Read the settings from the environment.

    Raises:
        SetupError: a variable holds what its setting cannot be.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and value
    }
    try:
        return ViewerSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + ".".join(str(part) for part in first["loc"]).upper()
        raise SetupError(f"{name}: {first['msg'].lower()}, not {first['input']!r}; correct or unset it") from error
