"""Films as ultralytics' trainer takes them: read once like everywhere here, drawn as a function of seed and epoch.

What differs from ultralytics' own data set: films are read by ``shared.io.radiograph`` (so training sees what
prediction sees), no pickle is left beside the labels, rectangular batches come in a new order each epoch, films with
rare levels come more often, and every random choice depends on seed, epoch and place alone, so that a resumed run
repeats what an uninterrupted one would have done (law 5).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
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


class Draw(NamedTuple):
    """One film in one place of one epoch."""

    film: int
    epoch: int
    place: int
    height_px: int
    width_px: int


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
        """Read a film with its longer side ``size_px``, in three equal channels."""
        height, width = self.sizes_px[self.im_files[i]]
        grey = self.kept.get(i) if self.kept is not None else None
        if grey is None:
            grey = as_bytes(read_radiograph(self.im_files[i]).array)
            share = self.imgsz / max(height, width)
            if share != 1:
                size = min(int(np.ceil(width * share)), self.imgsz), min(int(np.ceil(height * share)), self.imgsz)
                grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), np.uint8)
            if self.kept is not None:
                self.kept[i] = grey
        return np.repeat(grey[..., None], CHANNELS, axis=2), (height, width), (grey.shape[0], grey.shape[1])

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """Turn the film by quarters, if that is asked for, before ultralytics makes instances of its labels."""
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
        label = self.get_image_and_label(key.film)
        if self.rect:
            label["rect_shape"] = np.array([key.height_px, key.width_px])
        return self.transforms(label)  # type: ignore[no-any-return]


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
    """

    def __init__(
        self, sizes_px: Sequence[tuple[int, int]], weights: Float64[np.ndarray, " film"], batch: int, size_px: int,
        rectangular: bool, seed: int, rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.aspects = np.array([height / width for height, width in sizes_px])
        self.weights, self.batch, self.size_px, self.rectangular = weights, batch, size_px, rectangular
        self.seed, self.rank, self.world, self.epoch = seed, rank, world, 0
        self.steps = -(-len(sizes_px) // (batch * world))

    def __len__(self) -> int:
        """Return how many films this process draws in an epoch."""
        return self.steps * self.batch

    def __iter__(self) -> Iterator[Draw]:
        """Yield this epoch's films, and count: the next time it is the next epoch's."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        batches = self.batches(epoch)
        for k in range(self.rank, len(batches), self.world):
            height, width = self.shape_px(batches[k])
            for i, film in enumerate(batches[k]):
                yield Draw(int(film), epoch, k * self.batch + i, height, width)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: loaders with workers are ahead of the trainer, so epochs are counted in ``__iter__``."""

    def batches(self, epoch: int) -> np.ndarray:
        """Return all processes' batches of an epoch, a row of film numbers each."""
        rng = np.random.default_rng([self.seed, epoch])
        count = self.steps * self.batch * self.world
        # Systematic sampling: each film its expected number of times, rounded up or down.
        ends = np.cumsum(self.weights) / self.weights.sum() * count
        drawn = rng.permutation(np.searchsorted(ends, np.arange(count) + rng.uniform(), side="right"))
        drawn = np.minimum(drawn, len(self.weights) - 1)
        if self.rectangular:
            drawn = drawn[np.argsort(np.log(self.aspects[drawn]) + rng.normal(0, SHAPE_JITTER, count), kind="stable")]
        rows: np.ndarray = drawn.reshape(-1, self.batch)
        return rows[rng.permutation(len(rows))]

    def shape_px(self, films: np.ndarray) -> tuple[int, int]:
        """Return height and width that hold all these films, multiples of 32."""
        if not self.rectangular:
            return self.size_px, self.size_px
        tall, wide = self.aspects[films].max(), self.aspects[films].min()
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
        batch, config.size_px, config.rectangular, config.training.seed, rank, world,
    )  # fmt: skip
    return InfiniteDataLoader(
        dataset=films, batch_size=batch, sampler=sampler, num_workers=workers, collate_fn=films.collate_fn,
        pin_memory=torch.cuda.is_available(), prefetch_factor=4 if workers else None,
        worker_init_fn=serve_parent,
    )  # fmt: skip
