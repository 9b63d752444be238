"""Pictures that are no radiographs, drawn by chance: pages, drawings, textures, scenes, blobs, films without bone."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage
from scipy.special import expit

Picture = np.ndarray
Draw = Callable[[np.random.Generator, tuple[int, int]], Picture]


def negative(rng: np.random.Generator, longest_px: int) -> Picture:
    """Draw a picture ``y x`` in 0..1 of a random kind."""
    aspect = float(np.clip(rng.normal(1.0, 0.3), 0.5, 1.8))
    shape = (longest_px, round(longest_px * aspect)) if aspect < 1 else (round(longest_px / aspect), longest_px)
    picture = KINDS[rng.integers(len(KINDS))](rng, shape)
    low, high = sorted(rng.uniform(0, 1, 2))
    if rng.random() < 0.5 and high - low > 0.3:  # pictures of less contrast
        picture = low + (high - low) * picture
    if rng.random() < 0.3:
        picture = 1 - picture
    picture = picture + rng.normal(0, float(rng.choice([0.0, 0.01, 0.04])), shape)
    return np.clip(picture, 0, 1).astype(np.float32)


def page(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Lines of text, perhaps with rules and blocks, as on a page or a screen."""
    image, draw = _canvas(shape)
    size, y = int(rng.integers(7, 28)), int(rng.integers(0, 20))
    font = ImageFont.load_default(size)
    while y < shape[0]:
        words = ["".join(rng.choice(list(string.ascii_letters), int(rng.integers(1, 9)))) for _ in range(30)]
        draw.text((int(rng.integers(0, 30)), y), " ".join(words)[: int(rng.integers(5, 120))], fill=255, font=font)
        y += int(size * rng.uniform(1.0, 2.2))
    for _ in range(int(rng.integers(0, 6))):
        x1, y1, x2, y2 = _box(rng, shape)
        draw.rectangle((x1, y1, x2, y2), outline=255, fill=int(rng.integers(0, 256)) if rng.random() < 0.4 else None)
    angle = float(rng.normal(0, 8)) if rng.random() < 0.4 else 0.0
    return _array(image.rotate(angle, Image.Resampling.BILINEAR))


def drawing(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Flat shapes and strokes: logos, icons, charts, silhouettes."""
    image, draw = _canvas(shape)
    for _ in range(int(rng.integers(1, 14))):
        x1, y1, x2, y2 = _box(rng, shape)
        fill = int(rng.integers(0, 256))
        kind = rng.integers(5)
        if kind == 0:
            draw.ellipse((x1, y1, x2, y2), fill=fill)
        elif kind == 1:
            draw.rectangle((x1, y1, x2, y2), fill=fill)
        elif kind == 2:
            draw.polygon([tuple(rng.uniform(0, max(shape), 2)) for _ in range(int(rng.integers(3, 9)))], fill=fill)
        elif kind == 3:
            draw.line((x1, y1, x2, y2), fill=fill, width=int(rng.integers(1, 30)))
        else:
            draw.arc((x1, y1, x2, y2), 0, int(rng.integers(40, 360)), fill=fill, width=int(rng.integers(1, 12)))
    return _array(image)


def ellipses(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Nested ellipses of even grey, as in tomography's test patterns (Shepp and Logan, 1974)."""
    y, x = _coordinates(shape)
    picture = np.zeros(shape)
    a, b = rng.uniform(0.5, 0.95, 2)
    shell = float(rng.uniform(0.02, 0.12))
    for share, value in ((1.0, 1.0), (1 - shell, -float(rng.uniform(0.5, 0.9)))):
        picture += value * ((x / (a * share)) ** 2 + (y / (b * share)) ** 2 < 1)
    for _ in range(int(rng.integers(2, 10))):
        u, v, r, s = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), *rng.uniform(0.03, 0.3, 2)
        turn = rng.uniform(0, np.pi)
        across = (x - u) * np.cos(turn) + (y - v) * np.sin(turn)
        along = (y - v) * np.cos(turn) - (x - u) * np.sin(turn)
        picture += float(rng.uniform(-0.2, 0.2)) * ((across / r) ** 2 + (along / s) ** 2 < 1)
    return np.clip(picture, 0, 1)


def clouds(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Noise whose power falls with frequency, from white noise to hills."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / np.maximum(np.hypot(fy, fx), 1e-3) ** rng.uniform(0, 2.2)
    return _full(np.fft.irfft2(spectrum, shape))


def stripes(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Gratings, bricks and chessboards, crossed at an angle."""
    y, x = _coordinates(shape)
    turn, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(0.03), np.log(0.8)))
    u = np.sin(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / period)
    v = np.sin(2 * np.pi * (y * np.cos(turn) - x * np.sin(turn)) / (period * rng.uniform(0.4, 3)))
    mixed = [u, u * v, np.maximum(u, v)][rng.integers(3)]
    return _full(np.sign(mixed) + 0.05 * mixed if rng.random() < 0.6 else mixed)


def cells(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Stones, tissue or mosaics: each pixel belongs to its nearest seed."""
    count = int(np.exp(rng.uniform(np.log(8), np.log(900))))
    seeds = np.zeros(shape, bool)
    seeds[rng.integers(shape[0], size=count), rng.integers(shape[1], size=count)] = True
    distance, (row, column) = ndimage.distance_transform_edt(~seeds, return_indices=True)
    tones = rng.random(shape)[row, column]
    edges = 1 - np.clip(distance / max(distance.max(), 1), 0, 1)
    return _full(tones * rng.uniform(0, 1) + edges * rng.uniform(0, 1.5))


def leaves(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Discs and slabs of all sizes that hide each other and are shaded, whose statistics are those of photographs.

    Lee, Mumford and Huang, Occlusion models for natural images, IJCV 41, 2001: radii fall with their cube.
    """
    y, x = _coordinates(shape)
    picture = np.full(shape, rng.random())
    for radius in np.sort(0.9 / np.sqrt(1 + rng.random(int(rng.integers(30, 260))) ** 3 * 900))[::-1]:
        u, v, turn, flat = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, np.pi), rng.uniform(0.25, 1)
        across = ((x - u) * np.cos(turn) + (y - v) * np.sin(turn)) / radius
        along = ((y - v) * np.cos(turn) - (x - u) * np.sin(turn)) / (radius * flat)
        square = rng.random() < 0.3
        inside = np.maximum(abs(across), abs(along)) < 1 if square else across**2 + along**2 < 1
        shade = rng.random() + rng.normal(0, 0.3) * across + rng.normal(0, 0.3) * along
        picture = np.where(inside, shade, picture)
    return ndimage.gaussian_filter(np.clip(picture, 0, 1), float(rng.uniform(0, 1.5)))


def scene(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Hills, or a floor and a wall, under a bright or dark sky, with things standing there."""
    y, _ = _coordinates(shape)
    picture = rng.random() + rng.normal(0, 0.3) * y
    for depth in np.sort(rng.uniform(-0.6, 0.9, int(rng.integers(1, 5)))):
        ridge = depth + 0.3 * (ndimage.gaussian_filter1d(rng.standard_normal(shape[1]), 12) * 3)
        picture = np.where(y > ridge[None], rng.random() + 0.25 * clouds(rng, shape), picture)
    return np.clip(0.8 * picture + 0.2 * leaves(rng, shape), 0, 1) if rng.random() < 0.5 else np.clip(picture, 0, 1)


def blobs(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """A few bright bodies or many points on even ground: a cell, coins, stars, a lamp, smeared by motion or not."""
    y, x = _coordinates(shape)
    picture = 0.1 * clouds(rng, shape) + rng.normal(0, 0.15) * x
    many = rng.random() < 0.4
    for _ in range(int(rng.integers(20, 300)) if many else int(rng.integers(1, 8))):
        u, v = rng.uniform(-0.9, 0.9, 2)
        r, s = rng.uniform(0.005, 0.04, 2) if many else rng.uniform(0.08, 0.5, 2)
        if rng.random() < 0.6:
            s = r
        distance = np.hypot((x - u) / r, (y - v) / s)
        rim = np.exp(-((distance - 1) ** 2) * 30) * rng.uniform(-0.5, 0.7)
        grain = 1 + (0.6 * (clouds(rng, shape) - 0.5) if not many else 0)
        picture = picture + rng.uniform(0.3, 1) * grain * expit((1 - distance) * rng.uniform(4, 40)) + rim
    if rng.random() < 0.4:
        picture = ndimage.uniform_filter1d(picture, int(rng.integers(3, 40)), axis=int(rng.integers(2)))
    return _full(picture)


def film_without_bone(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """Soft tissue, a lead letter or an empty field, black around: what a radiograph has besides bone."""
    y, x = _coordinates(shape)
    picture = np.zeros(shape)
    for _ in range(int(rng.integers(0, 3))):
        turn, radius = rng.uniform(0, np.pi), rng.uniform(0.15, 0.6)
        away = (x - rng.uniform(-0.4, 0.4)) * np.cos(turn) + (y - rng.uniform(-0.4, 0.4)) * np.sin(turn)
        picture += np.sqrt(np.clip(radius**2 - away**2, 0, None)) * rng.uniform(0.4, 1.2)
    picture = _full(picture) * rng.uniform(0.3, 1) * (1 + 0.1 * clouds(rng, shape))
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.6:
        size = int(rng.integers(12, 60))
        where = tuple(rng.uniform(0, 0.9, 2) * shape[::-1])
        ImageDraw.Draw(image).text(where, str(rng.choice(["L", "R", "RT", "L 4"])), 255, ImageFont.load_default(size))
    lit = (abs(x) < rng.uniform(0.5, 1.2)) & (abs(y) < rng.uniform(0.5, 1.2))
    return _array(image) * lit + rng.choice([0.0, 0.1]) * ~lit


def even(rng: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """One grey, or grey that changes evenly."""
    y, x = _coordinates(shape)
    return np.clip(rng.random() + rng.normal(0, 0.4) * x + rng.normal(0, 0.4) * y * (rng.random() < 0.5), 0, 1)


KINDS: tuple[Draw, ...] = (
    page, drawing, ellipses, clouds, stripes, cells, film_without_bone, even, leaves, leaves, scene, scene, blobs, blobs
)  # fmt: skip


def _canvas(shape: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", shape[::-1])
    return image, ImageDraw.Draw(image)


def _box(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    (x1, x2), (y1, y2) = np.sort(rng.uniform(0, shape[1], 2)), np.sort(rng.uniform(0, shape[0], 2))
    return float(x1), float(y1), float(x2), float(y2)


def _coordinates(shape: tuple[int, int]) -> tuple[Picture, Picture]:
    """Return y and x, -1..1 along the longer side."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    return (2 * y - shape[0]) / max(shape), (2 * x - shape[1]) / max(shape)


def _array(image: Image.Image) -> Picture:
    return np.asarray(image.filter(ImageFilter.BoxBlur(0.3)), np.float64) / 255


def _full(values: Picture) -> Picture:
    """Stretch to 0..1."""
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-9)
