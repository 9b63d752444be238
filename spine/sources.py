"""Exports as they come: YOLO (boxes or polygons), COCO, and files of corners. Each becomes a list of drawn films.

Nothing is judged here but the form of a file; ``spine.merge`` maps the classes and mends the outlines.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64

from shared.errors import InputError, SetupError
from shared.io.radiograph import SUFFIXES

PARTS = {"train": "training", "training": "training", "val": "validation", "valid": "validation",
         "validation": "validation", "test": "test"}  # fmt: skip
AASCE_LEVELS = (*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
FARTHEST = 5  # levels by which names may move: who is further off means something else
CORNERS = (0, 1, 3, 2)  # AASCE: top left, top right, bottom left, bottom right
# sunhl-1th-DATE-NUMBER-LETTER: films of one date and number may be one patient's, so they stay together.
AASCE_PATIENT = re.compile(r"(sunhl-1th-\d{2}-[A-Za-z]{3}-\d{4}-\d+)\D")


@dataclass(frozen=True, slots=True)
class Outline:
    """One vertebra as drawn: class name as written, points, and whether they are pixels or shares of the sides."""

    name: str
    corners: Float64[np.ndarray, "corner 2"]
    shares: bool
    box: bool = False
    """Only a box was drawn; the outline is its four corners."""


@dataclass(slots=True)
class Drawn:
    """A film with its outlines, before anything was checked."""

    image: Path
    outlines: list[Outline] = field(default_factory=list)
    part: str | None = None
    """training, validation or test, where the source says so."""
    patient: str | None = None
    shift: int | None = 0
    """Levels by which all names are to move, down where positive; None where nobody knows the right ones."""
    problems: list[str] = field(default_factory=list)
    """What is worth a note."""
    left_out: list[str] = field(default_factory=list)
    """Outlines that cannot be used, and why."""


def read_source(path: Path) -> list[Drawn]:
    """Read an export: a folder with ``data.yaml``, with COCO's JSON files or with corners, or one of these files.

    Raises:
        SetupError: nothing of that kind is there, or its description cannot be read.
        InputError: a label file cannot be read.
    """
    if not path.exists():
        raise SetupError(f"{path}: is not there; check the name")
    if path.is_file():
        return read_yolo(path) if path.suffix.lower() in (".yaml", ".yml") else _read_json(path)
    if described := sorted([*path.glob("data.yaml"), *path.glob("data.yml"), *path.glob("dataset.yaml")]):
        return read_yolo(described[0])
    files = sorted(file for file in path.rglob("*.json") if len(file.relative_to(path).parts) <= 3)
    known = [file for file in files if _json_kind(file)]
    if not known:
        raise SetupError(f"{path}: holds neither a data.yaml nor COCO's or corners' JSON; name an export's own folder")
    return [film for file in known for film in _read_json(file)]


def read_yolo(description: Path) -> list[Drawn]:
    """Read a YOLO data set by its ``data.yaml``: boxes (a class and four numbers) or polygons, one to a line."""
    content = _yaml(description)
    names = _class_names(description, content.get("names"))
    root = description.parent
    if content.get("path") and (root / str(content["path"])).is_dir():
        root = root / str(content["path"])
    films = []
    for key in ("train", "val", "valid", "test"):
        for entry in _entries(content.get(key)):
            for image in _images(root, description.parent, entry):
                films.append(_yolo_film(image, names, PARTS[key]))
    if not films:
        raise SetupError(f"{description}: no picture is where train, val and test say; check these paths")
    return films


def _entries(value: Any) -> list[str]:
    return [] if not value else [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _images(root: Path, beside: Path, entry: str) -> list[Path]:
    """Find a part's pictures; Roboflow writes ``../train/images`` and means the folder beside its data.yaml."""
    inner = PurePosixPath(entry.replace("\\", "/"))
    stripped = PurePosixPath(*[part for part in inner.parts if part not in ("..", ".", "/")])
    places = [Path(entry)] if Path(entry).is_absolute() else [root / inner, beside / inner]
    for place in (*places, root / stripped, beside / stripped):
        if place.is_file() and place.suffix == ".txt":
            lines = place.read_text(encoding="utf-8-sig").split("\n")
            return [place.parent / line.strip() for line in lines if line.strip()]
        if place.is_dir():
            return _pictures(place)
    return []


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _yolo_film(image: Path, names: Mapping[int, str], part: str) -> Drawn:
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    label = Path(*parts).with_suffix(".txt")
    film = Drawn(image, part=part)
    if not label.is_file():
        film.problems.append("has no label file: taken as a film without vertebrae")
        return film
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(label, "cannot be read as text", "export it again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            film.outlines.append(_yolo_outline(line, names))
        except ValueError as error:
            film.left_out.append(f"label line {number}: {error}")
    return film


def _yolo_outline(line: str, names: Mapping[int, str]) -> Outline:
    first, *rest = line.split()
    index, values = int(float(first)), np.array(rest, np.float64)
    if index not in names:
        raise ValueError(f"class {index} is not in data.yaml")
    if len(values) == 4:
        x, y, width, height = values
        return Outline(names[index], _rectangle(x - width / 2, y - height / 2, width, height), shares=True, box=True)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values)} numbers are neither a box nor a polygon")
    return Outline(names[index], values.reshape(-1, 2), shares=True)


def _class_names(path: Path, names: Any) -> dict[int, str]:
    if isinstance(names, list) and names:
        return dict(enumerate(map(str, names)))
    if isinstance(names, dict) and names:
        try:
            return {int(key): str(name) for key, name in names.items()}
        except ValueError as error:
            raise SetupError(f"{path}: a key of names is no number; write NUMBER: NAME") from error
    raise SetupError(f"{path}: names no classes; add its list of names")


def _yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise SetupError(f"{path}: PyYAML is missing, which reads it; install skiagram[yolo]") from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SetupError(f"{path}: cannot be read ({str(error).splitlines()[0]}); mend it") from error
    if not isinstance(content, dict):
        raise SetupError(f"{path}: is no data.yaml; it must hold names, train and val")
    return content


def _json_kind(path: Path) -> str | None:
    """Say what a JSON file holds by how it is built: coco, aasce or quads; None for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
        return "coco"
    if isinstance(content, dict) and isinstance(content.get("images"), dict):
        return "quads"
    if isinstance(content, list) and content and isinstance(content[0], dict) and "landmarks_orig" in content[0]:
        return "aasce"
    return None


def _read_json(path: Path) -> list[Drawn]:
    kind = _json_kind(path)
    if kind is None:
        raise SetupError(f"{path}: is neither COCO nor a file of corners; give an export's file or folder")
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    try:
        readers: dict[str, Callable[[Path, Any], list[Drawn]]] = {"coco": _coco, "quads": _quads, "aasce": _aasce}
        return readers[kind](path, content)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SetupError(f"{path}: an entry is not as {kind} has it ({type(error).__name__}: {error})") from error


def _coco(path: Path, content: dict[str, Any]) -> list[Drawn]:
    """Read COCO instances; of an outline in several pieces the largest counts."""
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    part = next((PARTS[word] for word in re.split(r"\W+|_", f"{path.parent.name} {path.stem}") if word in PARTS), None)
    films: dict[Any, Drawn] = {}
    for entry in content["images"]:
        films[entry["id"]] = Drawn(_beside(path.parent, str(entry["file_name"])), part=part)
    for entry in content["annotations"]:
        film, pieces = films[entry["image_id"]], entry.get("segmentation")
        name = names.get(entry["category_id"])
        if name is None:
            film.left_out.append(f"annotation {entry.get('id', '?')}: no category {entry['category_id']} in categories")
        elif isinstance(pieces, list) and pieces:
            points = [np.array(piece, np.float64).reshape(-1, 2) for piece in pieces]
            film.outlines.append(Outline(name, max(points, key=lambda one: float(np.ptp(one, 0).prod())), shares=False))
            if len(pieces) > 1:
                film.problems.append(f"{name}: of {len(pieces)} pieces the largest is taken")
        elif entry.get("bbox"):
            film.outlines.append(Outline(name, _rectangle(*map(float, entry["bbox"])), shares=False, box=True))
            if pieces:
                film.problems.append(f"{name}: a run-length mask is no outline, its box is taken; export polygons")
        else:
            film.left_out.append(f"{name}: has neither polygon nor box; export polygons")
    return list(films.values())


def _beside(folder: Path, name: str) -> Path:
    """Find a picture in the folder, its images/, or the same of the folder above, by its path or its bare name."""
    short = PurePosixPath(name.replace("\\", "/")).name
    for place in (folder, folder / "images", folder.parent, folder.parent / "images"):
        for file in (place / name, place / short):
            if file.is_file():
                return file
    return folder / name


def _quads(path: Path, content: dict[str, Any]) -> list[Drawn]:
    """Read ``{"images": {FILE: [{"level", "corners_tl_tr_br_bl"}]}}``, in pixels."""
    return [
        Drawn(
            _beside(path.parent, name),
            [Outline(str(e["level"]), np.array(e["corners_tl_tr_br_bl"], np.float64), shares=False) for e in entries],
        )
        for name, entries in content["images"].items()
    ]


def _aasce(path: Path, content: list[dict[str, Any]]) -> list[Drawn]:
    """Read AASCE's 17 x 4 corners, T1 to L5, in pixels of the original film; a film not ``usable`` is left out."""
    films = []
    for entry in content:
        if not entry.get("usable", True):
            continue
        corners = np.array(entry["landmarks_orig"], np.float64) / [entry["orig_w"], entry["orig_h"]]
        stem, part = str(entry["stem"]), str(entry["split"])
        films.append(
            Drawn(
                path.parent / part / "images" / f"{stem}.jpg",
                [Outline(n, c[list(CORNERS)], shares=True) for n, c in zip(AASCE_LEVELS, corners, strict=True)],
                PARTS.get(part),
                match[1] if (match := AASCE_PATIENT.match(stem + "-")) else None,
            )
        )
    return films


def _rectangle(x: float, y: float, width: float, height: float) -> Float64[np.ndarray, "4 2"]:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64)


def patients_from_table(path: Path) -> dict[str, str]:
    """Read whose film each is: a CSV with columns ``file`` and ``patient``.

    Raises:
        SetupError: it cannot be read, or has no such columns.
    """
    return {Path(file).name: patient for _, file, patient in _table(path, "patient")}


def shifts_from_table(path: Path) -> dict[str, int | None]:
    """Read by how many levels the names on a film are to move: a CSV with columns ``file`` and ``levels``.

    Returns:
        By the film's name without suffix; None where there is no number, which says that nobody can tell.

    Raises:
        SetupError: it cannot be read, has no such columns, names a film twice, or a number is no whole one up to 5.
    """
    shifts: dict[str, int | None] = {}
    for line, file, text in _table(path, "levels"):
        name = Path(file).stem
        if name in shifts:
            raise SetupError(f"{path}: line {line} names {file} again; leave one line for each film")
        try:
            number = float(text) if text else None  # a column with gaps has -1.0 where it was -1
        except ValueError:
            number = float("nan")
        if number is not None and not (abs(number) <= FARTHEST and number.is_integer()):
            raise SetupError(f"{path}: line {line} has levels {text!r}; give a whole number from -5 to 5, or none")
        shifts[name] = None if number is None else int(number)
    return shifts


def _table(path: Path, column: str) -> list[tuple[int, str, str]]:
    """Read number of line, file and a column of a table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"file", column} <= set(table.fieldnames or ()):
                raise ValueError(f"its columns are {', '.join(table.fieldnames or ())}")
            return [(table.line_num, row["file"] or "", (row[column] or "").strip()) for row in table]
    except (OSError, ValueError, csv.Error) as error:
        raise SetupError(f"{path}: cannot be read ({error}); give a CSV with columns file and {column}") from error
