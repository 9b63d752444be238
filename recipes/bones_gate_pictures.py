"""The gate's made pictures: limbs and CT views with exact bone masks, and pictures that are no radiographs.

    python recipes/bones_gate_pictures.py --ct chest.nii.gz:labels.nii.gz heart.nii.gz --out FOLDER

Writes ``training`` and ``validation``, each with ``images`` and ``masks``, as training of the gate reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from bones_gate_drr import load_body, view
from bones_gate_negatives import negative
from PIL import Image

from bones.phantom import PhantomConfig, make

LONGEST_PX = 288  # the gate looks at 224
SEED = 3000
VALIDATION_SHARE = 0.06


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", nargs="*", default=[], help="CT, or CT:LABELS")
    parser.add_argument("--phantoms", type=int, default=990)
    parser.add_argument("--views", type=int, default=108, help="of all CTs together")
    parser.add_argument("--negatives", type=int, default=700)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bodies = [load_body(*map(Path, ct.split(":"))) for ct in given.ct]
    for index in range(given.phantoms):
        made = make(SEED, index, PhantomConfig(size_px=LONGEST_PX))
        write(given.out / part(index, given.phantoms), f"limb{index:04}", made.picture, made.bone_mask)
    for index in range(given.negatives):
        picture = negative(np.random.default_rng((SEED, 1, index)), LONGEST_PX)
        write(given.out / part(index, given.negatives), f"negative{index:04}", picture, np.zeros(picture.shape, bool))
    for index in range(given.views if bodies else 0):
        rng = np.random.default_rng((SEED, 2, index))
        while (found := view(bodies[index % len(bodies)], rng, LONGEST_PX)) is None:
            pass
        write(given.out / part(index, given.views), f"view{index:04}", *found)


def part(index: int, count: int) -> str:
    """Say which part a picture goes to: the last few of each kind are held out."""
    return "training" if index < count * (1 - VALIDATION_SHARE) else "validation"


def write(folder: Path, name: str, picture: np.ndarray, mask: np.ndarray) -> None:
    """Write one picture in 0..1 and its mask."""
    for below, values in (("images", picture), ("masks", mask)):
        path = folder / below / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
