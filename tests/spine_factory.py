"""A tiny spine network as a model file, and raw heads that say what a test wants."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from shared.registry import TASKS, Task
from spine.config import LEVELS, Config
from spine.decode import BINS, grid_places
from spine.preprocess import Letterbox

SPINE = Task(
    name="spine",
    summary="vertebrae C1 to L5 in spine films, outlined and named in anatomical order",
    labels=dict(enumerate(LEVELS)),
    models={"fp32": "spine.onnx", "int8": "spine-int8.onnx"},
    extra="spine",
    own_verbs={"merge": "exports of several kinds into one data set"},
)
# YOLO11's blocks, few channels, strides 8, 16 and 32.
TINY = {
    "nc": len(LEVELS),
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C3k2", [16, False, 0.25]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]],
    ],
    "head": [[[3, 4, 5], 1, "Segment", ["nc", 32, 16]]],
}  # fmt: skip
SIZE_PX = 320
# Vertebrae of a made film of 200 x 460 pixels: T10 to L3, each 40 x 24.
WIDTH_PX, HEIGHT_PX = 200, 460
SPINE_LEVELS = [LEVELS.index(name) for name in ("T10", "T11", "T12", "L1", "L2", "L3")]
SPINE_BOXES = np.array([[70 + 6 * k, 60 + 52 * k, 118 + 6 * k, 60 + 52 * k + 40] for k in range(6)], np.float32)


def register(monkeypatch):
    """Let the registry know of the task, whether or not it ships a model yet."""
    if "spine" not in TASKS:
        monkeypatch.setitem(TASKS, "spine", SPINE)


def tiny_network(seed=0):
    """A YOLO-seg network of few channels and random weights that is surer of some places than of others."""
    from spine.offline import offline_ultralytics

    offline_ultralytics()
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(seed)
    network = SegmentationModel(dict(TINY), ch=3, nc=len(LEVELS), verbose=False).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(3)
        for convolutions in (network.model[-1].cv2, network.model[-1].cv3, network.model[-1].cv4):
            for last in convolutions:
                last[-1].weight.mul_(10)
        for last in network.model[-1].cv3:
            last[-1].bias.fill_(-3)
    return network


@cache
def tiny_model():
    """The tiny network's ONNX file, made once."""
    from spine.export import export_network, model_metadata

    folder = Path(tempfile.mkdtemp(prefix="skiagram-tests-"))
    film = folder / "film.png"
    write_film(film)
    path = folder / "spine.onnx"
    export_network(tiny_network(), [film, film], path, model_metadata(Config(size_px=SIZE_PX), "random weights"))
    return path


def film_pixels(dtype=np.uint8):
    """A film of 200 x 460 pixels: bright vertebrae on a noisy slope, in every grey from 0 to the type's highest."""
    rng = np.random.default_rng(0)
    picture = np.linspace(0.1, 0.5, HEIGHT_PX)[:, None] + rng.uniform(0, 0.1, (HEIGHT_PX, WIDTH_PX))
    for x1, y1, x2, y2 in SPINE_BOXES.astype(int):
        picture[y1:y2, x1:x2] += 0.35
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.rint(picture * 255).astype(dtype) * (np.iinfo(dtype).max // 255)


def write_film(path, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film_pixels(dtype)).save(path)
    return path


def head_of(boxes_px, levels, letterbox, sure=0.9, scores=None):
    """The raw head of a network that finds just these boxes of a film, each with an ellipse for a mask.

    ``scores`` are all 24 of each; where None the level has ``sure`` and every other one next to nothing.
    """
    width, height = letterbox.input_width_px, letterbox.input_height_px
    grid = grid_places(width, height)
    distances = np.zeros((1, 4 * BINS, grid.shape[1]), np.float32)
    logits = np.full((1, len(LEVELS), grid.shape[1]), -12, np.float32)
    coefficients = np.zeros((1, 32, grid.shape[1]), np.float32)
    prototypes = np.zeros((1, 32, height // 4, width // 4), np.float32)
    offset = np.array([letterbox.left_px, letterbox.top_px] * 2)
    cell_y, cell_x = (np.indices(prototypes.shape[2:]) + 0.5) * 4
    free = np.ones(grid.shape[1], bool)
    for k, (box, level) in enumerate(zip(boxes_px, levels, strict=True)):
        x1, y1, x2, y2 = box * np.array(letterbox.gain * 2) + offset
        centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        usable = free & (grid[2] * (BINS - 2) > max(x2 - x1, y2 - y1))
        place = int(np.argmin(np.where(usable, np.abs(grid[:2] * grid[2] - centre[:, None]).sum(axis=0), np.inf)))
        free[place] = False
        x, y, stride = grid[:, place]
        for side, away in enumerate((x - x1 / stride, y - y1 / stride, x2 / stride - x, y2 / stride - y)):
            low = min(max(int(away), 0), BINS - 2)  # a distribution over two bins whose mean is the distance
            share = np.clip(away - low, 1e-6, 1 - 1e-6)
            distances[0, side * BINS : (side + 1) * BINS, place] = -60
            distances[0, side * BINS + low, place] = np.log(1 - share)
            distances[0, side * BINS + low + 1, place] = np.log(share)
        wanted = np.full(len(LEVELS), 1e-4) if scores is None else np.clip(scores[k], 1e-4, 1 - 1e-4)
        if scores is None:
            wanted[level] = sure
        logits[0, :, place] = np.log(wanted / (1 - wanted))
        coefficients[0, k, place] = 1
        prototypes[0, k] = 1 - np.hypot((cell_x - centre[0]) / (x2 - x1), (cell_y - centre[1]) / (y2 - y1)) * 2
    return distances, logits, coefficients, prototypes


def finds(predictor, boxes_px=SPINE_BOXES, levels=SPINE_LEVELS, **options):
    """Let a predictor's network find just these boxes on every film; returns the predictor."""
    size = predictor.file.size_px

    def outputs(image):
        letterbox = Letterbox.of(WIDTH_PX, HEIGHT_PX, size)
        assert image.shape[2:] == (letterbox.input_height_px, letterbox.input_width_px)
        return head_of(boxes_px, levels, letterbox, **options)

    predictor.session.outputs = outputs
    return predictor
