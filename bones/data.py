"""Labelled radiographs as training samples: each picture and mask read once, then drawn from a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from bones.augment import MIRRORS, Mirror, for_boxes, for_masks
from bones.cases import Case
from bones.config import Config
from bones.formats.case import Rle
from bones.masks import bone_mask, instances
from shared.io.atomic import whole
from shared.io.radiograph import read_radiograph
from shared.parallel import cpu_count, spread
from shared.training_data import order_of_pass

PICTURE = 1  # this stream of random numbers is the pictures'; that of a pass's order has no such part

Masks = Literal["none", "bone", "instances"]
Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Cases with their cached pictures and, where a network learns them, masks."""

    cases: Sequence[Case]
    files: Sequence[Path]
    masks: Sequence[Path] = field(default=())

    def take(self, places: Iterable[int]) -> Prepared:
        """Return the cases at these places."""
        chosen = list(places)
        masks = [self.masks[k] for k in chosen] if self.masks else ()
        return Prepared([self.cases[k] for k in chosen], [self.files[k] for k in chosen], masks)

    def part(self, rank: int, world: int) -> Prepared:
        """Return one process's share."""
        return self.take(range(rank, len(self.cases), world))


def prepare(
    cases: Sequence[Case],
    cache: Path,
    longest_px: int,
    workers: int | None = None,
    *,
    masks: Masks = "none",
    on_picture: Callable[[int], None] = lambda done: None,
) -> Prepared:
    """Read every picture once and keep it as 8 bit grey, its longest side at most ``longest_px``.

    What is in the cache already stays; a picture or mask that has changed since is read anew.

    Args:
        cases: what to read.
        cache: folder for the files.
        longest_px: larger pictures are made smaller.
        workers: processes; None is as many as are worth it.
        masks: keep one mask of bone for each picture (``y x``, 0 or 1), or one of each box (``box y x``).
        on_picture: hears how many are read.

    Raises:
        InputError: a picture or a mask cannot be read.
    """
    cache.mkdir(parents=True, exist_ok=True)
    keys = [_key(case, longest_px) for case in cases]
    files = [cache / f"{key}.npy" for key in keys]
    wanted: list[tuple[Case, Path, Masks]] = [(*pair, "none") for pair in zip(cases, files, strict=True)]
    painted: list[Path] = []
    if masks != "none":
        painted = [cache / f"{key}-{masks}-{_mask_key(case)}.npz" for key, case in zip(keys, cases, strict=True)]
        wanted += [(*pair, masks) for pair in zip(cases, painted, strict=True)]
    missing = [one for one in wanted if not one[1].exists()]
    workers = workers or (min(cpu_count(), 16) if len(missing) > 100 else 1)
    spread(partial(_store, longest_px), missing, workers, on_picture)
    return Prepared(cases, files, painted)


def _key(case: Case, longest_px: int) -> str:
    return _short(f"{_state(case.picture)} {longest_px}".encode())


def _mask_key(case: Case) -> str:
    drawn = b"".join(
        np.asarray(outline.counts).tobytes() if isinstance(outline, Rle) else b"".join(p.tobytes() for p in outline)
        for outline in case.outlines or ()
        if outline is not None
    )
    return _short(f"{_state(case.mask)} {case.mask_colours} {case.labels}".encode() + drawn)


def _state(file: Path | None) -> str:
    if file is None:
        return ""
    found = file.stat()
    return f"{file.resolve()} {found.st_size} {found.st_mtime_ns}"


def _short(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:24]


def _store(longest_px: int, one: tuple[Case, Path, Masks]) -> None:
    case, file, masks = one
    width, height = _stored_size(case, longest_px)
    if masks != "none":
        painted = _painted(case, masks, width, height)
        with whole(file) as aside, aside.open("wb") as out:
            np.savez_compressed(out, np.packbits(painted, axis=-1), np.array(painted.shape))
        return
    grey = read_radiograph(case.picture).array
    if grey.shape != (height, width):
        grey = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))
    with whole(file) as aside, aside.open("wb") as out:
        np.save(out, np.rint(grey * 255).astype(np.uint8))


def _stored_size(case: Case, longest_px: int) -> tuple[int, int]:
    scale = min(longest_px / max(case.width_px, case.height_px), 1.0)
    return max(round(case.width_px * scale), 1), max(round(case.height_px * scale), 1)


def _painted(case: Case, masks: Masks, width: int, height: int) -> Bool[np.ndarray, "mask y x"]:
    """Return the mask of bone, or one of each box, as large as the stored picture."""
    if masks == "instances":
        each, _ = instances(case, set(case.labels))
    else:
        bone = bone_mask(case)
        each = np.zeros((1, case.height_px, case.width_px), bool) if bone is None else bone[None]
    if each.shape[1:] == (height, width):
        return each
    smaller = [np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)) for mask in each]
    return np.array(smaller, bool).reshape(-1, height, width)


def read_masks(file: Path) -> UInt8[np.ndarray, "mask y x"]:
    """Return the masks that ``prepare`` kept, 0 or 1."""
    with np.load(file) as kept:
        packed, shape = kept["arr_0"], kept["arr_1"]
    masks: UInt8[np.ndarray, "mask y x"] = np.unpackbits(packed, axis=-1, count=int(shape[-1])).reshape(shape)
    return masks


class Pictures(Dataset[Sample]):
    """Endless samples; sample ``i`` is a function of the seed and ``i`` alone, whatever process makes it.

    A pass goes through all cases in an order of its own; with ``upsample`` flips every case is there four times, as it
    is and in the reference's three mirrors: after the split, so that no copy is held out.
    """

    def __init__(self, prepared: Prepared, config: Config, augment: v2.Transform) -> None:
        self.seed = config.training.seed
        self.mirrors = MIRRORS if config.sampling.upsample == "flips" else MIRRORS[:1]
        self._augment = augment
        # Arrays, not lists of objects: counting references would copy them page by page in every worker.
        self._files = np.array([str(file) for file in prepared.files])
        self._masks = np.array([str(file) for file in prepared.masks])
        self._names = np.array([case.name for case in prepared.cases])

    @property
    def pictures(self) -> int:
        """How many samples make one pass."""
        return len(self._files) * len(self.mirrors)

    def __len__(self) -> int:
        return 2**40  # endless: training decides when to stop

    def stored(self, case: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """Return a case's cached picture and what is known of it, without augmentation."""
        return tv_tensors.Image(torch.from_numpy(np.load(self._files[case]))[None]), {}

    def __getitem__(self, index: int) -> Sample:
        turn, place = divmod(index, self.pictures)
        case, mirror = divmod(int(order_of_pass(self.seed, turn, self.pictures)[place]), len(self.mirrors))
        seed = np.random.SeedSequence((self.seed, PICTURE, index)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own numbers
            torch.manual_seed(int(seed[0]))
            image, target = self._augment(*Mirror(*self.mirrors[mirror])(*self.stored(case)))
        plain = {name: tensor.as_subclass(Tensor) for name, tensor in target.items()}
        return {"image": image.as_subclass(Tensor).float() / 255, **plain, "case": str(self._names[case])}


class Fractures(Pictures):
    """A detector's samples.

    A sample has ``image`` (1 y x, 0..1), ``boxes`` (xyxy in its pixels), ``labels`` (from 1, in the order of the
    config's), ``case``, and where the network learns them ``masks`` (box y x).
    """

    def __init__(self, prepared: Prepared, config: Config) -> None:
        """Take cases with boxes, and the cached picture of each (see ``prepare``)."""
        super().__init__(prepared, config, for_boxes(config))
        cases = prepared.cases
        self._sizes = np.array([(case.width_px, case.height_px) for case in cases], np.int64).reshape(-1, 2)
        none = np.zeros((0, 4), np.float32)
        each = [none if case.boxes is None else case.boxes for case in cases]
        self._boxes = np.concatenate([*each, none])
        numbers = {label: number for number, label in enumerate(config.detector.labels, 1)}
        self._labels = np.array([numbers[label] for case in cases for label in case.labels], np.int64)
        self._starts = np.cumsum([0, *map(len, each)])

    def stored(self, case: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """Return a case's cached picture and its boxes on it, without augmentation."""
        image, target = super().stored(case)
        height, width = image.shape[-2:]
        mine = slice(int(self._starts[case]), int(self._starts[case + 1]))
        boxes = self._boxes[mine] * np.tile(np.array([width, height]) / self._sizes[case], 2)
        target["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.astype(np.float32)), format="XYXY", canvas_size=(height, width)
        )
        target["labels"] = torch.from_numpy(self._labels[mine])
        if len(self._masks):
            target["masks"] = tv_tensors.Mask(torch.from_numpy(read_masks(Path(self._masks[case]))))
        return image, target


class BoneMasks(Pictures):
    """A gate's samples: ``image`` and ``mask`` (1 y x each; 0..1, and 1 where bone is) and ``case``."""

    def __init__(self, prepared: Prepared, config: Config) -> None:
        """Take cases with masks, and the cached picture and mask of each (see ``prepare``)."""
        super().__init__(prepared, config, for_masks(config))

    def stored(self, case: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """Return a case's cached picture and its mask, without augmentation."""
        image, target = super().stored(case)
        target["mask"] = tv_tensors.Mask(torch.from_numpy(read_masks(Path(self._masks[case]))))
        return image, target


def collate(samples: list[Sample]) -> Sample:
    """Make a batch: ``image`` n 1 y x, ``case`` a list of names, and ``mask`` n 1 y x or a list of ``targets``."""
    batch: Sample = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "case": [sample["case"] for sample in samples],
    }
    if "mask" in samples[0]:
        return batch | {"mask": torch.stack([sample["mask"] for sample in samples]).float()}
    learnt = [name for name in ("boxes", "labels", "masks") if name in samples[0]]
    return batch | {"targets": [{name: sample[name] for name in learnt} for sample in samples]}
