"""YOLO's label files and their ``data.yaml``, as this task writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from spine.cases import PARTS
from spine.config import LEVELS


def label_lines(outlines: Sequence[tuple[str, np.ndarray]]) -> str:
    """Return YOLO-seg's lines, a class number and a polygon in shares of the sides each, from the head down."""
    ordered = sorted(outlines, key=lambda one: LEVELS.index(one[0]))
    lines = [" ".join([str(LEVELS.index(level)), *(f"{value:.6f}" for value in corners.ravel())])
             for level, corners in ordered]  # fmt: skip
    return "".join(line + "\n" for line in lines)


def places(root: Path, part: str, name: str, suffix: str = ".png") -> tuple[Path, Path]:
    """Return where a film and its labels lie in a data set, within ``root``, whose folders are made."""
    image, label = Path(part, "images", name + suffix), Path(part, "labels", f"{name}.txt")
    for path in (image, label):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    return image, label


def write_film(
    root: Path, part: str, name: str, grey: UInt8[np.ndarray, "y x"], outlines: Sequence[tuple[str, np.ndarray]]
) -> dict[str, str]:
    """Write a film as PNG and its outlines (corners in pixels), and return its row of the manifest.

    What of an outline lies outside the film is cut off.
    """
    image, label = places(root, part, name)
    Image.fromarray(grey).save(root / image)
    sides = np.array(grey.shape[::-1], np.float64)
    shares = [(level, np.clip(corners / sides, 0, 1)) for level, corners in outlines]
    (root / label).write_text(label_lines(shares), encoding="utf-8")
    return {"image": image.as_posix(), "label": label.as_posix(), "part": part, "group": name}


def describe(parts: Mapping[str, Collection[Any]]) -> str:
    """Return the ``data.yaml`` of a data set whose parts are where ``merge`` puts them."""
    lines = [f"{yolo}: {yolo}/images" for part, yolo in PARTS.items() if parts.get(part)]
    return "\n".join([*lines, f"nc: {len(LEVELS)}", "names:", *(f"  {k}: {n}" for k, n in enumerate(LEVELS))]) + "\n"
