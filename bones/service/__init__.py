"""The fracture service: pages for people, JSON for programs. ``uvicorn --factory bones.service:create_app``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bones.service.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; settings are read from the environment where none are given.

    Raises:
        SetupError: a setting cannot be what it is, or there is no model.
    """
    from bones.service.app import create_app as create

    return create(settings)
