"""Fit the order model of CT spines on VID, and say by cross-validation how well it names them.

    uv run python recipes/spine_order.py DATA --out spine/order_ct.json

DATA holds KeypointPredictionsNoSacrum.json and KeypointGroundTruthNoSacrum.json of VID (Buergin, Prevost, Stollenga
2023, MICCAI, LNCS 14228:483; CC BY-SA 4.0). Only the positions and the C, T, L scores of vertebral bodies are used.
Pairs of scans that may be one person's, by the distances between their vertebrae, stay in one fold.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tyro.conf import Positional

from shared.io.atomic import whole
from shared.io.writers import write_json
from spine.order import name_vertebrae
from spine.order_constants import SPACING_MM, ct_model
from spine.order_curve import along_spine
from spine.order_model import COMMON, STATES, OrderModel, region_features

SAME_MM, LABEL_MM = 10.0, 15.0  # a candidate this near is the vertebra: to score, and to learn from
EDGES = (
    (-8.5, -8, -7.5, -7, -6, -5, -3.5, -2, -0.5, 1, 2.5, 4, 5.5, 7, 8, 8.5, 9),
    (-8, -7, -5, -3, -1.5, -0.6, -0.2, 0.2, 0.6, 1, 3, 5, 7),
    (0.1, 0.4, 0.7, 0.9, 0.95, 0.975, 0.985),
)
# Neighbouring candidates' scores and distances err together, so that each counts for less than its likelihood. Chosen
# once, by cross-validation on all of VID; everything else is fitted on the training folds alone.
SCORES, SPREAD, FIRST, LAST = (0.7, 0.35, 0.5), 4.0, 0.26, 0.78
PSEUDO = 10.0  # spines' worth of all views' table that each view's begins with
S1, L5 = STATES.index("S1"), STATES.index("L5")


@dataclass
class Spine:
    """One scan: candidates from the head down, their states (-1: clutter) and the true levels."""

    name: str
    centres: np.ndarray
    scores: np.ndarray
    states: np.ndarray
    levels: list[str]
    truth: np.ndarray

    @property
    def view(self) -> int:
        """0: ends above L5, 1: at L5, 2: below."""
        found = self.states[self.states >= 0]
        return 1 if not len(found) else int(np.sign(found[-1] - L5)) + 1


def main(data: Positional[Path], /, out: Path | None = None, folds: int = 5, report: Path | None = None) -> None:
    """Cross-validate, print the table, fit on everything, write the constants."""
    spines = read(data)
    if folds > 1:
        result = cross_validate(spines, folds)
        if report is not None:
            write_json(result, report)
    if out is not None:
        with whole(out) as path:
            path.write_text(_compact(fit(spines)), encoding="utf-8")


def _compact(fitted: dict[str, Any]) -> str:
    """JSON with a line for every field."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fitted.items()) + "\n}\n"


def read(folder: Path) -> list[Spine]:
    """All spines with at least one true vertebra."""
    truth = json.loads((folder / "KeypointGroundTruthNoSacrum.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "KeypointPredictionsNoSacrum.json").read_text(encoding="utf-8"))
    spines = []
    for name in sorted(truth):
        bodies = [one for one in truth[name] if one["type"]["keypoint_type"] == "body"]
        guesses = [one for one in found.get(name, []) if one["type"]["keypoint_type"] == "body"]
        if bodies:
            spines.append(_spine(name, bodies, guesses))
    return spines


def _spine(name: str, bodies: list[dict[str, Any]], guesses: list[dict[str, Any]]) -> Spine:
    levels = [one["type"]["spine_level"] for one in bodies]
    truth = np.array([one["coordinates"]["world_space"] for one in bodies])
    centres = np.array([one["coordinates"]["world_space"] for one in guesses]).reshape(-1, 3)
    scores = np.array([one["type"]["spine_segment_probabilities"] for one in guesses]).reshape(-1, 3)
    if len(centres):
        order, _, axis = along_spine(centres, np.clip(scores.max(axis=1), 1e-3, 1))
        order = order if axis[2] <= 0 else order[::-1]
        centres, scores = centres[order], scores[order]
    return Spine(name, centres, scores, _states(levels, truth, centres, scores), levels, truth)


def _states(levels: list[str], truth: np.ndarray, centres: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Each candidate's state; one just beyond either end is the next vertebra, which the truth leaves out, or S1."""
    states = np.full(len(centres), -1)
    if not len(centres):
        return states
    distance = np.linalg.norm(truth[:, None] - centres, axis=-1)
    for i, level in enumerate(levels):
        j = int(distance[i].argmin())
        if distance[i, j] <= LABEL_MM and distance[:, j].argmin() == i:
            states[j] = STATES.index(level)
    top, bottom = COMMON.index(levels[0]), STATES.index(levels[-1])
    below = "S1" if bottom >= L5 else COMMON[COMMON.index(levels[-1]) + 1]
    for beyond, reach, name in (
        ((centres[:, 2] > truth[0, 2]) & (distance[0] > 14), distance[0] < 45, COMMON[top - 1] if top else None),
        ((centres[:, 2] < truth[-1, 2]) & (distance[-1] > 14), distance[-1] < 50, below),
    ):
        free = np.flatnonzero(beyond & reach & (states < 0))
        if len(free) and name is not None:
            states[free[scores[free].max(axis=1).argmax()]] = STATES.index(name)
    return states


def fit(spines: list[Spine]) -> dict[str, Any]:
    """Everything ``ct_model`` needs, as JSON."""
    spines = [one for one in spines if len(one.centres)]
    spacing, spread, scale_sd = _spacing(spines)
    views = np.bincount([one.view for one in spines], minlength=3) + 1.0
    first, last = np.full((3, len(STATES)), 0.2), np.full((3, len(STATES)), 0.2)
    seen, missed, clutter, length = np.full(len(COMMON), 20.0), np.full(len(COMMON), 0.3), 1.0, 1.0
    for one in spines:
        found = one.states[one.states >= 0]
        clutter += float((one.states < 0).sum())
        if not len(found):
            continue
        first[one.view, found[0]] += 1
        last[one.view, found[-1]] += 1
        length += float(np.ptp(one.centres[one.states >= 0, 2]))
        names = {STATES[k] for k in found}
        for k in range(found[0], found[-1]):
            if STATES[k] in COMMON and STATES[k] in one.levels:
                seen[COMMON.index(STATES[k])] += 1
                missed[COMMON.index(STATES[k])] += STATES[k] not in names
    first, last = (table / table.sum(axis=1, keepdims=True) for table in (first, last))
    eleven = sum("T11" in one.levels and "L1" in one.levels and "T12" not in one.levels for one in spines)
    return {
        "source": "fitted on VID, Buergin, Prevost, Stollenga 2023, CC BY-SA 4.0, by recipes/spine_order.py",
        "edges": EDGES,
        "tables": [np.round(table, 2).tolist() for table in _tables(spines)],
        "spacing_mm": np.round(spacing, 2).tolist(),
        "spacing_sd": np.round(SPREAD * spread, 4).tolist(),
        "scale_sd": round(scale_sd, 4),
        "scales": 1,
        "known_scale": True,
        "missed": np.round(missed / seen, 5).tolist(),
        "clutter": round(clutter / length, 6),
        "views": np.round(views / views.sum(), 4).tolist(),
        "first": np.round(first**FIRST, 5).tolist(),
        "last": np.round(last**LAST, 5).tolist(),
        # what follows L5, if anything, is weighed by ``last``
        "odd": [round((eleven + 0.5) / len(spines), 5), round(0.5 / len(spines), 5), 0.25],
    }


def _spacing(spines: list[Spine]) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean distances of neighbours, spread of their logarithm, and spread of a spine's size (one factor, by EM)."""
    logs = np.full((len(spines), len(COMMON) - 1), np.nan)
    for i, one in enumerate(spines):
        place = {STATES[k]: one.centres[j] for j, k in enumerate(one.states) if k >= 0}
        for gap, (above, below) in enumerate(pairwise(COMMON)):
            if above in place and below in place and not (below == "S1" and "L6" in place):
                logs[i, gap] = np.log(np.linalg.norm(place[above] - place[below]))
    there = np.isfinite(logs)
    mean = np.array(
        [np.median(column[ok]) if ok.sum() > 3 else np.nan for column, ok in zip(logs.T, there.T, strict=True)]
    )
    mean = np.where(np.isnan(mean), np.log(SPACING_MM), mean)
    rest = np.where(there, np.clip(logs - mean, -0.4, 0.4), 0.0)
    spread, scale_sd = np.full(len(mean), 0.06), 0.06
    for _ in range(20):
        weight = there / spread**2
        unsure = 1 / (weight.sum(axis=1) + scale_sd**-2)
        size = unsure * (weight * rest).sum(axis=1)
        scale_sd = float(np.sqrt((size**2 + unsure)[there.any(axis=1)].mean()))
        error = there * ((rest - size[:, None]) ** 2 + unsure[:, None])
        spread = np.sqrt((error.sum(axis=0) + 5 * 0.06**2) / (there.sum(axis=0) + 5))
    return np.exp(mean), spread, scale_sd


def _tables(spines: list[Spine]) -> list[np.ndarray]:
    """Weighted log likelihood ratios of each feature's bins, view by state by bin."""
    tables = []
    for feature, (edges, share) in enumerate(zip(EDGES, SCORES, strict=True)):
        counts = np.zeros((3, len(STATES) + 1, len(edges) + 1))
        for one in spines:
            np.add.at(counts[one.view], (one.states, np.digitize(region_features(one.scores)[feature], edges)), 1)
        counts = np.apply_along_axis(np.convolve, 2, counts, [0.15, 0.7, 0.15], "same")
        whole = _pooled(counts.sum(axis=0), alike=feature == 2)
        each = (counts + PSEUDO * whole) / (counts + PSEUDO * whole).sum(axis=2, keepdims=True)
        if feature == 2:
            each = np.broadcast_to(whole, counts.shape)  # the highest score tells vertebrae from the rest, no more
        tables.append(share * (np.log(each[:, :-1]) - np.log(whole[-1])))
    return tables


def _pooled(counts: np.ndarray, alike: bool) -> np.ndarray:
    """Distributions over bins, each state's drawn towards those of its neighbours in the same region."""
    k = np.arange(len(STATES))
    region = np.array(["x" if name == "S1" else name[0] for name in STATES])
    near = np.where(region[:, None] == region, 1.0 if alike else 0.3 ** np.abs(k[:, None] - k), 0.0)
    if alike:
        near = np.where((region[:, None] != "x") & (region != "x"), 1.0, near)
    near[S1] = near[S1] + 0.01 * near[L5]
    pooled = np.vstack([near @ counts[:-1], counts[-1:]]) + 0.3
    pooled /= pooled.sum(axis=1, keepdims=True)
    own = counts + 20 * pooled
    return np.asarray(pooled if alike else own / own.sum(axis=1, keepdims=True))


def score(one: Spine, model: OrderModel) -> dict[str, Any]:
    """Right names among the true vertebrae of one spine."""
    row = {"name": one.name, "vertebrae": len(one.levels), "candidates": 0, "right": 0, "l6": "L6" in one.levels}
    row |= {"visible": len(one.levels), "bottom": one.levels[-1], "p_l6": 0.0, "p_t11": 0.0, "seconds": 0.0}
    if not len(one.centres):
        return row
    began = time.process_time()
    naming = name_vertebrae(one.centres, None, one.scores, head=(0, 0, 1), model=model)
    row["seconds"] = time.process_time() - began
    distance = np.linalg.norm(one.truth[:, None] - one.centres, axis=-1)
    near, there = distance.argmin(axis=1), distance.min(axis=1) <= SAME_MM
    row["candidates"] = int(there.sum())
    row["right"] = sum(naming.labels[j] == level for j, level, ok in zip(near, one.levels, there, strict=True) if ok)
    row |= {"p_l6": naming.odd["L6"], "p_t11": naming.odd["T11"]}
    return row


def fold_of(spines: list[Spine], folds: int) -> np.ndarray:
    """A fold for each spine; two that are each other's nearest in shape may be one person, and stay together."""
    gaps = np.full((len(spines), len(STATES)), np.nan)
    for i, one in enumerate(spines):
        gaps[i, [STATES.index(level) for level in one.levels[1:]]] = np.linalg.norm(np.diff(one.truth, axis=0), axis=1)
    unlike = np.full((len(spines), len(spines)), np.inf)
    for i, one in enumerate(gaps):
        apart = np.abs(gaps - one)
        both = np.isfinite(apart).sum(axis=1)
        unlike[i, both >= 5] = np.nanmean(apart[both >= 5], axis=1)
    np.fill_diagonal(unlike, np.inf)
    nearest = unlike.argmin(axis=1)
    twin = [min(i, int(j)) if nearest[j] == i and unlike[i, j] < 1.5 else i for i, j in enumerate(nearest)]
    return np.array([int(hashlib.sha256(spines[i].name.encode()).hexdigest(), 16) % folds for i in twin])


def cross_validate(spines: list[Spine], folds: int) -> dict[str, Any]:
    """Score every spine by a model fitted on the other folds."""
    fold = fold_of(spines, folds)
    rows = []
    for k in range(folds):
        model = ct_model(fit([one for one, where in zip(spines, fold, strict=True) if where != k]))
        rows += [score(one, model) for one, where in zip(spines, fold, strict=True) if where == k]
    total = {key: sum(row[key] for row in rows) for key in ("vertebrae", "candidates", "right")}
    print(f"{len(rows)} spines, {folds} folds of {np.bincount(fold).tolist()}, {total}")
    print("| spines | count | right, of those with a candidate | right, of all | all right |\n|---|---|---|---|---|")
    groups = {"all": lambda row: True, "with L6": lambda row: row["l6"], "without L6": lambda row: not row["l6"]}
    for low, high in ((1, 6), (7, 8), (9, 10), (11, 14), (15, 25)):
        groups[f"{low}-{high} visible"] = lambda row, low=low, high=high: low <= row["visible"] <= high
    groups |= {
        "ending at L5": lambda row: row["bottom"] == "L5",
        "ending above": lambda row: row["bottom"][0] != "L" or row["bottom"] < "L5",
    }
    for name, keep in groups.items():
        some = [row for row in rows if keep(row)]
        right, there, every = (sum(row[key] for row in some) for key in ("right", "candidates", "vertebrae"))
        whole = np.mean([row["right"] == row["candidates"] for row in some])
        print(f"| {name} | {len(some)} | {right / there:.4f} | {right / every:.4f} | {whole:.3f} |")
    spent = 1e3 * np.array([row["seconds"] for row in rows if row["seconds"]])
    print(f"CPU ms a spine: median {np.median(spent):.2f}, 95 % {np.percentile(spent, 95):.2f}")
    return {"folds": folds, **total, "rows": rows}


if __name__ == "__main__":
    tyro.cli(main)
