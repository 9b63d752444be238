"""Phantom radiographs of limbs with breaks: exact boxes, bone masks and instances. Needs no torch.

A case is a function of the seed and its number: ``make(seed, index)``. ``write_dataset`` writes COCO as
``bones.formats.coco`` reads it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field, PositiveInt

from bones.formats.coco import ROBOFLOW, Written, write_annotations
from bones.phantom_bones import LongBone
from bones.phantom_breaks import BREAKS, Break, BreakKind, broken_ends, draw_break
from bones.phantom_implants import METAL_PER_MM, draw_implant
from bones.phantom_limbs import LIMBS, Limb, draw_limb
from bones.phantom_render import SOFT_PER_MM, Grid, Look, Piece, Texture, View, develop, pieces_of, seen, soft_tissue
from shared.config import Config as FrozenConfig
from shared.io.atomic import whole
from shared.types import Boxes, PictureArray

MIN_VISIBLE_PX = 12  # an instance of fewer pixels is not told of
MIN_SHAFT_PX = 2.0  # a break of a bone of a smaller radius is not to be seen
TRIES = 60
LABELS = ("bone", "implant", "fracture")
# Of ten phantoms in a row: seven to train on, two to validate, one to test.
FOLDERS = ("train",) * 3 + ("valid",) + ("train",) * 3 + ("valid", "test", "train")


class PhantomConfig(FrozenConfig):
    """What phantoms are like."""

    size_px: PositiveInt = Field(512, ge=64)
    """The longest side of the picture."""
    limbs: tuple[str, ...] = tuple(LIMBS)
    broken: float = Field(0.7, ge=0, le=1)
    """Share of phantoms with at least one break."""
    kinds: tuple[BreakKind, ...] = BREAKS
    displaced: float = Field(0.5, ge=0, le=1)
    """Share of breaks whose fragments have moved; the others are hairlines."""
    implants: float = Field(0.08, ge=0, le=1)
    """Share of phantoms with a plate, a nail or a wire."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One bone or implant and the pixels it is seen on."""

    name: str
    label: str
    mask: Bool[np.ndarray, "y x"]


@dataclass(frozen=True, slots=True)
class Phantom:
    """A picture in 0..1, bone bright; its mask of bone and metal, instances, and boxes ``x1 y1 x2 y2`` px of breaks."""

    picture: PictureArray
    bone_mask: Bool[np.ndarray, "y x"]
    instances: tuple[Instance, ...]
    boxes: Boxes
    kinds: tuple[str, ...]
    """Of each box: the break's kind, and whether it is displaced or a hairline."""
    limb: str


def make(seed: int, index: int, config: PhantomConfig | None = None) -> Phantom:
    """Make the phantom of that number; the same for the same seed, number and config on every machine."""
    config = config or PhantomConfig()
    rng = np.random.default_rng((seed, index))
    limb = draw_limb(rng, str(rng.choice(list(config.limbs))))
    view = _draw_view(rng, limb, config.size_px)
    lit = _draw_collimation(rng, view)
    limb, breaks = _break(rng, limb, view, lit, config)
    pieces = pieces_of(limb.bones, breaks)
    x, y = view.grid()
    line = SOFT_PER_MM * _flesh(rng, pieces, x, y)
    texture = Texture(rng, float(rng.uniform(0.06, 0.2)))
    masks: dict[str, Bool[np.ndarray, "y x"]] = {}
    for piece in pieces:
        window, added, hit = seen(piece, x, y, texture)
        line[window] += added
        mask = masks.setdefault(piece.bone.name, np.zeros(x.shape, bool))
        mask[window] |= hit
    metal = _implant(rng, limb, breaks, pieces, config, x, y)
    for name, crossed in metal.items():
        line += METAL_PER_MM * crossed
        masks[name] = crossed > 0
    picture = develop(line, Look.draw(rng), rng, lit)
    picture = _finish(rng, picture, line, lit)
    instances = tuple(
        Instance(name, "implant" if name in metal else "bone", mask & lit)
        for name, mask in masks.items()
        if (mask & lit).sum() >= MIN_VISIBLE_PX
    )
    bone_mask = np.zeros(x.shape, bool)
    for instance in instances:
        bone_mask |= instance.mask
    boxes, kinds = _boxes(limb, pieces, breaks, view, lit)
    return Phantom(picture, bone_mask, instances, boxes, kinds, limb.kind)


def write_dataset(
    directory: Path | str,
    count: int,
    seed: int,
    config: PhantomConfig | None = None,
    first_id: int = 1,
    on_case: Callable[[int], None] | None = None,
) -> list[int]:
    """Write ``count`` phantoms, numbered from ``first_id``, as a COCO data set in Roboflow's folders.

    Pictures are grey PNG of 8 bits. Every bone and implant is an annotation with its exact mask, every fracture one
    with its box alone. The JSON of a folder comes last: where it is, the folder is whole. ``on_case`` hears how many
    pictures are written.

    Raises:
        SetupError: the folder cannot be written to.
    """
    directory = Path(directory)
    ids = list(range(first_id, first_id + count))
    listed: dict[str, list[Written]] = {}
    for done, number in enumerate(ids, start=1):
        phantom = make(seed, number, config)
        folder, file = FOLDERS[(number - first_id) % len(FOLDERS)], f"{number:05d}.png"
        with whole(directory / folder / file) as aside:
            Image.fromarray(np.round(phantom.picture * 255).astype(np.uint8)).save(aside)
        height, width = phantom.picture.shape
        boxes = [("fracture", box.tolist()) for box in phantom.boxes]
        masks = [(instance.label, instance.mask) for instance in phantom.instances]
        listed.setdefault(folder, []).append(Written(file, width, height, boxes, masks))
        if on_case is not None:
            on_case(done)
    for folder, pictures in listed.items():
        about = f"Phantom radiographs, seed {seed}: drawn, of no patient"
        write_annotations(pictures, LABELS, directory / folder / ROBOFLOW, about)
    return ids


def _draw_view(rng: np.random.Generator, limb: Limb, size_px: int) -> View:
    aspect = float(np.clip(rng.normal(0.78, 0.16), 0.45, 1.25))  # width over height
    height, width = (size_px, round(size_px * aspect)) if aspect <= 1 else (round(size_px / aspect), size_px)
    angle = float(rng.normal(0, 0.15)) + float(rng.choice([0.0, np.pi, np.pi / 2], p=[0.6, 0.32, 0.08]))
    mm = limb.height_mm / size_px * float(rng.uniform(0.9, 1.15))
    centre = (limb.centre[0] + float(rng.normal(0, 0.03)) * limb.height_mm,
              limb.centre[1] + float(rng.normal(0, 0.03)) * limb.height_mm)  # fmt: skip
    return View(width, height, mm, centre, angle, bool(rng.random() < 0.5))


def _draw_collimation(rng: np.random.Generator, view: View) -> Bool[np.ndarray, "y x"]:
    """Return where the beam was: mostly all over, else within a slightly turned rectangle."""
    lit = np.ones((view.height_px, view.width_px), bool)
    if rng.random() < 0.55:
        return lit
    down, right = np.mgrid[0 : view.height_px, 0 : view.width_px] + 0.5
    angle = float(rng.normal(0, 0.06))
    across = (right - view.width_px / 2) * np.cos(angle) + (down - view.height_px / 2) * np.sin(angle)
    along = (down - view.height_px / 2) * np.cos(angle) - (right - view.width_px / 2) * np.sin(angle)
    for values, side in ((across, view.width_px), (along, view.height_px)):
        low, high = rng.uniform(0.38, 0.52, 2)
        lit &= (values > -low * side) & (values < high * side)
    return lit


def _break(
    rng: np.random.Generator, limb: Limb, view: View, lit: Bool[np.ndarray, "y x"], config: PhantomConfig
) -> tuple[Limb, dict[str, Break]]:
    """Break one bone or more where the film shows it; a limb that shows too little of any stays whole."""
    breaks: dict[str, Break] = {}
    bones = {bone.name: bone for bone in limb.bones}
    if rng.random() < config.broken:
        wanted = int(rng.choice([1, 2, 3], p=[0.72, 0.22, 0.06]))
        for _ in range(TRIES):
            if len(breaks) == wanted:
                break
            long = [bone for bone in limb.bones if isinstance(bone, LongBone) and bone.name not in breaks]
            bone = long[int(rng.integers(len(long)))]
            if bone.shaft_mm < MIN_SHAFT_PX * view.mm_per_px:
                continue
            kind = config.kinds[int(rng.integers(len(config.kinds)))]
            changed, one = draw_break(rng, bone, kind, bool(rng.random() < config.displaced))
            if _shown(broken_ends(changed, one, Piece(bone).motion), view, lit):
                breaks[bone.name], bones[bone.name] = one, changed
    return Limb(limb.kind, tuple(bones.values()), limb.centre, limb.height_mm), breaks


def _shown(points_mm: np.ndarray, view: View, lit: Bool[np.ndarray, "y x"]) -> bool:
    """Say whether points are all on the film, and where the beam was."""
    points = view.to_px(points_mm)
    inside = (points >= 1).all() and (points < np.array([view.width_px, view.height_px]) - 1).all()
    return bool(inside) and bool(lit[points[:, 1].astype(int), points[:, 0].astype(int)].all())


def _implant(
    rng: np.random.Generator, limb: Limb, breaks: dict[str, Break], pieces: list[Piece], config: PhantomConfig,
    x: Grid, y: Grid,
) -> dict[str, Grid]:  # fmt: skip
    """Return the metal each ray crosses, mm, by the implant's name; it holds a bone that is not broken."""
    whole = [piece for piece in pieces if isinstance(piece.bone, LongBone) and piece.bone.name not in breaks]
    if rng.random() >= config.implants or not whole:
        return {}
    for number in rng.permutation(len(whole)):
        piece = whole[number]
        if isinstance(piece.bone, LongBone):
            implant = draw_implant(rng, piece.bone)
            crossed = implant.crossed(*piece.bone.along_across(*piece.motion.undo(x, y)))
            if crossed.any():
                return {f"{implant.kind} in {implant.bone}": crossed}
    return {}


def _flesh(rng: np.random.Generator, pieces: list[Piece], x: Grid, y: Grid) -> Grid:
    """Return the soft tissue of each ray, mm, with fat and muscle in it."""
    from scipy import ndimage

    flesh = soft_tissue(pieces, x, y, float(rng.uniform(0.6, 0.95)))
    noise = ndimage.gaussian_filter(rng.standard_normal(x.shape), 0.03 * max(x.shape))
    return np.asarray(flesh * (1 + 0.04 * noise / max(float(noise.std()), 1e-9)))


def _finish(rng: np.random.Generator, picture: PictureArray, line: Grid, lit: Bool[np.ndarray, "y x"]) -> PictureArray:
    """Shade what the beam did not reach, and put a marker beside the limb."""
    from scipy import ndimage

    edge = ndimage.gaussian_filter(lit.astype(np.float32), 0.8)
    picture = picture * edge + float(rng.uniform(0, 0.04)) * (1 - edge)
    if rng.random() < 0.65:
        _mark(rng, picture, line, lit)
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def _mark(rng: np.random.Generator, picture: PictureArray, line: Grid, lit: Bool[np.ndarray, "y x"]) -> None:
    """Draw a lead letter where there is no limb; none where there is no room."""
    height, width = picture.shape
    size = max(10, round(float(rng.uniform(0.05, 0.1)) * max(picture.shape)))
    text = str(rng.choice(["L", "R", "L 2", "R K", "RT", "LT"]))
    plate = Image.new("L", (3 * size, 2 * size))
    draw = ImageDraw.Draw(plate)
    draw.text((1.5 * size, size), text, fill=255, font=ImageFont.load_default(size), anchor="mm")
    box = plate.getbbox()
    if rng.random() < 0.4 and box:
        draw.rectangle((box[0] - 4, box[1] - 4, box[2] + 3, box[3] + 3), outline=200)
        box = plate.getbbox()
    turned = plate.crop(box).rotate(float(rng.normal(0, 8)) + 90 * int(rng.random() < 0.15), expand=True)
    if rng.random() < 0.15:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stamp = np.asarray(turned, np.float32) / 255
    tall, wide = stamp.shape
    if tall >= height or wide >= width:
        return
    for _ in range(30):
        top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
        place = (slice(top, top + tall), slice(left, left + wide))
        if line[place].max() < 0.05 and lit[place].all():
            np.maximum(picture[place], stamp * float(rng.uniform(0.75, 1)), out=picture[place])
            return


def _boxes(
    limb: Limb, pieces: list[Piece], breaks: dict[str, Break], view: View, lit: Bool[np.ndarray, "y x"]
) -> tuple[Boxes, tuple[str, ...]]:
    """Return the box of each break where it is on the film, clipped to it."""
    moved = {piece.bone.name: piece.motion for piece in reversed(pieces)}  # that of the near fragment
    boxes, kinds = [], []
    for bone in limb.bones:
        one = breaks.get(bone.name)
        if one is None or not isinstance(bone, LongBone):
            continue
        points = view.to_px(broken_ends(bone, one, moved[bone.name]))
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        low = np.maximum(points.min(axis=0), (columns[0], rows[0]))
        high = np.minimum(points.max(axis=0), (columns[-1] + 1, rows[-1] + 1))
        if (high - low).min() >= 2:
            boxes.append([*low, *high])
            kinds.append(
                one.kind if one.kind == "buckle" else f"{one.kind} {'displaced' if one.displaced else 'hairline'}"
            )
    return np.asarray(boxes, np.float32).reshape(-1, 4), tuple(kinds)
