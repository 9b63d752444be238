"""Films with more neck than they show, beside those of `spine_parts.py`: C7 mirrored upwards, again and again.

    uv run python recipes/spine_necks.py --parts runs/spine/parts --out runs/spine/necks

AASCE's training films end at C7, most of them within it; other films show C5. A network that has seen none of that
takes C7 for T1, whose place on the film it has. Seen from the front the lower neck repeats itself: the strip of a film
that holds C7, mirrored, passes for C6, and so on up, a little smaller each time, without shoulders. Mirrored strips
join without a seam. What is learnt is that vertebrae without ribs may come in any number above T1.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import tyro
from spine_parts import Outlines, read

from shared.io.tables import write_csv
from spine.cases import MANIFEST, find_films
from spine.config import LEVELS
from spine.labels import describe, write_film

WHOLE = 0.6  # of T1's height: less of C7 is a film's edge
FEWEST_PX = 8  # rows of a strip
SMALLER = (0.9, 1.0)  # a vertebra than the one below it
HALF_WIDTH, FALL = (1.6, 2.6), 1.2  # of a neck, and of its border, in widths of C7


def main(parts: Path, out: Path, *, necks: float = 2, seed: int = 13) -> None:
    """Write the data set: the films held out, those to train on, and of each with C7 ``--necks`` more (or a share)."""
    shutil.rmtree(out, ignore_errors=True)
    rows: list[dict[str, object]] = []
    for number, film in enumerate(find_films(parts)):
        if film.part == "train" and "-part" in film.image.stem:
            continue  # training cuts films itself
        rows.append(
            {"image": film.image.resolve(), "label": film.label.resolve(), "part": film.part, "group": film.group}
        )
        rng = np.random.default_rng([seed, number])
        count = int((number + 1) * necks) - int(number * necks)  # a share of them spread evenly
        for k in range(count if film.part == "train" else 0):
            made = with_neck(*read(film), rng)
            if made is not None:
                rows.append(write_film(out, "train", f"{film.image.stem}-neck{k}", *made) | {"group": film.group})
    write_csv(rows, out / MANIFEST)
    (out / "data.yaml").write_text(describe({"training": rows, "validation": rows}), encoding="utf-8")
    print(f"{len(rows)} films in {out}, {sum('-neck' in str(row['image']) for row in rows)} of them with made necks")


def with_neck(picture: np.ndarray, outlines: Outlines, rng: np.random.Generator) -> tuple[np.ndarray, Outlines] | None:
    """Return a film with one to four levels more above C7; None where C7 is not on it, or only a part of it."""
    known = dict(outlines)
    if not {"C7", "T1"} <= set(known):
        return None
    c7, t1 = known["C7"], known["T1"]
    gap = max((t1[:, 1].min() - c7[:, 1].max()) / 2, 0.0)
    top, bottom = max(round(c7[:, 1].min() - gap), 0), round((c7[:, 1].max() + t1[:, 1].min()) / 2)
    if np.ptp(c7[:, 1]) < WHOLE * np.ptp(t1[:, 1]) or bottom - top < FEWEST_PX:
        return None
    strip, corners = picture[top:bottom].astype(np.float32), c7 - [0, top]
    middle, width, across = c7[:, 0].mean(), np.ptp(c7[:, 0]), np.arange(picture.shape[1])
    seventh = LEVELS.index("C7")
    stack, named, size = [picture[top:].astype(np.float32)], [], 1.0
    for k in range(1, int(rng.integers(1, 5)) + 1):
        size *= rng.uniform(*SMALLER)
        rows = max(round(len(strip) * size), FEWEST_PX)
        mirrored = k % 2 == 1
        shrink = np.array([[size, 0, middle * (1 - size)], [0, rows / len(strip), 0]])
        source = np.ascontiguousarray(strip[::-1]) if mirrored else strip
        made = cv2.warpAffine(source, shrink, (picture.shape[1], rows), borderMode=cv2.BORDER_REPLICATE)
        aside = np.abs(across - middle) / width - rng.uniform(*HALF_WIDTH)
        air = np.clip(aside / FALL, 0, 1)
        stack.append(made * (1 - air) + np.percentile(made, 2) * air)
        turned = np.stack([corners[:, 0], len(strip) - corners[:, 1]], axis=1) if mirrored else corners
        named.append((LEVELS[seventh - k], turned @ shrink[:, :2].T + shrink[:, 2]))
    starts = np.cumsum([len(one) for one in stack[:0:-1]])  # of each level's rows, counted from the new top
    higher: Outlines = []
    for (level, found), start in zip(named[::-1], [0, *starts[:-1]], strict=True):
        higher.append((level, found + np.array([0, start])))
    lower = [(level, found + np.array([0, starts[-1] - top])) for level, found in outlines]
    return np.clip(np.vstack(stack[::-1]), 0, 255).astype(np.uint8), higher + lower


if __name__ == "__main__":
    tyro.cli(main)
