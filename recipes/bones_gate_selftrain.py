"""Bone masks of real radiographs that have none, by the network of an earlier round: one round of self-training.

    python recipes/bones_gate_selftrain.py --run runs/bones/gate-1 --data FOLDER --out runs/bones/gate-data

The network looks at each picture and its mirror image at several sizes; where it is unsure, what is brighter than its
surroundings is bone. Masks that look like none are left out. Only pictures for training are used, and of these not the
groups that ``parts.json`` keeps for choosing thresholds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bones_gate_pictures import LONGEST_PX, write
from PIL import Image
from scipy import ndimage

from bones.cases import find_cases
from bones.config import Config
from bones.model import build
from bones.preprocess import fit
from bones.splitting import split_cases
from shared.config import load_config
from shared.io.radiograph import read_radiograph
from shared.io.writers import write_json
from shared.splits import split_groups

SIDE_PX = 224
SIDES_PX = (128, 176, 224)
TUNING_SHARE = 0.3
COPIES = 3
"""Of each picture: for one real there are eight made ones."""
LOCAL = 1 / 14  # of the side: about the width of a bone and of what lies beside it
Network = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Write pictures and masks beside the made ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    network = load(given.run)
    parts = choose_parts(given.data, given.out / "parts.json")
    kept = 0
    for name in parts["training"]:
        picture = smaller(read_radiograph(given.data / name).array)
        mask = refined(probability(network, picture), fit(picture, SIDE_PX))
        if 0.02 < mask.mean() < 0.7:
            whole = Image.fromarray(mask).resize(picture.shape[::-1], Image.Resampling.NEAREST)
            for copy in range(COPIES):
                write(given.out / "training", f"real{copy}-{Path(name).stem[:60]}", picture, np.asarray(whole))
            kept += 1
    print(f"{kept} of {len(parts['training'])} radiographs got a mask")


def choose_parts(data: Path, path: Path) -> dict[str, list[str]]:
    """Return names of pictures to train on, to choose thresholds on and to validate on; decided once."""
    if not path.exists():
        split = split_cases(find_cases(data, ("fracture",)))
        groups = {case.name: split.groups[case.name] for case in split.training}
        parts = split_groups(groups, {"training": 1 - TUNING_SHARE, "tuning": TUNING_SHARE})
        write_json(parts | {"validation": [case.name for case in (*split.validation, *split.test)]}, path)
    found: dict[str, list[str]] = json.loads(path.read_text())
    return found


def load(run: Path) -> Network:
    """Return a run's network, from a square picture to the probability of bone."""
    model = build(load_config(Config, run / "config.json"))
    model.load_state_dict(torch.load(run / "best.ckpt", map_location="cpu", weights_only=True)["model"])
    model.eval()

    def network(picture: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.sigmoid(model(torch.from_numpy(picture.copy())[None, None]))[0, 0].numpy()

    return network


def probability(network: Network, picture: np.ndarray) -> np.ndarray:
    """Return the mean over the picture and its mirror image at several sizes, at the gate's."""
    found = []
    for side in SIDES_PX:
        square = fit(picture, side)
        both = (network(square) + network(square[:, ::-1])[:, ::-1]) / 2
        found.append(fit(both, SIDE_PX))
    return np.mean(found, axis=0)


def refined(found: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the mask of bone: the network's, its edges drawn to where the picture turns from bright to dark."""
    side = max(picture.shape)
    body = ndimage.gaussian_filter((picture > 0.04).astype(np.float32), LOCAL * side) + 1e-3
    about = ndimage.gaussian_filter(np.where(picture > 0.04, picture, 0), LOCAL * side) / body
    spread = np.sqrt(ndimage.gaussian_filter((picture > 0.04) * (picture - about) ** 2, LOCAL * side) / body) + 0.02
    brighter = np.clip((picture - about) / spread, -2, 2)
    evidence = np.log((found + 1e-3) / (1 - found + 1e-3)) + 0.8 * brighter
    mask = ndimage.binary_opening(ndimage.gaussian_filter(evidence, 0.7) > 0)
    return _without_debris(ndimage.binary_closing(mask), found, picture)


def _without_debris(mask: np.ndarray, found: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Drop pieces that the network was nowhere sure of, crumbs, and small bright things on black, such as letters."""
    kept = np.zeros_like(mask)
    numbered, count = ndimage.label(mask)
    for number in range(1, count + 1):
        piece = numbered == number
        ring = ndimage.binary_dilation(piece, iterations=4) & ~mask
        alone = piece.mean() < 0.01 and picture[ring].mean() < 0.08 if ring.any() else False
        if found[piece].max() > 0.7 and piece.mean() > 0.001 and not alone:
            kept |= piece
    return kept


def smaller(picture: np.ndarray) -> np.ndarray:
    """Return a picture of at most `LONGEST_PX`."""
    scale = min(LONGEST_PX / max(picture.shape), 1.0)
    size = (max(round(picture.shape[1] * scale), 16), max(round(picture.shape[0] * scale), 16))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


if __name__ == "__main__":
    main()
