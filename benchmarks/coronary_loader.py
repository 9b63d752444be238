"""Training patches a second: our loader against the reference project's chain, on the same phantoms in one run.

    uv run python benchmarks/coronary_loader.py               # some five minutes on 2 cores
    uv run python benchmarks/coronary_loader.py --small       # smaller scans, to see that it works

The reference reads and preprocesses every scan anew for every four patches of 96 cubed: MONAI's LoadImaged,
EnsureChannelFirstd, SpatialPadd, NormalizeIntensityd, Spacingd, RandCropByPosNegLabeld, then its seven augmentations.
Ours preprocesses each scan once into the cache, whose time and disk are told beside. Both have the same number of
worker processes, of one thread each, and start with the scans in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import time
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from coronary.cache import prepare
from coronary.cases import Case, find_cases
from coronary.config import PRESETS, Config
from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from shared.config import apply_preset
from shared.io.writers import write_json

# torch and MONAI are imported where they are used: the processes that fill the cache import this file, too.
ROOT = Path(__file__).resolve().parents[1]
KEYS = ["image", "label"]
SIZE = (96, 96, 96)
SAMPLES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--small", action="store_true", help="scans of 256x256x103")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--scans", type=int, default=8, help="how many scans the reference goes through")
    parser.add_argument("--patches", type=int, default=400, help="how many patches we draw")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    cases = make_scans(options.out / ("loader-small" if options.small else "loader"), options.cases, options.small)
    for case in cases:  # so that neither side waits for the disk
        case.image.read_bytes(), case.label.read_bytes()

    result: dict[str, Any] = {"workers": options.workers, "cases": len(cases), **cache(cases, options)}
    print(f"{'patches a second':24}{'reference':>12}{'ours':>12}{'ratio':>8}")
    for name, preset in (("no augmentation", "reference-baseline"), ("seven augmentations", "reference")):
        theirs = patches_a_second(reference(cases, options, augment=preset == "reference"), options.scans * SAMPLES)
        ours = patches_a_second(our_batches(cases, options, preset), options.patches)
        result[name] = {"reference": theirs, "ours": ours, "ratio": ours / theirs}
        print(f"{name:24}{theirs:12.2f}{ours:12.2f}{ours / theirs:8.1f}", flush=True)
    write_json(result, options.out / "coronary_loader.json")


def make_scans(folder: Path, count: int, small: bool) -> list[Case]:
    """Phantoms of a cardiac CT's real size; made once."""
    shape, spacing = ((256, 256, 103), (0.7, 0.7, 1.0)) if small else ((512, 512, 206), (0.35, 0.35, 0.5))
    for case_id in range(1, count + 1):
        if not (folder / f"{case_id}.img.nii.gz").exists():
            print(f"making phantom {case_id} of {count}", flush=True)
            config = PhantomConfig(shape=shape, spacing_mm=spacing, orientation="RAS")
            write_phantom(make_phantom(config, 9_100_000 + case_id), folder, case_id)
    return find_cases(folder)[:count]


def cache(cases: list[Case], options: argparse.Namespace) -> dict[str, float]:
    """Fill the cache from nothing; tell its time and its disk for a case."""
    folder = options.out / "loader-cache"
    shutil.rmtree(folder, ignore_errors=True)
    told = {}
    for preset in ("reference", "best"):
        settings = apply_preset(Config(), PRESETS[preset]).preprocessing
        start = time.perf_counter()
        cached = prepare(cases, settings, folder, workers=options.workers)
        seconds = (time.perf_counter() - start) / len(cases)
        megabytes = sum(file.stat().st_size for case in cached for file in case.folder.iterdir()) / len(cases) / 1e6
        stored = sum(path.stat().st_size for case in cases for path in (case.image, case.label)) / len(cases) / 1e6
        spacing = " x ".join(f"{mm:g}" for mm in settings.spacing_mm)
        print(f"cache at {spacing} mm: {seconds:.1f} s and {megabytes:.1f} MB a case; its .nii.gz take {stored:.1f} MB")
        told |= {f"{preset}: seconds a case": seconds, f"{preset}: MB a case": megabytes, "nii.gz: MB a case": stored}
    return told


def reference(cases: list[Case], options: argparse.Namespace, augment: bool) -> Iterable[Any]:
    """The reference's loader: one scan, four patches, a batch."""
    from monai import transforms as mt
    from monai.data import DataLoader, Dataset, list_data_collate

    chain = [
        mt.LoadImaged(KEYS),
        mt.EnsureChannelFirstd(KEYS),
        mt.SpatialPadd(KEYS, SIZE),
        mt.NormalizeIntensityd("image", nonzero=True),
        mt.Spacingd(KEYS, (1.0, 1.0, 1.0), mode=("bilinear", "nearest")),
        mt.RandCropByPosNegLabeld(KEYS, "label", SIZE, pos=1, neg=1, num_samples=SAMPLES),
    ]
    files = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    files = (files * -(-options.scans // len(files)))[: options.scans]
    dataset = Dataset(files, mt.Compose(chain + (seven_augmentations() if augment else [])))
    return DataLoader(dataset, batch_size=1, num_workers=options.workers, collate_fn=list_data_collate)


def seven_augmentations() -> list[Any]:
    from monai import transforms as mt

    turn, mode = np.deg2rad(30), ("bilinear", "nearest")
    return [
        mt.RandRotated(KEYS, range_x=turn, range_y=turn, range_z=turn, prob=0.3, mode=mode),
        *(mt.RandFlipd(KEYS, prob=0.3, spatial_axis=axis) for axis in range(3)),
        mt.RandZoomd(KEYS, prob=0.3, min_zoom=0.9, max_zoom=1.1, mode=("trilinear", "nearest")),
        mt.RandAffined(
            KEYS, prob=0.3, rotate_range=(np.deg2rad(15),) * 3, scale_range=(0.1,) * 3, translate_range=(10,) * 3,
            mode=mode, padding_mode="border",
        ),
        mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        mt.RandScaleIntensityd("image", factors=0.1, prob=0.3),
        mt.RandGaussianNoised("image", prob=0.3, std=0.05),
    ]  # fmt: skip


def our_batches(cases: list[Case], options: argparse.Namespace, preset: str) -> Iterable[Any]:
    from coronary.data import Patches
    from shared.training_data import batches

    config = apply_preset(Config(), PRESETS[preset])
    settings = config.training.model_copy(update={"workers": options.workers, "batch": SAMPLES})
    cached = prepare(cases, config.preprocessing, options.out / "loader-cache", workers=1)
    return islice(batches(Patches(cached, config), settings), options.patches // SAMPLES)


def patches_a_second(loader: Iterable[Any], expected: int) -> float:
    """Go through a loader, its workers' start included."""
    start = time.perf_counter()
    shapes = [tuple(batch["image"].shape) for batch in loader]
    seconds = time.perf_counter() - start
    assert shapes == [(SAMPLES, 1, *SIZE)] * (expected // SAMPLES), shapes
    return expected / seconds


if __name__ == "__main__":
    main()
