"""How many names are right before and after ordering, on simulated films; and what ordering costs.

    uv run python benchmarks/spine_order.py [--landmarks aasce_ap/landmarks.json]

Names are drawn as the reference's model got them (its published confusion matrix: cervical 66 % right, 31 % a
neighbour's name; thoracic and lumbar 88 % right, the rest neighbours'), each with one score and no other, which is all
that the matrix tells. Vertebrae are missed and found twice. Where they lie comes from VID's mean distances on a bent
curve, or from the corners of real AP films, T1 to L5.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from spine.config import LEVELS
from spine.order import name_vertebrae
from spine.order_constants import SPACING_MM

LIMIT_MS = 5.0
PLACE = np.concatenate([[0.0], np.cumsum(SPACING_MM[:23])])


@dataclass(frozen=True)
class Film:
    """Centres and sizes in pixels from the head down, and the index of each one's level."""

    centres: np.ndarray
    sizes: np.ndarray
    levels: np.ndarray
    picture_px: tuple[int, int]


def main(
    films: int = 500, missed: float = 0.05, twice: float = 0.05, seed: int = 0, landmarks: Path | None = None
) -> None:
    rng = np.random.default_rng(seed)
    print(f"{films} films a row, {missed:.0%} of vertebrae missed, {twice:.0%} found twice, seed {seed}\n")
    print(
        "| films | right before | after | off by one after | all right before | after | order broken before | after |"
    )
    print("|---|---|---|---|---|---|---|---|")
    parts = {"whole spine": ("C1", "L5"), "cervical": ("C1", "T2"), "thoracic": ("T1", "L1"), "T1-L5": ("T1", "L5"),
             "lumbar": ("T11", "L5"), "any 5-17 levels": None}  # fmt: skip
    for name, part in parts.items():
        row(name, [simulated(rng, part) for _ in range(films)], missed, twice, rng)
    if landmarks is not None:
        row("real AP, T1-L5", real(landmarks), missed, twice, rng)
        row("real AP, a part", [cut(film, rng) for film in real(landmarks)], missed, twice, rng)
    timing(rng, missed, twice)


def simulated(rng: np.random.Generator, part: tuple[str, str] | None) -> Film:
    """A spine of mean distances, each off by 5 %, of any size, on a curve of up to two bends."""
    if part is None:
        count = int(rng.integers(5, 18))
        first = int(rng.integers(0, len(LEVELS) - count + 1))
        levels = np.arange(first, first + count)
    else:
        levels = np.arange(LEVELS.index(part[0]), LEVELS.index(part[1]) + 1)
    gaps = np.diff(PLACE)[levels[:-1]] * rng.normal(1, 0.05, len(levels) - 1)
    scale = rng.uniform(0.8, 3)
    y = scale * np.concatenate([[20.0], 20 + np.cumsum(gaps)])
    x = scale * (100 + rng.normal(0, 12) * np.sin(y / scale / rng.uniform(60, 140) + rng.uniform(0, 6)))
    sizes = scale * np.append(gaps, gaps[-1]) * rng.normal(1, 0.08, len(levels))
    return Film(np.stack([x, y], axis=1), sizes, levels, (int(y[-1] + 20 * scale), int(200 * scale)))


def real(path: Path) -> list[Film]:
    """Centres of AASCE's quads, where a film has all 17."""
    films = []
    for one in json.loads(path.read_text(encoding="utf-8")):
        corners = np.array(one.get("landmarks_orig") or [])
        if one["usable"] and corners.shape == (17, 4, 2):
            width, height = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
            sizes = np.sqrt(np.linalg.norm(width, axis=1) * np.linalg.norm(height, axis=1))
            films.append(Film(corners.mean(axis=1), sizes, np.arange(7, 24), (one["orig_h"], one["orig_w"])))
    return films


def cut(film: Film, rng: np.random.Generator) -> Film:
    """5 to 12 neighbouring vertebrae of a film, the picture cropped to them."""
    count = int(rng.integers(5, 13))
    first = int(rng.integers(0, len(film.levels) - count + 1))
    keep = slice(first, first + count)
    top = film.centres[keep][0, 1] - film.sizes[keep][0]
    bottom = film.centres[keep][-1, 1] + film.sizes[keep][-1]
    size = (int(bottom - top), film.picture_px[1])
    return Film(film.centres[keep] - [0, top], film.sizes[keep], film.levels[keep], size)


def detected(film: Film, missed: float, twice: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Candidates' centres, sizes, scores, confidences and true levels, second finds last."""
    found = [k for k in range(len(film.levels)) if rng.random() >= missed] or [0]
    doubles = [k for k in found if rng.random() < twice]
    rows = np.array(found + doubles)
    centres = film.centres[rows] + rng.normal(0, 0.06, (len(rows), 2)) * film.sizes[rows, None]
    scores = np.zeros((len(rows), len(LEVELS)))
    sure = rng.uniform(0.4, 0.95, len(rows))
    sure[len(found) :] *= 0.8
    for i, row in enumerate(rows):
        scores[i, drawn(int(film.levels[row]), rng)] = sure[i]
    return centres, film.sizes[rows], scores, sure, film.levels[rows]


def drawn(level: int, rng: np.random.Generator) -> int:
    """A class as the reference's model would give it."""
    right, beside = (0.66, 0.31) if LEVELS[level][0] == "C" else (0.88, 0.12)
    u = rng.random()
    if u < right:
        return level
    if u < right + beside:
        near = [k for k in (level - 1, level + 1) if 0 <= k < len(LEVELS)]
        return int(rng.choice(near))
    return int(rng.integers(len(LEVELS)))


def row(name: str, films: list[Film], missed: float, twice: float, rng: np.random.Generator) -> None:
    """Score one kind of film, over the vertebrae found; of two candidates for one, either may bear the name."""
    right, whole, broken, off, count = np.zeros(2), np.zeros(2), np.zeros(2), 0, 0
    for film in films:
        candidates = detected(film, missed, twice, rng)
        shuffle = rng.permutation(len(candidates[0]))
        centres, sizes, scores, sure, truth = (one[shuffle] for one in candidates)
        naming = name_vertebrae(centres, sizes, scores, sure, picture_px=film.picture_px)
        after = np.array([LEVELS.index(label) if label else -1 for label in naming.labels])
        before = scores.argmax(axis=1)
        levels = np.unique(truth)
        count += len(levels)
        off += int((np.abs(after - truth)[after >= 0] == 1).sum())
        for side, given in enumerate((before, after)):
            named = given[naming.head_first]
            named = named[named >= 0]
            right[side] += len(np.unique(truth[given == truth]))
            whole[side] += (
                len(named) == len(levels) and (np.sort(named) == levels).all() and (given == truth)[given >= 0].all()
            )
            broken[side] += (np.diff(named) <= 0).any()
    part, every = right / count, len(films)
    cells = [f"{x:.3f}" for x in (*part, off / count, *whole / every, *broken / every)]
    print("| " + " | ".join([name, *cells]) + " |", flush=True)


def timing(rng: np.random.Generator, missed: float, twice: float) -> None:
    """Wall and processor time of one call."""
    print("\n| candidates | median, ms | 95 %, ms | processor time, ms | limit | ratio |\n|---|---|---|---|---|---|")
    for part in (("T11", "L5"), ("T1", "L5"), ("C1", "L5")):
        wall, cpu, sizes = [], [], []
        for _ in range(200):
            film = simulated(rng, part)
            centres, size, scores, sure, truth = detected(film, missed, twice, rng)
            began, spent = time.perf_counter(), time.process_time()
            name_vertebrae(centres, size, scores, sure, picture_px=film.picture_px)
            wall.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - spent))
            sizes.append(len(truth))
        middle = float(np.median(wall))
        print(
            f"| {np.median(sizes):.0f} | {middle:.2f} | {np.percentile(wall, 95):.2f} | {np.median(cpu):.2f} | "
            f"{LIMIT_MS:g} | {LIMIT_MS / middle:.1f}x |"
        )


if __name__ == "__main__":
    tyro.cli(main)
