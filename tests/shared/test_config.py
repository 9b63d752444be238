from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from shared.config import Config, apply_preset, config_hash, load_config
from shared.errors import SetupError


class Optim(Config):
    lr: float = Field(default=1e-3, gt=0)
    """Step length."""

    betas: tuple[float, float] = (0.9, 0.999)


class Train(Config):
    epochs: int = Field(default=10, ge=1)
    name: str = "ä"
    optim: Optim = Optim()


def test_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Train(epoch=3)
    with pytest.raises(ValidationError):
        Train().epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Optim(lr=float("inf"))
    assert Optim.model_fields["lr"].description == "Step length."


@given(st.integers(1, 10**6), st.floats(1e-9, 1e3), st.text())
def test_hash_names_the_values(epochs: int, lr: float, name: str) -> None:
    config = Train(epochs=epochs, name=name, optim=Optim(lr=lr))
    again = Train.model_validate_json(config.model_dump_json())
    assert config_hash(again) == config_hash(config)
    assert config_hash(config) != config_hash(Train(epochs=epochs + 1, name=name, optim=Optim(lr=lr)))


def test_hash_is_of_canonical_json_and_stays() -> None:
    text = '{"epochs":10,"name":"ä","optim":{"betas":[0.9,0.999],"lr":0.001}}'
    code = "import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    expected = subprocess.run([sys.executable, "-c", code], input=text.encode(), capture_output=True, check=True)
    assert config_hash(Train()) == expected.stdout.decode().strip()


def test_preset_changes_only_what_it_names() -> None:
    base = Train(epochs=5, optim=Optim(lr=0.5, betas=(0.1, 0.2)))
    assert apply_preset(base, {"optim": {"lr": 0.25}}) == Train(epochs=5, optim=Optim(lr=0.25, betas=(0.1, 0.2)))
    assert apply_preset(base, {}) == base
    assert apply_preset(base, {"optim": Optim()}).optim == Optim()


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        ({"epoch": 3}, ["preset: epoch is no field", "did you mean epochs?"]),
        ({"optim": {"learning_rate": 1.0}}, ["optim.learning_rate is no field", "known are lr, betas"]),
        ({"optim": {"lr": 0}}, ["optim.lr = 0", "greater than 0"]),
        ({"epochs": "many", "optim": {"lr": -1}}, ["epochs = 'many'", "; optim.lr = -1"]),
    ],
)
def test_bad_preset_names_field_value_and_remedy(diff: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SetupError) as caught:
        apply_preset(Train(), diff)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_load_fills_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"optim": {"lr": 0.1}}))
    assert load_config(Train, path) == Train(optim=Optim(lr=0.1))
    path.write_text(Train(epochs=7).model_dump_json())
    assert load_config(Train, path) == Train(epochs=7)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"epochs": 1,}', "line 1, column"),
        (b"[1]", "not an object"),
        (b"\xff\xfe\x00", "no text file"),
        (b'{"epochs": 0}', "epochs = 0"),
    ],
)
def test_load_says_what_is_wrong(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SetupError) as caught:
        load_config(Train, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert word in str(caught.value)


def test_load_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        load_config(Train, tmp_path / "none.json")


def test_missing_field_is_named(tmp_path: Path) -> None:
    class Needs(Config):
        size: int

    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(SetupError, match="size is missing"):
        load_config(Needs, path)
