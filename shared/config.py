"""Config is data: frozen pydantic models, presets that are small diffs, and a hash that names the result."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import SetupError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config: frozen, no unknown fields, no infinities, defaults checked like given values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )


def config_hash(config: Config) -> str:
    """Return the sha256 (hex) of the config as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(
        config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def apply_preset(base: C, diff: Mapping[str, Any]) -> C:
    """Return ``base`` with the fields of ``diff`` in place of its own, all checked again.

    A mapping for a nested config changes only the fields it names. Raises SetupError for an unknown field or a value
    out of range.
    """
    return _checked(type(base), _merged(base, diff), "preset")


def layered(diff: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preset ``diff`` with the fields of ``more`` over its own; nested mappings are taken field by field."""
    result = dict(diff)
    for name, new in more.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        result[name] = layered(old, new) if both else new  # type: ignore[arg-type]
    return result


def load_config(kind: type[C], path: Path) -> C:
    """Read a config of type ``kind`` from the JSON file ``path``; fields it leaves out keep their defaults.

    Raises SetupError that names the file, the field and what to do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); check the name of the config file") from None
    except UnicodeDecodeError:
        raise SetupError(f"{path}: is no text file; a config is a JSON file in UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SetupError(f"{path}: is no valid JSON ({error.msg} at {where}); mend it there") from None
    if not isinstance(values, dict):
        raise SetupError(f"{path}: holds a JSON {type(values).__name__}, not an object; a config is {{...}}")
    return _checked(kind, values, str(path))


def _merged(base: Config, diff: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(base, name) for name in type(base).model_fields}
    for name, new in diff.items():
        old = values.get(name)
        nested = isinstance(old, Config) and isinstance(new, Mapping)
        values[name] = _merged(old, new) if nested else new  # type: ignore[arg-type]
    return values


def _checked(kind: type[C], values: Mapping[str, Any], origin: str) -> C:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(kind, dict(item)) for item in error.errors(include_url=False))
        raise SetupError(f"{origin}: {problems}") from None


def _problem(kind: type[Config], item: Mapping[str, Any]) -> str:
    """Say one pydantic error in one line, with the nearest field name where the name is unknown."""
    field = ".".join(str(part) for part in item["loc"]) or kind.__name__
    if item["type"] == "extra_forbidden":
        known = list(_model_at(kind, item["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{field} is no field; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    if item["type"] == "missing":
        return f"{field} is missing; add it"
    message = str(item["msg"])
    return f"{field} = {item['input']!r}: {message[:1].lower()}{message[1:]}"


def _model_at(kind: type[Config], location: tuple[Any, ...]) -> type[Config]:
    """Follow ``location`` through directly nested configs, as far as it goes."""
    for part in location:
        field = kind.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Config)):
            break
        kind = field.annotation
    return kind
