"""Labelled radiographs as training samples: each picture read and windowed once, then drawn from a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from bones.augment import MIRRORS, Mirror, augmentation
from bones.cases import Case
from bones.config import Config
from shared.io.atomic import whole
from shared.io.radiograph import read_radiograph
from shared.parallel import cpu_count, spread
from shared.training_data import order_of_pass

PICTURE = 1  # this stream of random numbers is the pictures'; that of a pass's order has no such part

Sample = dict[str, Any]


def prepare(
    cases: Sequence[Case],
    cache: Path,
    longest_px: int,
    workers: int | None = None,
    on_picture: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Read every picture once and keep it as 8 bit grey, its longest side at most ``longest_px``; return the files.

    What is in the cache already stays; a picture that has changed since, by size or time, is read anew.

    Raises:
        InputError: a picture cannot be read.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"{_fingerprint(case.picture, longest_px)}.npy" for case in cases]
    missing = [(case.picture, file) for case, file in zip(cases, files, strict=True) if not file.exists()]
    workers = workers or (min(cpu_count(), 16) if len(missing) > 100 else 1)
    for _ in spread(partial(_store, longest_px), missing, workers, on_picture):
        pass
    return files


def _fingerprint(picture: Path, longest_px: int) -> str:
    state = picture.stat()
    text = f"{picture.resolve()} {state.st_size} {state.st_mtime_ns} {longest_px}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _store(longest_px: int, one: tuple[Path, Path]) -> None:
    picture, file = one
    grey = read_radiograph(picture).array
    high, wide = grey.shape
    if max(high, wide) > longest_px:
        scale = longest_px / max(high, wide)
        size = (max(round(wide * scale), 1), max(round(high * scale), 1))
        grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    with whole(file) as aside, aside.open("wb") as out:
        np.save(out, np.rint(grey * 255).astype(np.uint8))


class Fractures(Dataset[Sample]):
    """Endless samples for a detector; sample ``i`` is a function of the seed and ``i`` alone.

    A pass goes through all cases in an order of its own; with ``upsample`` flips every case is there four times, as it
    is and in the reference's three mirrors. A sample has ``image`` (1 y x, float32 in 0..1), ``boxes`` (xyxy in its
    pixels), ``labels`` (from 1, in the order of the config's) and ``case``, its name.
    """

    def __init__(self, cases: Sequence[Case], files: Sequence[Path], config: Config) -> None:
        """Take cases with boxes, and the cached picture of each (see ``prepare``)."""
        self.seed = config.training.seed
        self.mirrors = MIRRORS if config.sampling.upsample == "flips" else MIRRORS[:1]
        self._augment = augmentation(config)
        # Arrays, not a list of objects: counting references would copy it page by page in every worker.
        self._files = np.array([str(file) for file in files])
        self._names = np.array([case.name for case in cases])
        self._sizes = np.array([(case.width_px, case.height_px) for case in cases], np.int64).reshape(-1, 2)
        each = [case.boxes if case.boxes is not None else np.zeros((0, 4), np.float32) for case in cases]
        self._boxes = np.concatenate([*each, np.zeros((0, 4), np.float32)])
        numbers = {label: number for number, label in enumerate(config.detector.labels, 1)}
        self._labels = np.array([numbers[label] for case in cases for label in case.labels], np.int64)
        self._starts = np.cumsum([0, *map(len, each)])

    @property
    def pictures(self) -> int:
        """How many samples make one pass."""
        return len(self._files) * len(self.mirrors)

    def __len__(self) -> int:
        return 2**40  # endless: training decides when to stop

    def __getitem__(self, index: int) -> Sample:
        turn, place = divmod(index, self.pictures)
        case, mirror = divmod(int(order_of_pass(self.seed, turn, self.pictures)[place]), len(self.mirrors))
        image, target = self.stored(case)
        seed = np.random.SeedSequence((self.seed, PICTURE, index)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own numbers
            torch.manual_seed(int(seed[0]))
            image, target = self._augment(*Mirror(*self.mirrors[mirror])(image, target))
        return {
            "image": image.as_subclass(Tensor).float() / 255,
            "boxes": target["boxes"].as_subclass(Tensor).reshape(-1, 4),
            "labels": target["labels"],
            "case": str(self._names[case]),
        }

    def stored(self, case: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """Return a case's cached picture and its boxes on it, without augmentation."""
        grey = np.load(self._files[case])
        size = (int(grey.shape[0]), int(grey.shape[1]))
        mine = slice(int(self._starts[case]), int(self._starts[case + 1]))
        scale = np.tile(np.array([size[1], size[0]]) / self._sizes[case], 2)
        boxes = torch.from_numpy((self._boxes[mine] * scale).astype(np.float32))
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(self._labels[mine]),
        }
        return tv_tensors.Image(torch.from_numpy(grey)[None]), target


def collate(samples: list[Sample]) -> Sample:
    """Make a batch: ``image`` n 1 y x, and ``targets`` and ``case``, a list of one for each picture."""
    return {
        "image": torch.stack([sample["image"] for sample in samples]),
        "targets": [{"boxes": sample["boxes"], "labels": sample["labels"]} for sample in samples],
        "case": [sample["case"] for sample in samples],
    }
