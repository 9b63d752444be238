"""Tests of spine know its task, whether or not it ships a model yet."""

import pytest
from spine_factory import register


@pytest.fixture(autouse=True)
def spine_task(monkeypatch):
    register(monkeypatch)
