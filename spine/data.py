"""Films as ultralytics' trainer takes them: read once like everywhere here, drawn as a function of seed and epoch.

What differs from ultralytics' own data set: films are read by ``shared.io.radiograph`` (so training sees what
prediction sees), no pickle is left beside the labels, rectangular batches come in a new order each epoch, films with
rare levels come more often, and every random choice depends on seed, epoch and place alone, so that a resumed run
repeats what an uninterrupted one would have done (law 5).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image, ImageOps

from shared.io.radiograph import read_radiograph
from shared.parallel import serve_parent
from spine.cases import Film, read_labels
from spine.config import LEVELS, Config
from spine.offline import offline_ultralytics
from spine.preprocess import as_bytes

offline_ultralytics()

import torch  # noqa: E402
from torch.utils.data import Sampler  # noqa: E402
from ultralytics.data.build import InfiniteDataLoader  # noqa: E402
from ultralytics.data.dataset import YOLODataset  # noqa: E402

STRIDE = 32
CHANNELS = 3
# Between neighbours in the order of shapes: enough that batches are not the same films each epoch.
SHAPE_JITTER = 0.05
FEWEST = 5
"""Vertebrae that a cut leaves on a film."""
WHOLE = (0.0, 1.0)


class Draw(NamedTuple):
    """One film in one place of one epoch."""

    film: int
    epoch: int
    place: int
    height_px: int
    width_px: int
    span: tuple[float, float] = WHOLE
    """Where the film is cut off above and below, in shares of its height."""


class Films(YOLODataset):
    """Films with polygons, as ultralytics batches them; ``films[k]`` plain, ``films[Draw]`` augmented.

    Args:
        films: which.
        config: the run's settings.
        hyp: ultralytics' settings of augmentation and masks.
        augment: for training; else for looking at, in rectangular batches of ``batch`` by shape.
        batch: films in a batch.
        keep: hold resized films in memory (0.15 MB each for 640 x 240).
    """

    def __init__(
        self, films: Sequence[Film], config: Config, hyp: SimpleNamespace, augment: bool, batch: int, keep: bool
    ) -> None:
        self.films = {str(film.image): film for film in films}
        self.seed, self.turns = config.training.seed, config.augmentation.quarter_turns
        self.kept: dict[int, UInt8[np.ndarray, "y x"]] | None = {} if keep else None
        self.span = WHOLE  # of the film that is being drawn
        super().__init__(
            list(self.films), imgsz=config.size_px, augment=augment, hyp=hyp, rect=config.rectangular or not augment,
            batch_size=batch, stride=STRIDE, pad=0.0 if augment else 0.5, task="segment",
            data={"names": dict(enumerate(LEVELS)), "channels": CHANNELS},
        )  # fmt: skip
        self.buffer = list(range(self.ni))  # mosaic draws from all films, not from those that were read last

    imgsz: Any

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Keep the films as they were given."""
        return sorted([img_path] if isinstance(img_path, str) else img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        """Read every film's size and polygons."""
        labels = [self._labels(self.films[file]) for file in self.im_files]
        self.sizes_px: dict[str, tuple[int, int]] = {label["im_file"]: label["shape"] for label in labels}
        return labels

    def _labels(self, film: Film) -> dict[str, Any]:
        with Image.open(film.image) as image:
            width, height = ImageOps.exif_transpose(image).size if image.getexif() else image.size
        classes, polygons = read_labels(film.label)
        corners = [(polygon.min(axis=0), polygon.max(axis=0)) for polygon in polygons]
        boxes = [np.concatenate([(low + high) / 2, high - low]) for low, high in corners]
        return {
            "im_file": str(film.image), "shape": (height, width), "cls": classes.astype(np.float32)[:, None],
            "bboxes": np.array(boxes, np.float32).reshape(-1, 4),
            "segments": [polygon.astype(np.float32) for polygon in polygons],
            "keypoints": None, "normalized": True, "bbox_format": "xywh",
        }  # fmt: skip

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[UInt8[np.ndarray, "y x 3"], tuple[int, int], tuple[int, int]]:
        """Read a film, or what is left of it, with its longer side ``size_px``, in three equal channels."""
        whole_px, width = self.sizes_px[self.im_files[i]]
        top, bottom = _rows(self.span, whole_px)
        height = bottom - top
        kept = self.kept if self.span == WHOLE else None
        grey = kept.get(i) if kept is not None else None
        if grey is None:
            grey = as_bytes(read_radiograph(self.im_files[i]).array)[top:bottom]
            share = self.imgsz / max(height, width)
            if share != 1:
                size = min(int(np.ceil(width * share)), self.imgsz), min(int(np.ceil(height * share)), self.imgsz)
                grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), np.uint8)
            if kept is not None:
                kept[i] = grey
        return np.repeat(grey[..., None], CHANNELS, axis=2), (height, width), (grey.shape[0], grey.shape[1])

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """Cut the film off or turn it by quarters, where asked, before ultralytics makes instances of its labels."""
        if self.span != WHOLE:
            whole_px = self.sizes_px[label["im_file"]][0]
            top, bottom = _rows(self.span, whole_px)
            label = cut_off(label, top / whole_px, bottom / whole_px)
        if self.augment and random.random() < self.turns:
            label = quarter_turned(label, random.choice((1, 2, 3)))
        return super().update_labels_info(label)

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        """Return a film as tensors; a ``Draw`` is augmented by random numbers of its own."""
        if not isinstance(key, Draw):
            return super().__getitem__(key)
        state = np.random.SeedSequence([self.seed, key.epoch, key.place]).generate_state(2)
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))  # noqa: NPY002  ultralytics draws from the global generators
        self.span = key.span
        label = self.get_image_and_label(key.film)
        self.span = WHOLE
        if self.rect:
            label["rect_shape"] = np.array([key.height_px, key.width_px])
        return self.transforms(label)  # type: ignore[no-any-return]


def _rows(span: tuple[float, float], height_px: int) -> tuple[int, int]:
    return round(span[0] * height_px), round(span[1] * height_px)


def cut_off(label: dict[str, Any], top: float, bottom: float) -> dict[str, Any]:
    """Return a film's label dictionary (normalised ``xywh``) as seen on the film from ``top`` to ``bottom``.

    Vertebrae whose centre is beyond are dropped, the others end where the film does.
    """
    moved = [(s - [0, top]) / [1, bottom - top] for s in label["segments"]]
    stay = [k for k, s in enumerate(moved) if 0 < s[:, 1].min() + s[:, 1].max() < 2]
    segments = [np.clip(moved[k], 0, 1).astype(np.float32) for k in stay]
    corners = [(s.min(axis=0), s.max(axis=0)) for s in segments]
    boxes = [np.concatenate([(low + high) / 2, high - low]) for low, high in corners]
    return label | {
        "cls": label["cls"][stay], "segments": segments, "bboxes": np.array(boxes, np.float32).reshape(-1, 4)
    }  # fmt: skip


def random_span(extents: Float64[np.ndarray, "vertebra 2"], rng: np.random.Generator) -> tuple[float, float]:
    """Return where a film is cut off above and below: each in the margin, or between two vertebrae, as likely.

    Args:
        extents: highest and lowest point of each vertebra, from the head down, in shares of the film's height.
        rng: random numbers.

    Returns:
        Shares of the height, between which FEWEST vertebrae stay, or all where there are no more.
    """
    if not len(extents):
        return WHOLE
    spare = max(len(extents) - FEWEST, 0)
    above = int(rng.integers(0, spare + 1)) if rng.random() < 0.5 else 0
    below = int(rng.integers(0, spare - above + 1)) if rng.random() < 0.5 else 0
    lines = [(upper + lower) / 2 for upper, lower in pairwise(extents.mean(axis=1))]
    top = lines[above - 1] if above else rng.random() * max(extents[:, 0].min(), 0.0)
    bottom = lines[-below] if below else 1 - rng.random() * max(1 - extents[:, 1].max(), 0.0)
    return (float(top), float(bottom)) if top < bottom else WHOLE


def quarter_turned(label: dict[str, Any], turns: int) -> dict[str, Any]:
    """Return a film's label dictionary (normalised ``xywh``) turned ``turns`` times by 90 degrees, anticlockwise."""
    for _ in range(turns):
        boxes = label["bboxes"]
        label = label | {
            "img": np.ascontiguousarray(np.rot90(label["img"])),
            "bboxes": np.stack([boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3], boxes[:, 2]], axis=1),
            "segments": [np.stack([s[:, 1], 1 - s[:, 0]], axis=1) for s in label["segments"]],
        }
    return label | {"ori_shape": label["ori_shape"][:: -1 if turns % 2 else 1], "resized_shape": label["img"].shape[:2]}


class EpochSampler(Sampler[Draw]):
    """Draws the films of one epoch after another, ``batch`` in a row of one shape; all from seed and epoch.

    As many films as there are, rounded up to whole batches. A film is drawn in proportion to its weight. With
    ``rectangular``, films of like shape come together, in an order that differs each epoch.

    Args:
        sizes_px: height and width of each film.
        weights: how often each is drawn, in any unit.
        batch: films in a batch of one process.
        size_px: longer side of a batch.
        rectangular: batches of films of one shape; else squares.
        seed: random seed.
        rank: which process this is; each takes every ``world``-th batch.
        world: how many processes there are.
        cut: chance that a film is cut off above and below.
        extents: of each film, what ``random_span`` takes.
    """

    def __init__(
        self, sizes_px: Sequence[tuple[int, int]], weights: Float64[np.ndarray, " film"], batch: int, size_px: int,
        rectangular: bool, seed: int, rank: int = 0, world: int = 1, cut: float = 0.0,
        extents: Sequence[Float64[np.ndarray, "vertebra 2"]] = (),
    ) -> None:  # fmt: skip
        self.aspects = np.array([height / width for height, width in sizes_px])
        self.weights, self.batch, self.size_px, self.rectangular = weights, batch, size_px, rectangular
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, 0
        self.cut, self.extents = cut, extents
        self.steps = -(-len(sizes_px) // (batch * world))

    def __len__(self) -> int:
        """Return how many films this process draws in an epoch."""
        return self.steps * self.batch

    def __iter__(self) -> Iterator[Draw]:
        """Yield this epoch's films, and count: the next time it is the next epoch's."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        batches, spans = self.batches(epoch)
        for k in range(self.rank, len(batches), self.world):
            height, width = self.shape_px(batches[k], spans[k])
            for i, (film, (top, bottom)) in enumerate(zip(batches[k].tolist(), spans[k].tolist(), strict=True)):
                yield Draw(film, epoch, k * self.batch + i, height, width, (top, bottom))

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: loaders with workers are ahead of the trainer, so epochs are counted in ``__iter__``."""

    def batches(self, epoch: int) -> tuple[Int64[np.ndarray, "batch film"], Float64[np.ndarray, "batch film 2"]]:
        """Return all processes' batches of an epoch: a row of film numbers each, and what stays of each film."""
        rng = np.random.default_rng([self.seed, epoch])
        count = self.steps * self.batch * self.world
        # Systematic sampling: each film its expected number of times, rounded up or down.
        ends = np.cumsum(self.weights) / self.weights.sum() * count
        drawn = rng.permutation(np.searchsorted(ends, np.arange(count) + rng.uniform(), side="right"))
        drawn = np.minimum(drawn, len(self.weights) - 1)
        spans = np.tile(np.array(WHOLE), (count, 1))
        for k in np.flatnonzero(rng.random(count) < self.cut) if self.cut else ():
            spans[k] = random_span(self.extents[drawn[k]], rng)
        if self.rectangular:
            aspects = self.aspects[drawn] * np.diff(spans)[:, 0]
            order = np.argsort(np.log(aspects) + rng.normal(0, SHAPE_JITTER, count), kind="stable")
            drawn, spans = drawn[order], spans[order]
        mixed = rng.permutation(count // self.batch)
        return drawn.reshape(-1, self.batch)[mixed], spans.reshape(-1, self.batch, 2)[mixed]

    def shape_px(self, films: Int64[np.ndarray, " film"], spans: Float64[np.ndarray, "film 2"]) -> tuple[int, int]:
        """Return height and width that hold all these films, or what stays of them, multiples of 32."""
        if not self.rectangular:
            return self.size_px, self.size_px
        aspects = self.aspects[films] * np.diff(spans)[:, 0]
        tall, wide = aspects.max(), aspects.min()
        height, width = (1.0, 1 / wide) if wide > 1 else (tall, 1.0) if tall < 1 else (1.0, 1.0)
        return _up_to_stride(height * self.size_px), _up_to_stride(width * self.size_px)


def _up_to_stride(side_px: float) -> int:
    return int(np.ceil(side_px / STRIDE - 1e-9)) * STRIDE


def film_weights(classes: Sequence[np.ndarray], least_share: float) -> Float64[np.ndarray, " film"]:
    """Return how often each film is drawn, so that rare levels are seen more often.

    Repeat factor sampling (Gupta, Dollar, Girshick: LVIS, CVPR 2019, section 4): a level that a share f of films shows
    has the factor max(1, sqrt(least_share / f)); a film has that of its rarest level.

    Args:
        classes: the class numbers on each film.
        least_share: levels on fewer films are rare; 0 gives 1 everywhere.
    """
    shown = np.array([np.isin(np.arange(len(LEVELS)), found) for found in classes])
    share = np.maximum(shown.mean(axis=0), 1e-9)
    factors = np.maximum(1.0, np.sqrt(least_share / share))
    weights: Float64[np.ndarray, " film"] = np.where(shown, factors, 1.0).max(axis=1)
    return weights


def _extents(boxes: Float32[np.ndarray, "vertebra 4"]) -> Float64[np.ndarray, "vertebra 2"]:
    """Highest and lowest point of each box (normalised ``xywh``), from the head down."""
    middle, half = boxes[:, 1].astype(np.float64), boxes[:, 3].astype(np.float64) / 2
    return np.stack([middle - half, middle + half], axis=1)[np.argsort(middle)]


def training_loader(
    films: Films, config: Config, batch: int, workers: int, rank: int, world: int
) -> InfiniteDataLoader:
    """Return ultralytics' endless loader over an ``EpochSampler``; ``loader.sampler.epoch`` is the next epoch's number.

    Args:
        films: the training films.
        config: the run's settings.
        batch: films in a batch of one process.
        workers: processes that prepare films; 0 is this one.
        rank: which process of the training this is.
        world: how many there are.
    """
    sampler = EpochSampler(
        [films.sizes_px[file] for file in films.im_files],
        film_weights([label["cls"][:, 0] for label in films.labels], config.balance),
        batch, config.size_px, config.rectangular, config.training.seed, rank, world, config.augmentation.cut,
        [_extents(label["bboxes"]) for label in films.labels],
    )  # fmt: skip
    return InfiniteDataLoader(
        dataset=films, batch_size=batch, sampler=sampler, num_workers=workers, collate_fn=films.collate_fn,
        pin_memory=torch.cuda.is_available(), prefetch_factor=4 if workers else None,
        worker_init_fn=serve_parent,
    )  # fmt: skip
