"""Synthetic cardiac CT angiography with exact truth: a heart in a chest, a coronary tree, disease, and a scanner's flaws.

``make_phantom(config, seed)`` is a function of its arguments alone. The scene lives in millimetres about the heart's centre
(RAS origin): a larger field of view shows more of it, a finer grid shows it in more detail, and neither changes it.

The lumen's label is where at least half a voxel is lumen (counted on sub-voxels of 0.4 mm at most); besides, every voxel
that holds a centreline point is lumen, so that a vessel thinner than a voxel stays one connected line. Plaque, calcium and
the aorta are not lumen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy.ndimage import gaussian_filter1d

from coronary.phantom_anatomy import Anatomy, Pose
from coronary.phantom_disease import Disease, diseased
from coronary.phantom_render import Texture, Tubes, lattice_axes, paint_anatomy, paint_vessels
from coronary.phantom_tree import Centreline, grow
from shared.types import Grid, LabelArray, Source, Volume

FWHM = 2.3548  # full width at half maximum of a Gaussian, in sigmas


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
    streams = {
        name: np.random.default_rng([seed, k])
        for k, name in enumerate(("body", "tree", "disease", "blood", "scan", "noise"))
    }
    pose, anatomy = Pose.random(streams["body"]), Anatomy(streams["body"])
    texture = Texture(streams["body"])
    blood = _blood(config, streams["blood"])
    tree = [_to_scene(line, pose) for line in grow(anatomy, streams["tree"])]
    disease = diseased(tree, blood["coronary"], config.difficulty, config.stenoses, streams["disease"])
    scan = _scan(config, streams["scan"])

    volume, labels = _sample(config, anatomy, pose, texture, blood, disease)
    _blur(volume, config, scan["blur_fwhm_mm"])
    _add_noise(volume, config, scan["noise_hu"], streams["noise"])
    facts = {"seed": seed, "blood_hu": blood, "scan": scan, "stenoses": disease.stenoses, "plaques": disease.plaques}
    grid = Grid(config.shape, _affine(config))
    return Phantom(
        Volume(volume, grid.affine, Source(_stored_grid(grid, config.orientation))), labels, tuple(disease.tree), facts
    )


def _affine(config: PhantomConfig) -> NDArray[np.float64]:
    affine = np.diag([*config.spacing_mm, 1.0])
    affine[:3, 3] = -0.5 * (np.array(config.shape) - 1) * config.spacing_mm
    return affine


def _stored_grid(grid: Grid, orientation: str) -> Grid:
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    shape = [0, 0, 0]
    for axis, (to, _) in enumerate(turn):
        shape[int(to)] = grid.shape[axis]
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ inv_ornt_aff(turn, grid.shape))


def _to_scene(line: Centreline, pose: Pose) -> Centreline:
    return Centreline(line.name, pose.to_scene(line.points_mm), line.radius_mm * pose.scale, line.parent, line.branch,
                      line.wall_radius_mm * pose.scale)  # fmt: skip


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


def _scan(config: PhantomConfig, rng: np.random.Generator) -> dict[str, Any]:
    low, high = config.noise_hu
    return {
        "noise_hu": low + (high - low) * rng.beta(1.5, 2.5),
        "blur_fwhm_mm": [float(rng.uniform(*config.blur_fwhm_mm)) for _ in range(2)],
    }


PLAIN_HU = {"fat": -105.0, "mediastinum": -95.0, "lung": -860.0, "pericardium": 10.0, "oesophagus": 35.0, "canal": 25.0}


def _sample(
    config: PhantomConfig, anatomy: Anatomy, pose: Pose, texture: Texture, blood: dict[str, float], disease: Disease
) -> tuple[NDArray[np.float32], LabelArray]:
    """HU and labels on the grid, before the scanner's flaws."""
    origin, spacing = _affine(config)[:3, 3], np.array(config.spacing_mm)
    axes = [(o + s * np.arange(n)).astype(np.float32) for o, s, n in zip(origin, spacing, config.shape, strict=True)]
    lattice = lattice_axes(origin, -origin)
    points = np.stack(np.meshgrid(*lattice, indexing="ij"), -1)
    structures = anatomy.structures(pose.to_heart(points), lambda pitch, k: texture.at(lattice, pitch, k))

    def paint(name: str, at: list[NDArray[np.float32]]) -> NDArray[np.float32] | float:
        match name:
            case "muscle":
                return 55 + 12 * texture.at(at, 8.0, 3)
            case "abdomen":
                return (blood["muscle"] if config.contrast else 55.0) + 4 * texture.at(at, 12.0, 3)
            case "lung":
                return -860 + 18 * texture.at(at, 5.0, 4)
            case "mediastinum":
                return -95 + 10 * texture.at(at, 4.0, 5)
            case "muscle_of_heart":
                return blood["muscle"] + 7 * texture.at(at, 7.0, 0)
            case "right_atrium":
                return blood["right"] * (1 + 0.12 * texture.at(at, 10.0, 1)) if config.contrast else blood["right"]
            case "right_ventricle":
                return blood["right"] * (1 + 0.04 * texture.at(at, 12.0, 2)) if config.contrast else blood["right"]
            case "pulmonary_artery":
                return blood["pulmonary"]
            case "left_heart":
                return blood["left"]
            case "bone":
                return 650 + 120 * texture.at(at, 6.0, 1)
            case "marrow":
                return 190 + 90 * texture.at(at, 2.2, 2)
        return PLAIN_HU[name]

    volume = np.full(config.shape, -1000, np.float32)
    labels = np.zeros(config.shape, np.uint8)
    edge = float(np.cbrt(spacing.prod()))
    paint_anatomy(volume, axes, {"fat": structures["fat"], **structures}, lattice, paint, edge)
    paint_vessels(volume, labels, axes, spacing, disease.layers())
    _trace(labels, disease.tree, origin, spacing)
    aorta = anatomy_label(anatomy, pose, labels, axes)
    labels[aorta] = 0
    return volume, labels


def anatomy_label(
    anatomy: Anatomy, pose: Pose, labels: LabelArray, axes: list[NDArray[np.float32]]
) -> tuple[NDArray[np.intp], ...]:
    """Labelled voxels whose centre lies in the aorta's lumen."""
    index = np.argwhere(labels)
    points = np.stack([axis[i] for axis, i in zip(axes, index.T, strict=True)], -1)
    return tuple(index[anatomy.aorta(pose.to_heart(points)) < 0].T)


def _trace(labels: LabelArray, tree: list[Centreline], origin: NDArray, spacing: NDArray) -> None:
    """Labels every voxel that a centreline passes, so that vessels thinner than a voxel stay connected."""
    for line in tree:
        fine = np.linspace(0, len(line.points_mm) - 1, 4 * len(line.points_mm))
        points = np.stack([np.interp(fine, np.arange(len(line.points_mm)), c) for c in line.points_mm.T], 1)
        index = np.rint((points - origin) / spacing).astype(int)
        index = index[((index >= 0) & (index < labels.shape)).all(1)]
        empty = labels[tuple(index.T)] == 0
        labels[tuple(index[empty].T)] = 1 if line.name == "LCA" else 2


def _blur(volume: NDArray[np.float32], config: PhantomConfig, fwhm_mm: list[float]) -> None:
    """The scanner's point spread: one width in the slice, one along the table."""
    for axis, width in enumerate((fwhm_mm[0], fwhm_mm[0], fwhm_mm[1])):
        gaussian_filter1d(
            volume, width / FWHM / config.spacing_mm[axis], axis, output=volume, mode="nearest", truncate=3
        )


def _add_noise(volume: NDArray[np.float32], config: PhantomConfig, sd_hu: float, rng: np.random.Generator) -> None:
    """Noise of a smooth cardiac kernel: white noise band-passed to grains of about a millimetre."""
    noise = rng.standard_normal(volume.shape, dtype=np.float32)
    for axis, fwhm in enumerate((0.9, 0.9, 0.8)):
        gaussian_filter1d(noise, fwhm / FWHM / config.spacing_mm[axis], axis, output=noise, mode="wrap", truncate=3)
    noise *= sd_hu / noise.std()
    volume += noise
    np.clip(volume, -1024, 3071, out=volume)


def write_phantom(phantom: Phantom, directory: Path | str, case_id: int) -> tuple[Path, Path]:
    """Writes ``ID.img.nii.gz`` (int16 HU) and ``ID.label.nii.gz`` (uint8, 1 lumen) as ImageCAS has them; returns both.

    Beside them: ``ID.tree.nii.gz`` (uint8, 1 LCA, 2 RCA) and ``ID.centrelines.csv`` (tree, branch, parent, x y z RAS mm, radius).
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    image, label = directory / f"{case_id}.img.nii.gz", directory / f"{case_id}.label.nii.gz"
    _write_nifti(image, np.rint(phantom.volume.array).astype(np.int16), phantom)
    _write_nifti(label, (phantom.labels > 0).astype(np.uint8), phantom)
    _write_nifti(directory / f"{case_id}.tree.nii.gz", phantom.labels, phantom)
    rows = ["branch,tree,artery,parent,x_mm,y_mm,z_mm,radius_mm"]
    for k, line in enumerate(phantom.centrelines):
        parent = "" if line.parent is None else line.parent
        rows += [
            f"{k},{line.name},{line.branch},{parent},{x:.3f},{y:.3f},{z:.3f},{r:.3f}"
            for (x, y, z), r in zip(line.points_mm, line.radius_mm, strict=True)
        ]
    csv = directory / f"{case_id}.centrelines.csv"
    csv.with_suffix(".csv.part").write_text("\n".join(rows) + "\n")
    csv.with_suffix(".csv.part").replace(csv)
    return image, label


def _write_nifti(path: Path, array: NDArray[Any], phantom: Phantom) -> None:
    """An array given in RAS+, stored on the phantom's own grid; the file appears whole or not at all."""
    import nibabel as nib
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    stored = phantom.volume.source.grid
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(nib.aff2axcodes(stored.affine)))
    image = nib.Nifti1Image(apply_orientation(array, turn), stored.affine)
    image.header.set_xyzt_units("mm")
    aside = path.with_name(f".part.{path.name}")
    nib.save(image, aside)
    aside.replace(path)


def write_dataset(directory: Path | str, count: int, seed: int, config: PhantomConfig) -> list[int]:
    """Writes ``count`` phantoms in ImageCAS's layout, ids 1 to ``count``; case ``k`` is made from ``seed`` and ``k``."""
    ids = list(range(1, count + 1))
    for case_id in ids:
        write_phantom(make_phantom(config, case_seed(seed, case_id)), directory, case_id)
    return ids


def case_seed(seed: int, case_id: int) -> int:
    """The seed of one case of a data set: cases of different data sets never meet."""
    return int(np.random.SeedSequence([seed, case_id]).generate_state(1)[0])
