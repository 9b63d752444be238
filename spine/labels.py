"""YOLO's label files and their ``data.yaml``, as this task writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from spine.cases import PARTS
from spine.config import LEVELS


def label_lines(outlines: Sequence[tuple[str, np.ndarray]]) -> str:
    """Return YOLO-seg's lines, a class number and a polygon in shares of the sides each, from the head down."""
    ordered = sorted(outlines, key=lambda one: LEVELS.index(one[0]))
    lines = [" ".join([str(LEVELS.index(level)), *(f"{value:.6f}" for value in corners.ravel())])
             for level, corners in ordered]  # fmt: skip
    return "".join(line + "\n" for line in lines)


def describe(parts: Mapping[str, Collection[Any]]) -> str:
    """Return the ``data.yaml`` of a data set whose parts are where ``merge`` puts them."""
    lines = [f"{yolo}: {yolo}/images" for part, yolo in PARTS.items() if parts.get(part)]
    return "\n".join([*lines, f"nc: {len(LEVELS)}", "names:", *(f"  {k}: {n}" for k, n in enumerate(LEVELS))]) + "\n"
