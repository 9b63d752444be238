"""Synthetic spine films with exact outlines and names: AP and lateral, of the neck, the chest, the loins or the whole.

A film is a function of its seed and settings alone. It serves to try the whole path, and to show a network levels that
no labelled film shows; what a network learns from it alone does not hold on real films (see the model card).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field, PositiveInt
from scipy.ndimage import gaussian_filter

from shared.config import Config as FrozenConfig
from shared.errors import SetupError
from shared.io.atomic import write_error
from shared.io.tables import write_csv
from shared.types import PictureArray
from spine.cases import MANIFEST, PARTS
from spine.config import LEVELS
from spine.labels import describe, write_film
from spine.phantom_anatomy import Spine, View, make_spine
from spine.phantom_canvas import Canvas, xy
from spine.phantom_render import paint
from spine.polygons import PolygonError, mend
from spine.preprocess import as_bytes

Region = Literal["cervical", "thoracic", "lumbar", "whole"]

# Which vertebrae a film is centred on, and the margins beyond them in mm: above, below, and to either side.
FIELDS: dict[Region, tuple[str, str, tuple[float, float], tuple[float, float]]] = {
    "cervical": ("C1", "T1", (25, 60), (55, 95)),
    "thoracic": ("T1", "T12", (5, 45), (70, 150)),
    "lumbar": ("L1", "L5", (35, 90), (60, 120)),
    "whole": ("T1", "L5", (15, 110), (75, 150)),
}


class PhantomConfig(FrozenConfig):
    """What films to make."""

    views: tuple[View, ...] = ("ap", "lateral")
    regions: tuple[Region, ...] = ("cervical", "thoracic", "lumbar", "whole")
    long_side_px: PositiveInt = 640
    noise: float = Field(0.02, ge=0)
    """Standard deviation of the noise where the film is darkest, as a share of the grey range."""
    validation_fraction: float = Field(0.2, ge=0, lt=1)


@dataclass(frozen=True, slots=True)
class Phantom:
    """A film, bone bright in 0..1, with the outline of each vertebra on it in pixels, from the head down."""

    picture: PictureArray
    outlines: tuple[tuple[str, Float64[np.ndarray, "corner 2"]], ...]
    view: View
    region: Region
    spacing_mm: float


DEFAULT = PhantomConfig()


def make_phantom(seed: int, config: PhantomConfig = DEFAULT) -> Phantom:
    """Make one film.

    A vertebra more than half outside the film has no outline, as where people draw them.
    """
    rng = np.random.default_rng([seed, 0x5C1])
    view: View = config.views[int(rng.integers(len(config.views)))]
    region: Region = config.regions[int(rng.integers(len(config.regions)))]
    spine = make_spine(view, rng)
    low, high = _field(spine, region, rng)
    px_per_mm = config.long_side_px / float((high - low).max())
    width, height = (int(side) for side in np.round((high - low) * px_per_mm))
    canvas = Canvas(width, height, low, px_per_mm)
    paint(canvas, spine, rng)
    picture = develop(canvas.density, px_per_mm, config.noise, rng)
    placed = [(one.level, canvas.pixels(one.outline_mm)) for one in spine.vertebrae]
    if view == "lateral" and rng.random() < 0.5:  # the patient looks to the right
        picture = np.ascontiguousarray(picture[:, ::-1])
        placed = [(level, corners[::-1] * [-1, 1] + [width, 0]) for level, corners in placed]
    _mark(picture, rng)
    outlines = []
    for level, corners in placed:
        try:
            outlines.append((level, mend(corners, width, height).corners_px))
        except PolygonError:
            continue
    return Phantom(picture, tuple(outlines), view, region, 1 / px_per_mm)


def _field(spine: Spine, region: Region, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose the corners of a film that shows a region, in mm; sometimes from the head to the hips."""
    first, last, (least, most), (narrow, wide) = FIELDS[region]
    points = np.concatenate([
        one.outline_mm for one in spine.vertebrae[LEVELS.index(first) : LEVELS.index(last) + 1]
    ])  # fmt: skip
    above, below = rng.uniform(least, most, 2)
    if region == "whole" and rng.random() < 0.35:
        above, below = above + rng.uniform(100, 230), below + rng.uniform(0, 120)
    front, behind = rng.uniform(narrow, wide, 2)
    if spine.view == "lateral":
        front, behind = front + 15, min(behind, 95.0)
    return points.min(axis=0) - xy(front, above), points.max(axis=0) + xy(behind, below)


def develop(density: np.ndarray, px_per_mm: float, noise: float, rng: np.random.Generator) -> PictureArray:
    """Turn densities into greys: scatter, uneven field, unsharpness, a processor's edges and curve, grain."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in density.shape), indexing="ij")
    tilt = rng.uniform(-0.12, 0.12, 2)
    seen = density + tilt[0] * rows + tilt[1] * columns + 0.15 * _unsharp(density, 25 * px_per_mm)
    for coarse_mm, depth in ((1.2, 0.01), (4.0, 0.015), (14.0, 0.025)):  # trabeculae, muscle, fat
        seen = seen + depth * rng.uniform(0.5, 1.5) * _cloud(density.shape, coarse_mm * px_per_mm, rng) * (
            0.4 + density
        )
    seen = gaussian_filter(seen, rng.uniform(0.25, 0.7) * px_per_mm)
    seen = seen + rng.uniform(0, 2.2) * (seen - _unsharp(seen, rng.uniform(3, 9) * px_per_mm))
    low, high = np.percentile(seen, [0.5, 99.5])
    grey = np.clip((seen - low) / max(high - low, 1e-6), 0, 1) ** rng.uniform(0.7, 1.35)
    grain = gaussian_filter(rng.normal(0, 1, grey.shape), rng.uniform(0.3, 0.9))
    # Fewer quanta where more is lost on the way.
    grey = grey + noise * rng.uniform(0.3, 1.2) * grain / grain.std() * (0.5 + grey)
    film: PictureArray = np.clip(grey, 0, 1).astype(np.float32)
    return film


def _unsharp(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    """Blur by a wide Gaussian, on a coarser grid where that cannot be seen."""
    step = max(int(sigma_px / 3), 1)
    small = Image.fromarray(picture.astype(np.float32)).reduce(step)
    blurred = Image.fromarray(gaussian_filter(np.asarray(small), sigma_px / step))
    return np.asarray(blurred.resize(picture.shape[::-1], Image.Resampling.BICUBIC), np.float64)


def _cloud(shape: Sequence[int], coarse_px: float, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of standard deviation 1, its structure about so coarse."""
    rows, columns = (int(np.ceil(side / coarse_px / 2)) + 3 for side in shape)
    coarse = Image.fromarray(rng.normal(0, 1, (rows, columns)).astype(np.float32))
    cloud = np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float64)
    return np.asarray(cloud / cloud.std(), np.float64)


def _mark(picture: PictureArray, rng: np.random.Generator) -> None:
    """Cut the film's edges as a collimator does, and put a side marker beside the spine, each now and then."""
    height, width = picture.shape
    if rng.random() < 0.4:
        shade = float(rng.choice([0.0, 0.0, 0.95]))
        edges = rng.integers(0, max(2, min(height, width) // 25), 4)
        picture[: edges[0]], picture[height - edges[1] :] = shade, shade
        picture[:, : edges[2]], picture[:, width - edges[3] :] = shade, shade
    if rng.random() < 0.5:
        size = max(10, width // 14)
        plate = Image.new("L", (size, size))
        font = ImageFont.load_default(size=0.9 * size)
        ImageDraw.Draw(plate).text((0.15 * size, -0.1 * size), str(rng.choice(["R", "L"])), fill=255, font=font)
        x = int(rng.choice([0.02, 0.98 - size / width]) * width)
        y = int(rng.uniform(0.05, 0.8) * height)
        part = picture[y : y + size, x : x + size]
        np.maximum(part, np.asarray(plate, np.float32)[: part.shape[0], : part.shape[1]] / 255, out=part)


def write_dataset(
    out: Path,
    count: int,
    seed: int = 0,
    config: PhantomConfig = DEFAULT,
    *,
    on_case: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Write a data set of phantoms in the layout of ``spine merge``, whole or not at all; return the films' names.

    Raises:
        SetupError: ``out`` holds something already, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SetupError(f"{out}: is there already; give another --out, or delete it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    held_out = round(count * config.validation_fraction)
    rows = []
    try:
        for k in range(count):
            phantom = make_phantom(seed * 1_000_003 + k, config)
            part, name = PARTS["validation" if k >= count - held_out else "training"], f"phantom-{seed}-{k:05d}"
            rows.append(_write(aside, part, name, phantom))
            on_case(k + 1)
        write_csv(rows, aside / MANIFEST)
        parts = {part: [row for row in rows if row["part"] == yolo] for part, yolo in PARTS.items()}
        (aside / "data.yaml").write_text(describe(parts), encoding="utf-8")
        if out.exists():
            out.rmdir()
        aside.chmod(0o755)
        aside.replace(out)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [Path(row["image"]).stem for row in rows]


def _write(root: Path, part: str, name: str, phantom: Phantom) -> dict[str, str]:
    row = write_film(root, part, name, as_bytes(phantom.picture), phantom.outlines)
    levels = " ".join(level for level, _ in phantom.outlines)
    return row | {"original": f"{name}.png", "levels": levels, "view": phantom.view, "region": phantom.region}
