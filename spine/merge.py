"""Merge labelled films of any number of exports into one data set with the 24 levels in anatomical order.

spine merge EXPORT_A EXPORT_B landmarks.json --out DIR
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

from shared.boxes import iou_matrix
from shared.errors import InputError, SetupError
from shared.io.atomic import write_error
from shared.io.radiograph import read_radiograph
from shared.io.tables import write_csv
from shared.parallel import cpu_count, spread
from shared.splits import Fingerprint, crossing, fingerprint, group_pictures, split_groups
from spine.cases import MANIFEST, PARTS
from spine.config import LEVELS
from spine.labels import describe, label_lines, places
from spine.level_names import level_of
from spine.polygons import PolygonError, mend
from spine.sources import Drawn, read_source

FRACTIONS = {"training": 0.8, "validation": 0.2}
REFUSED = "refused.csv"
SAME_PLACE = 0.3  # overlap from which on outlines of two copies of a film are of one vertebra
COPIED = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Kinds of picture that every reader of YOLO data sets displays alike; others become PNG."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was left out, or changed, and why."""

    film: str
    what: str
    done: Literal["film left out", "outline left out", "outline mended", "note"]


@dataclass(slots=True)
class Checked:
    """A film that was read: its size, fingerprint, and outlines in shares of its sides by level."""

    drawn: Drawn
    width_px: int
    height_px: int
    print: Fingerprint
    digest: bytes
    outlines: list[tuple[str, np.ndarray]]
    boxes: int
    notes: list[Refusal]


@dataclass(slots=True)
class Merged:
    """What a merge made: how many outlines of each level are in each part, and what was refused."""

    out: Path
    films: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {level: Counter() for level in LEVELS})
    refusals: list[Refusal] = field(default_factory=list)
    boxes: int = 0
    moved: int = 0
    """Films whose names were moved by some levels."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the class distribution, a row for each level from the head down."""
        parts = [part for part in PARTS if self.films[part]]
        return [{"level": level, **{part: found[part] for part in parts}, "all": found.total()}
                for level, found in self.counts.items()]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "out": self.out, "films": dict(self.films), "levels": self.rows(), "boxes_taken_as_outlines": self.boxes,
            "moved": self.moved,
            "refusals": [{"film": r.film, "what": r.what, "done": r.done} for r in self.refusals],
        }  # fmt: skip


def merge(
    sources: Sequence[Path],
    out: Path,
    *,
    split: Literal["keep", "new"] = "keep",
    fractions: Mapping[str, float] = FRACTIONS,
    patients: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    shifts: Mapping[str, int | None] | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_film: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Merge exports into a YOLO-seg data set in ``out``, which appears whole or not at all.

    There are ``data.yaml``, ``train|val|test/images`` and ``/labels``, ``manifest.csv`` (a row for each film: part,
    group, where it came from, levels), ``refused.csv``, ``class_distribution.csv`` and ``.png``.

    Patients, near-duplicates and Roboflow's versions of one picture are never parted (law 6). Where the sources' own
    split parts some, films that look like one held out leave the training part, so that published validation films
    stay as they are and nothing of them is trained on.

    Args:
        sources: exports' folders or files (see ``spine.sources``).
        out: folder to make.
        split: keep the parts that sources give their films and draw those of the others, or draw all anew.
        fractions: of what is drawn, by part.
        patients: whose film each file is, by file name; else what a source says itself.
        aliases: levels of class names that are not known, or ``ignore``.
        shifts: by how many levels all names on a film move, by the film's name in the merged data set, without suffix:
            -1 makes C7 of T1, T1 of T2; None leaves the film out.
        seed: of a new split.
        workers: processes that read films; None is one for each CPU.
        on_film: told how many of how many films are read.

    Raises:
        SetupError: a source cannot be read, has classes that nobody knows, or ``out`` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SetupError(f"{out}: is there already; give another --out, or delete it first")
    drawn = [film for source in sources for film in read_source(Path(source))]
    _check_names(drawn, aliases)
    if patients is not None:
        for film in drawn:
            film.patient = patients.get(film.image.name, film.patient)
    names = _unique_names(drawn)
    merged = Merged(out)
    _shift(drawn, names, shifts or {}, merged)
    jobs = [(film, dict(aliases or {})) for film in drawn]
    read = spread(_check, jobs, workers or cpu_count(), lambda done: on_film(done, len(jobs)))
    films: dict[str, Checked] = {}
    for name, found in zip(names, read, strict=True):
        if isinstance(found, Checked):
            films[name] = found
            merged.refusals += found.notes
        else:
            merged.refusals.append(found)
    _leave_out_copies(films, merged)
    if not films:
        raise SetupError(f"no film is left to merge: {merged.refusals[-1].film}: {merged.refusals[-1].what}")
    parts, groups = _parts(films, split, fractions, seed, merged)
    _write(out, films, parts, groups, merged)
    return merged


def _shift(drawn: Sequence[Drawn], names: Sequence[str], shifts: Mapping[str, int | None], merged: Merged) -> None:
    """Mark the films whose names are to move; what the table names in vain is told, and all of it in vain refused."""
    unknown = sorted(set(shifts) - set(names))
    if shifts and len(unknown) == len(shifts):
        raise SetupError(f"no film is called {unknown[0]}, nor as any other whose names are to move")
    merged.refusals += [Refusal(name, "is to move, but there is no such film", "note") for name in unknown]
    for film, name in zip(drawn, names, strict=True):
        film.shift = shifts.get(name, 0)
        merged.moved += film.shift not in (0, None)


def _check_names(drawn: Sequence[Drawn], aliases: Mapping[str, str] | None) -> None:
    """Refuse classes that nobody knows: left out in silence they would teach that a vertebra is none."""
    unknown = set()
    for name in {outline.name for film in drawn for outline in film.outlines}:
        try:
            level_of(name, aliases)
        except ValueError as error:
            unknown.add(str(error))
    if unknown:
        raise SetupError(
            f"{'; '.join(sorted(unknown))}; say what they are in a JSON file for --aliases, "
            'such as {"NAME": "T12", "OTHER": "ignore"}'
        )


def _unique_names(drawn: Sequence[Drawn]) -> list[str]:
    """Name films after their files; where two have a name, a number goes before the rest."""
    taken: Counter[str] = Counter()
    names = []
    for film in drawn:
        stem = film.image.stem
        taken[stem.casefold()] += 1
        again = taken[stem.casefold()]
        names.append(stem if again == 1 else f"{again}-{stem}")
    if len({name.casefold() for name in names}) != len(names):  # someone's file is called 2-NAME
        return [f"{k:06d}-{name}" for k, name in enumerate(names)]
    return names


def _check(job: tuple[Drawn, dict[str, str]]) -> Checked | Refusal:
    """Read a film and mend its outlines."""
    drawn, aliases = job
    name = drawn.image.name
    if drawn.shift is None:
        return Refusal(name, "nobody can tell which levels its names are", "film left out")
    try:
        picture = read_radiograph(drawn.image).array
    except InputError as error:
        return Refusal(name, error.problem, "film left out")
    height, width = picture.shape
    digest = hashlib.sha256(np.round(picture * 255).astype(np.uint8).tobytes() + bytes([width % 256])).digest()
    notes = [Refusal(name, problem, "note") for problem in drawn.problems]
    notes += [Refusal(name, problem, "outline left out") for problem in drawn.left_out]
    if drawn.shift:
        notes.append(Refusal(name, f"names moved by {drawn.shift:+d}", "note"))
    found = Checked(drawn, width, height, fingerprint(picture), digest, [], 0, notes)
    sides = np.array([width, height], np.float64)
    for outline in drawn.outlines:
        level = level_of(outline.name, aliases)
        if level is None:
            if drawn.shift:
                found.notes.append(Refusal(name, f"{outline.name}: is not moved as the others", "outline left out"))
            continue
        place = LEVELS.index(level) + drawn.shift
        if not 0 <= place < len(LEVELS):
            found.notes.append(Refusal(name, f"{level}: no level lies {drawn.shift:+d} from it", "outline left out"))
            continue
        level = LEVELS[place]
        try:
            mended = mend(outline.corners * sides if outline.shares else outline.corners, width, height)
        except PolygonError as error:
            found.notes.append(Refusal(name, f"{level}: {error}", "outline left out"))
            continue
        found.notes += [Refusal(name, f"{level}: {change}", "outline mended") for change in mended.changes]
        found.boxes += outline.box
        _add(found, level, mended.corners_px / sides, name)
    found.notes += [Refusal(name, f"{upper} lies below {lower}", "note") for upper, lower in _upside_down(found)]
    return found


def _upside_down(found: Checked) -> list[tuple[str, str]]:
    """Return neighbours of a film that stands whose names say the opposite of where they lie."""
    sides = np.array([found.width_px, found.height_px])
    levels = sorted(found.outlines, key=lambda outline: LEVELS.index(outline[0]))
    centres = np.array([corners.mean(axis=0) * sides for _, corners in levels]).reshape(-1, 2)
    if len(centres) < 2 or np.ptp(centres[:, 0]) > np.ptp(centres[:, 1]):
        return []
    falls = np.flatnonzero(np.diff(centres[:, 1]) < 0)
    return [(levels[k][0], levels[k + 1][0]) for k in falls if levels[k][0] != levels[k + 1][0]]


def _add(found: Checked, level: str, corners: np.ndarray, name: str) -> None:
    """Add an outline, unless the same one is there already; a level that is there twice is worth a note."""
    same = [other for held, other in found.outlines if held == level]
    if any(other.shape == corners.shape and np.allclose(other, corners, atol=1e-4) for other in same):
        found.notes.append(Refusal(name, f"{level}: drawn twice", "outline left out"))
        return
    if same:
        found.notes.append(Refusal(name, f"{level}: in two places of one film", "note"))
    found.outlines.append((level, corners))


def _leave_out_copies(films: dict[str, Checked], merged: Merged) -> None:
    """Of films that are equal pixel by pixel keep one: the one held out, or the one with most outlines.

    It has the others' outlines too, of levels that it lacks and where it has none.
    """
    same: dict[bytes, list[str]] = {}
    for name, film in films.items():
        same.setdefault(film.digest, []).append(name)
    for names in same.values():
        best = max(names, key=lambda n: (films[n].drawn.part in ("validation", "test"), len(films[n].outlines)))
        for name in names:
            if name != best:
                copy = films.pop(name)
                twins = f"{copy.drawn.image} is {films[best].drawn.image} again, pixel by pixel"
                what = twins + _unite(films[best], copy)
                merged.refusals.append(Refusal(copy.drawn.image.name, what, "film left out"))


def _unite(kept: Checked, copy: Checked) -> str:
    """Give a film the outlines that only its copy has; say in words which it got, and which contradict its own."""
    own = {level for level, _ in kept.outlines}
    boxes = np.array([[*c.min(axis=0), *c.max(axis=0)] for _, c in kept.outlines], np.float32).reshape(-1, 4)
    added, lost = [], []
    for level, corners in copy.outlines:
        box = np.array([[*corners.min(axis=0), *corners.max(axis=0)]], np.float32)
        overlap = iou_matrix(box, boxes).max(initial=0)
        if level not in own and overlap < SAME_PLACE:
            kept.outlines.append((level, corners))
            added.append(level)
        elif overlap < SAME_PLACE or level not in own:
            lost.append(level)
    words = f"; its {' '.join(added)} joined" if added else ""
    return words + (f"; its {' '.join(lost)} contradict and are left out" if lost else "")


def _parts(
    films: dict[str, Checked], split: Literal["keep", "new"], fractions: Mapping[str, float], seed: int, merged: Merged
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Group films and split the groups; films that would cross a kept split are left out of training."""
    pictures = {f"{name}{film.drawn.image.suffix}": name for name, film in films.items()}
    groups = group_pictures(
        list(pictures),
        patients={p: f.drawn.patient for p, n in pictures.items() if (f := films[n]).drawn.patient is not None},
        fingerprints={picture: films[name].print for picture, name in pictures.items()},
    )
    own = {p: films[name].drawn.part if split == "keep" else None for p, name in pictures.items()}
    parts = {part: [picture for picture, held in own.items() if held == part] for part in PARTS}
    cervical = [p for p, n in pictures.items() if any(level.startswith("C") for level, _ in films[n].outlines)]
    _clear(parts, groups, films, pictures, merged)
    side = {groups[picture]: part for part, held in parts.items() for picture in held}
    free = {picture: groups[picture] for picture, held in own.items() if held is None}
    joined = {picture: side[group] for picture, group in free.items() if group in side}
    drawn = split_groups({p: g for p, g in free.items() if p not in joined}, fractions, with_box=cervical, seed=seed)
    for part, held in parts.items():
        held += [*drawn.get(part, []), *(picture for picture, where in joined.items() if where == part)]
    if crossed := crossing(parts, groups):
        raise AssertionError(f"groups cross the split: {crossed[:3]}")
    stems = {pictures[picture]: pictures[group] for picture, group in groups.items()}
    return {part: sorted(pictures[picture] for picture in held) for part, held in parts.items()}, stems


def _clear(
    parts: dict[str, list[str]], groups: Mapping[str, str], films: dict[str, Checked], pictures: Mapping[str, str],
    merged: Merged,
) -> None:  # fmt: skip
    """Leave out of training (and then of validation) what is of one group with a film held out for later."""
    for part, later in (("training", ("validation", "test")), ("validation", ("test",))):
        held_out = {groups[picture]: picture for other in later for picture in parts[other]}
        for picture in [picture for picture in parts[part] if groups[picture] in held_out]:
            like = films[pictures[held_out[groups[picture]]]].drawn.image.name
            parts[part].remove(picture)
            name = films.pop(pictures[picture]).drawn.image.name
            merged.refusals.append(Refusal(name, f"in {part}, but one patient or picture with {like}", "film left out"))


def _write(
    out: Path,
    films: Mapping[str, Checked],
    parts: Mapping[str, Sequence[str]],
    groups: Mapping[str, str],
    merged: Merged,
) -> None:
    """Write the data set aside, then put it in place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        rows = []
        for part, names in parts.items():
            for name in names:
                rows.append(_write_film(aside, PARTS[part], name, films[name]) | {"group": groups[name]})
                merged.films[part] += 1
                merged.boxes += films[name].boxes
                for level, _ in films[name].outlines:
                    merged.counts[level][part] += 1
        write_csv(rows, aside / MANIFEST)
        write_csv([{"film": r.film, "done": r.done, "what": r.what} for r in merged.refusals], aside / REFUSED,
                  columns=("film", "done", "what"))  # fmt: skip
        write_csv(merged.rows(), aside / "class_distribution.csv")
        (aside / "data.yaml").write_text(describe(parts), encoding="utf-8")
        draw_distribution(merged, aside / "class_distribution.png")
        if out.exists():
            out.rmdir()  # it is empty
        aside.chmod(0o755)
        aside.replace(out)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_film(root: Path, part: str, name: str, film: Checked) -> dict[str, Any]:
    """Write a film and its labels, and return its row of the manifest."""
    suffix = film.drawn.image.suffix.lower()
    suffix = suffix if _as_it_is(film.drawn.image) else ".png"
    image, label = places(root, part, name, suffix)
    if suffix == ".png" and not _as_it_is(film.drawn.image):
        grey = np.round(read_radiograph(film.drawn.image).array * 255).astype(np.uint8)
        Image.fromarray(grey).save(root / image)
    else:
        shutil.copyfile(film.drawn.image, root / image)
    (root / label).write_text(label_lines(film.outlines), encoding="utf-8")
    return {
        "image": image.as_posix(), "label": label.as_posix(), "part": part,
        "original": film.drawn.image.name, "width_px": film.width_px, "height_px": film.height_px,
        "levels": " ".join(sorted((level for level, _ in film.outlines), key=LEVELS.index)), "boxes": film.boxes,
    }  # fmt: skip


def _as_it_is(path: Path) -> bool:
    """Say whether every reader shows a file as ours does: a PNG or JPEG of 8 bits, upright, named by its kind."""
    if path.suffix.lower() not in COPIED:
        return False
    with Image.open(path) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image.format == COPIED[path.suffix.lower()] and image.mode in ("L", "RGB") and upright


def draw_distribution(merged: Merged, path: Path) -> None:
    """Draw how many outlines of each level are in each part, stacked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from shared.figures import COLOURS

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    base = np.zeros(len(LEVELS))
    for part, colour in zip(PARTS, COLOURS, strict=False):
        counts = np.array([merged.counts[level][part] for level in LEVELS], float)
        if merged.films[part]:
            axes.bar(LEVELS, counts, bottom=base, color=colour, label=f"{part} ({merged.films[part]} films)")
        base += counts
    axes.set_ylabel("outlines")
    axes.set_title("vertebrae by level", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
