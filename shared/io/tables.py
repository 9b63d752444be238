"""Plain results out: JSON and CSV. Each appears whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.io.atomic import whole


def write_json(data: Any, path: Path | str) -> None:
    """Write plain data as indented JSON; numpy scalars and arrays become numbers and lists, NaN becomes null.

    Raises:
        SetupError: the file cannot be written.
    """
    with whole(path) as aside:
        aside.write_text(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Give what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path | str, columns: Iterable[str] = ()) -> None:
    """Write rows as a table; its columns are ``columns``, then the rows' other keys in the order they first appear.

    Raises:
        SetupError: the file cannot be written.
    """
    rows = list(rows)
    columns = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    with whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
