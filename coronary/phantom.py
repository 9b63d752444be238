"""Synthetic cardiac CT angiography with exact truth: heart, chest, coronary tree, disease, and a scanner's flaws.

``make_phantom(config, seed)`` is a function of its arguments alone. The scene lives in millimetres about the heart's
centre (RAS origin): a larger field of view shows more of it, a finer grid more detail, and neither changes it.

The lumen's label is where at least half a voxel is lumen (counted on sub-voxels of 0.45 mm at most); besides, every
voxel that a centreline passes is lumen, so that a vessel thinner than a voxel stays one connected line. Plaque, calcium
and the aorta are not lumen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from coronary.phantom_anatomy import Anatomy, Pose
from coronary.phantom_disease import Disease, diseased
from coronary.phantom_render import Texture, Tubes, lattice_axes, paint_anatomy, paint_vessels
from coronary.phantom_scan import Scan, add_noise, add_shading, add_streaks, blur, draw_scan
from coronary.phantom_tree import Centreline, grow, veins
from coronary.phantom_vessels import aortic_calcium, lung_vessels, pacing_lead
from shared.geometry import from_ras
from shared.io.atomic import whole
from shared.types import Grid, LabelArray, Source, Volume

MIN_SIDE_MM = 40.0


class PhantomConfig(BaseModel):
    """What scan to make. ``shape`` and ``spacing_mm`` are along RAS x, y, z; ``orientation`` is how it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int] = (160, 160, 144)
    spacing_mm: tuple[float, float, float] = (0.7, 0.7, 0.7)
    orientation: str = Field("LPS", description="axis codes of the array on disk, such as LPS or RAS")
    contrast: bool = Field(True, description="False: blood is unenhanced (30-55 HU)")
    difficulty: float = Field(1.0, ge=0, le=1, description="0: healthy vessels and a clean scan; 1: the full range")
    stenoses: int | None = Field(None, ge=0, description="narrowings; None draws 0-5")
    noise_hu: tuple[float, float] = Field((15.0, 45.0), description="standard deviation in soft tissue, drawn between")
    blur_fwhm_mm: tuple[float, float] = Field((0.6, 0.9), description="the scanner's point spread, drawn between")

    @field_validator("shape", "spacing_mm")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("every entry must be above zero")
        return value

    @model_validator(mode="after")
    def _holds_a_vessel(self) -> PhantomConfig:
        sides = [n * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        if min(sides) < MIN_SIDE_MM:
            raise ValueError(f"a side of {min(sides):.0f} mm; give at least {MIN_SIDE_MM:.0f} mm, or no artery fits in")
        return self

    @field_validator("orientation")
    @classmethod
    def _axis_codes(cls, value: str) -> str:
        if sorted("R" if c in "RL" else "A" if c in "AP" else "S" if c in "SI" else c for c in value) != [
            "A",
            "R",
            "S",
        ]:
            raise ValueError("three letters, one each of R/L, A/P, S/I, such as LPS")
        return value


@dataclass(frozen=True)
class Phantom:
    """A scan and its truth: ``volume`` in HU, ``labels`` (1 LCA, 2 RCA), ``centrelines`` in RAS mm, ``facts``."""

    volume: Volume
    labels: LabelArray
    centrelines: tuple[Centreline, ...]
    facts: dict[str, Any]


def make_phantom(config: PhantomConfig, seed: int) -> Phantom:
    """Makes one synthetic scan; the same ``config`` and ``seed`` give the same voxels.

    Raises:
        SetupError: the sample centrelines are not there.
    """
    # Each part has its own stream of random numbers, so that a change to one leaves the others as they were.
    scan = draw_scan(config.noise_hu, config.blur_fwhm_mm, config.difficulty, np.random.default_rng([seed, 4]))
    blood = _blood(config, np.random.default_rng([seed, 3]))
    scene = _scene(config, blood, seed)
    rng = np.random.default_rng([seed, 5])

    volume, labels, axes = _sample(config, scene, scan)
    spacing = np.array(config.spacing_mm)
    blur(volume, spacing, scan)
    add_streaks(volume, axes, scene.streaks, rng)
    add_shading(volume, axes, scan, rng)
    add_noise(volume, axes, spacing, scan, rng)
    np.clip(volume, -1024, 3071, out=volume)

    disease = scene.disease
    tree = tuple(replace(c, points_mm=c.points_mm - scan.shift_mm(c.points_mm[:, 2])) for c in disease.tree)
    _trace(labels, tree, axes)
    facts = {
        "seed": seed,
        "blood_hu": blood,
        "scan": asdict(scan),
        "stenoses": disease.stenoses,
        "plaques": disease.plaques,
    }
    grid = Grid(config.shape, _affine(config))
    return Phantom(Volume(volume, grid.affine, Source(_stored_grid(grid, config.orientation))), labels, tree, facts)


@dataclass(frozen=True)
class _Scene:
    """Everything there is before it is scanned, in scene mm."""

    anatomy: Anatomy
    pose: Pose
    texture: Texture
    blood: dict[str, float]
    disease: Disease
    others: dict[str, Tubes]  # veins, aortic calcium and lead: fine as arteries
    lungs: Tubes
    streaks: list[tuple[NDArray[np.float64], float]]


@dataclass(frozen=True)
class _Person:
    """What depends on the seed alone, whatever the scan: a body and its healthy vessels, in scene mm."""

    pose: Pose
    anatomy: Anatomy
    texture: Texture
    tree: tuple[Centreline, ...]
    veins: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]


@lru_cache(maxsize=2)
def _person(seed: int) -> _Person:
    """Grows a person; kept, as tests and demos scan one person on several grids."""
    body, growth = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    pose, anatomy = Pose.random(body), Anatomy(body)
    tree = tuple(
        replace(
            line,
            points_mm=pose.to_scene(line.points_mm),
            radius_mm=line.radius_mm * pose.scale,
            wall_radius_mm=line.wall_radius_mm * pose.scale,
        )
        for line in grow(anatomy, growth)
    )
    return _Person(pose, anatomy, Texture(body), tree, tuple(veins(anatomy, growth)))


def _scene(config: PhantomConfig, blood: dict[str, float], seed: int) -> _Scene:
    person = _person(seed)
    pose, anatomy = person.pose, person.anatomy
    rng = np.random.default_rng([seed, 6])
    disease = diseased(
        list(person.tree), blood["coronary"], config.difficulty, config.stenoses, np.random.default_rng([seed, 2])
    )

    def tubes(paths: list[tuple[NDArray[np.float64], NDArray[np.float64], float]]) -> Tubes:
        if not paths:
            return Tubes.of_paths([])
        points = pose.to_scene(np.vstack([p for p, _, _ in paths]))
        pieces = np.split(points, np.cumsum([len(p) for p, _, _ in paths])[:-1])
        return Tubes.of_paths([(p, r * pose.scale, hu, 0) for p, (_, r, hu) in zip(pieces, paths, strict=True)])

    venous = [(p, r, blood["vein"]) for p, r in person.veins]
    calcium = aortic_calcium(anatomy, int(rng.integers(0, 9) * config.difficulty), rng)
    lead = [pacing_lead(rng)] if rng.random() < 0.04 * config.difficulty else []
    streaks = [(np.array(plaque["at_mm"]), 0.02 * plaque["hu"]) for plaque in disease.plaques]
    streaks += [(p, 90.0) for path, *_ in lead for p in pose.to_scene(path[::12])]
    if blood["right"] > 420:  # undiluted contrast in the superior vena cava
        streaks += [(p, 25.0) for p in pose.to_scene(np.array([[41.0, -3, z] for z in range(14, 90, 4)]))]
    others = {"veins": tubes(venous), "aortic_calcium": tubes(calcium), "lead": tubes(lead)}
    lungs = tubes(lung_vessels(blood["pulmonary"], rng))
    return _Scene(anatomy, pose, person.texture, blood, disease, others, lungs, streaks)


def _affine(config: PhantomConfig) -> NDArray[np.float64]:
    affine = np.diag([*config.spacing_mm, 1.0])
    affine[:3, 3] = -0.5 * (np.array(config.shape) - 1) * config.spacing_mm
    return affine


def _stored_grid(grid: Grid, orientation: str) -> Grid:
    """The same voxels with their axes in another order and direction."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    shape = [0, 0, 0]
    for axis, (to, _) in enumerate(turn):
        shape[int(to)] = grid.shape[axis]
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ inv_ornt_aff(turn, grid.shape))


def _blood(config: PhantomConfig, rng: np.random.Generator) -> dict[str, float]:
    """HU of the blood pools; a coronary scan is timed for the left heart, the right is anywhere."""
    left = rng.uniform(280, 560) if config.contrast else rng.uniform(30, 55)
    right = rng.uniform(90, 1.15 * left) if config.contrast else left
    return {
        "left": left,
        "coronary": left * rng.uniform(0.85, 1.0) if config.contrast else left,
        "right": right,
        "pulmonary": 0.5 * (left + right) if config.contrast else left,
        "vein": rng.uniform(100, 0.6 * left) if config.contrast else left,
        "muscle": rng.uniform(85, 130) if config.contrast else rng.uniform(38, 50),
    }


PLAIN_HU = {
    "table": -60.0, "skin": 20.0, "fat": -105.0, "pericardium": 10.0, "oesophagus": 35.0, "airway_wall": 0.0,
    "airway": -990.0, "canal": 25.0,
}  # fmt: skip


def _painter(
    config: PhantomConfig, scene: _Scene
) -> Callable[[str, list[NDArray[np.float32]]], NDArray[np.float32] | float]:
    """What HU a structure has at a product grid of points: a number, or a number with texture."""
    blood, noise = scene.blood, scene.texture.at
    textured = {  # mean HU, size of the texture (HU), its pitch (mm), which noise
        "muscle": (55.0, 12.0, 8.0, 3),
        "abdomen": (blood["muscle"] if config.contrast else 55.0, 4.0, 12.0, 3),
        "lung": (-860.0, 22.0, 5.0, 4),
        "mediastinum": (-95.0, 10.0, 4.0, 5),
        "muscle_of_heart": (blood["muscle"], 7.0, 7.0, 0),
        "right_atrium": (
            blood["right"],
            0.12 * blood["right"] * config.contrast,
            10.0,
            1,
        ),  # contrast streams in unmixed
        "right_ventricle": (blood["right"], 0.06 * blood["right"] * config.contrast, 8.0, 2),
        "pulmonary_artery": (blood["pulmonary"], 0.0, 1.0, 0),
        "left_heart": (blood["left"], 0.015 * blood["left"], 14.0, 2),
        "bone": (600.0, 120.0, 6.0, 1),
        "marrow": (190.0, 80.0, 2.2, 2),
    }

    def paint(name: str, at: list[NDArray[np.float32]]) -> NDArray[np.float32] | float:
        if name in PLAIN_HU:
            return PLAIN_HU[name]
        mean, size, pitch, k = textured[name]
        return mean + np.float32(size) * noise(at, pitch, k) if size else mean

    return paint


def _sample(
    config: PhantomConfig, scene: _Scene, scan: Scan
) -> tuple[NDArray[np.float32], LabelArray, list[NDArray[np.float32]]]:
    """HU and labels on the grid before blur and noise, and the grid's axes in mm."""
    origin, spacing = _affine(config)[:3, 3], np.array(config.spacing_mm)
    axes = [(o + s * np.arange(n)).astype(np.float32) for o, s, n in zip(origin, spacing, config.shape, strict=True)]
    lattice = lattice_axes(origin, -origin)
    points = np.stack(np.meshgrid(*lattice, indexing="ij"), -1)
    structures = scene.anatomy.structures(
        scene.pose.to_heart(points), lambda pitch, k: scene.texture.at(lattice, pitch, k)
    )
    lungs = scene.lungs.where(structures["lung"], lattice)
    paint = _painter(config, scene)
    edge = float(np.cbrt(spacing.prod()))

    volume = np.full(config.shape, -1000, np.float32)
    labels = np.zeros(config.shape, np.uint8)
    for slab, shift in _slabs(axes[2], scan):
        at = [axes[0] + shift[0], axes[1] + shift[1], axes[2][slab]]
        hu, lumen = volume[:, :, slab], labels[:, :, slab]
        paint_anatomy(hu, at, structures, lattice, paint, edge)
        paint_vessels(hu, lumen, at, spacing, {"lungs": lungs}, subvoxels=False)
        paint_vessels(hu, lumen, at, spacing, {**scene.others, **scene.disease.layers()})
        _clear_aorta(lumen, scene, at)
    return volume, labels, axes


def _slabs(z: NDArray[np.float32], scan: Scan) -> list[tuple[slice, NDArray[np.float32]]]:
    """Runs of slices that one heartbeat shows, and the scene's shift in each."""
    shift = scan.shift_mm(z).astype(np.float32)
    starts = [0, *(np.flatnonzero(np.any(np.diff(shift, axis=0) != 0, axis=1)) + 1), len(z)]
    return [(slice(a, b), shift[a]) for a, b in itertools.pairwise(starts)]


def _clear_aorta(labels: LabelArray, scene: _Scene, axes: list[NDArray[np.float32]]) -> None:
    """The lumen ends at the ostium: voxels whose centre lies in the aorta are not labelled."""
    index = np.argwhere(labels)
    points = np.stack([axis[i] for axis, i in zip(axes, index.T, strict=True)], -1)
    labels[tuple(index[scene.anatomy.aorta(scene.pose.to_heart(points)) < 0].T)] = 0


def _trace(labels: LabelArray, tree: tuple[Centreline, ...], axes: list[NDArray[np.float32]]) -> None:
    """Labels every voxel that a centreline passes, so that a vessel thinner than a voxel stays one connected line."""
    origin, step = np.array([[a[0], a[1] - a[0]] for a in axes]).T
    for line in tree:
        points = line.points_mm
        fine = np.linspace(0, len(points) - 1, 8 * len(points))
        points = np.stack([np.interp(fine, np.arange(len(points)), c) for c in points.T], 1)
        index = np.rint((points - origin) / step).astype(int)
        index = index[((index >= 0) & (index < labels.shape)).all(1)]
        empty = labels[tuple(index.T)] == 0
        labels[tuple(index[empty].T)] = 1 if line.name == "LCA" else 2


def write_phantom(phantom: Phantom, directory: Path | str, case_id: int) -> tuple[Path, Path]:
    """Writes ``ID.img.nii.gz`` (int16 HU) and ``ID.label.nii.gz`` (uint8, 1 lumen) as ImageCAS has them; returns both.

    Beside them: ``ID.tree.nii.gz`` (uint8, 1 LCA, 2 RCA) and ``ID.centrelines.csv`` (by point: branch, tree, artery,
    parent branch, x, y, z in RAS mm, lumen radius in mm). The image is written last: where it is, the case is whole.

    Raises:
        SetupError: the folder cannot be written to.
    """
    directory = Path(directory)
    image, label = directory / f"{case_id}.img.nii.gz", directory / f"{case_id}.label.nii.gz"
    with whole(directory / f"{case_id}.centrelines.csv") as aside:
        aside.write_text("\n".join(_centreline_rows(phantom.centrelines)) + "\n")
    grid = phantom.volume.source.grid
    _write_nifti(directory / f"{case_id}.tree.nii.gz", phantom.labels, grid)
    _write_nifti(label, (phantom.labels > 0).astype(np.uint8), grid)
    _write_nifti(image, np.rint(phantom.volume.array).astype(np.int16), grid)
    return image, label


def _centreline_rows(lines: tuple[Centreline, ...]) -> Iterator[str]:
    yield "branch,tree,artery,parent,x_mm,y_mm,z_mm,radius_mm"
    for k, line in enumerate(lines):
        parent = "" if line.parent is None else line.parent
        for (x, y, z), r in zip(line.points_mm, line.radius_mm, strict=True):
            yield f"{k},{line.name},{line.branch},{parent},{x:.3f},{y:.3f},{z:.3f},{r:.3f}"


def _write_nifti(path: Path, array: NDArray[Any], grid: Grid) -> None:
    """Writes an array given in RAS+ as it lies on the stored ``grid``; the same array gives the same bytes."""
    import nibabel as nib

    image = nib.Nifti1Image(from_ras(array, grid), grid.affine)
    image.header.set_xyzt_units("mm")
    with whole(path) as aside, aside.open("wb") as file, igzip.IGzipFile("", "wb", 1, file, mtime=0) as packed:
        image.to_stream(packed)


def write_dataset(
    directory: Path | str,
    count: int,
    seed: int,
    config: PhantomConfig,
    first_id: int = 1,
    on_case: Callable[[int], None] | None = None,
) -> list[int]:
    """Writes ``count`` phantoms in ImageCAS's layout, ids from ``first_id``; each a function of seed, id, config.

    ``on_case`` hears how many are written. Cases that are there already are made again.
    """
    ids = list(range(first_id, first_id + count))
    for done, case_id in enumerate(ids, start=1):
        write_phantom(make_phantom(config, case_seed(seed, case_id)), directory, case_id)
        if on_case is not None:
            on_case(done)
    return ids


def case_seed(seed: int, case_id: int) -> int:
    """The seed of one case, so that cases of data sets with different seeds do not meet."""
    return int(np.random.SeedSequence([seed, case_id]).generate_state(1)[0])
