"""Segment the coronary arteries of a CT angiogram.

    predictor = Predictor()                       # the shipped model, the fastest engine that is there
    segmentation = predictor("scan.nii.gz")       # or a DICOM folder, (array, affine), a SimpleITK image, a Volume
    tree = coronary.tree.measure(segmentation)

The model is loaded once and called many times. Everything about it is read from its one ONNX file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import ValidationError
from scipy.special import expit

from coronary.config import HuWindow, Inference, Preprocessing
from coronary.contrast import ContrastRegion, close_on, contrast_region, near_on
from coronary.plausible import apart, implausible
from coronary.preprocess import Prepared, preprocess
from coronary.tree import label_sides
from shared.errors import InputError, SetupError
from shared.geometry import bounding_box, box_within, crop, resample_to_grid
from shared.io.volume import from_array, from_sitk, read_volume
from shared.postprocess import keep_components
from shared.registry import TASKS, choose_model
from shared.runtime import EngineName, Session
from shared.sliding_window import plan_windows, slide
from shared.types import Affine, Grid, MaskArray, Segmentation, Volume, VolumeArray

Image: TypeAlias = Any  # Path | str | Volume | tuple[array, affine] | SimpleITK.Image
Stage: TypeAlias = Callable[[str], AbstractContextManager[Any]]
Progress: TypeAlias = Callable[[int, int], None]

METADATA_VERSION = 1
COARSE_MM = 1.0  # slices for coronary CT are 0.5 to 0.75 mm (SCCT guideline, Abbara et al. 2016)
COARSEST_MM = 2.0  # half of what LAD and RCA measure where they begin, 3.7 and 3.9 mm (Dodge et al., Circulation 1992)


class Predictor:
    """A coronary model, loaded once: ``Predictor(model, device)(image)`` gives a ``Segmentation``.

    Args:
        model: an ONNX file, or None for the shipped one (``SKIAGRAM_MODELS``, then the checkout's ``data/models``).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see ``shared.runtime.Session``.
        precision: which shipped model: ``int8``, ``fp32``, or ``auto`` for INT8 on the CPU and float32 on CUDA.
            With a file of one's own it must agree with what that file is.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        threads: CPU threads; 0 leaves it to the engine.
        trained_windows: lay windows exactly as in training, where they could grow to save work.
        contrast_check: look for opacified blood first, and at the size of voxels; False segments any scan whatsoever.

    Raises:
        SetupError: no such model, no coronary model, or a device that is not there.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: str = "auto",
        *,
        precision: Literal["auto", "fp32", "int8"] = "auto",
        engine: EngineName = "auto",
        threads: int = 0,
        trained_windows: bool = False,
        contrast_check: bool = True,
    ) -> None:
        path = Path(model) if model is not None else None
        self.session = Session(choose_model("coronary", precision, device, path), device, engine, threads)
        self.preprocessing, self.inference = _settings(self.session)
        if precision not in ("auto", self.precision):
            raise SetupError(f"{self.session.path}: is {self.precision}, not {precision}; give the other file, or auto")
        if trained_windows:
            self.inference = self.inference.model_copy(update={"grow": 1.0})
        self.contrast_check = contrast_check

    @property
    def path(self) -> Path:
        """The model file."""
        return self.session.path

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, hex."""
        return self.session.sha256

    @property
    def device(self) -> str:
        """Device really used."""
        return self.session.device

    @property
    def engine(self) -> str:
        """Engine and version really used."""
        return self.session.engine

    @property
    def precision(self) -> str:
        """Precision of the model in use: ``fp32`` or ``int8``."""
        return str(self.session.metadata.get("precision", "fp32"))

    def __call__(self, image: Image, *, stage: Stage | None = None, progress: Progress | None = None) -> Segmentation:
        """Segment one scan on its own grid; labels are 1 LCA, 2 RCA, 3 an artery of neither.

        Args:
            image: a path, a ``Volume``, ``(array, affine)`` with an affine to RAS mm, or a SimpleITK image; HU.
            stage: called with a stage's name, gives a context around it; for timings.
            progress: called with windows done and windows in all.

        Raises:
            InputError: the scan cannot be used.
        """
        stage = stage or (lambda name: nullcontext())
        with stage("read"):
            volume = as_volume(image)
        with stage("region"):
            region = contrast_region(volume) if self.contrast_check else None
        finding = region and (region.finding or _hopeless(volume))
        if finding is not None:
            return _segmentation(np.zeros(volume.array.shape, np.uint8), volume, (finding,))
        probability, affine = self.probability(volume, region, stage=stage, progress=progress)
        with stage("back to the input's grid"):
            mask = threshold_on(volume.grid, probability, affine, self.inference.threshold)
        with stage("splinters"):  # what thresholding on a finer grid broke off
            box = bounding_box(mask, 1.0, volume.spacing_mm) if mask.any() else None
            if box is not None:
                mask[box] = keep_components(mask[box], volume.grid.voxel_mm3, self.inference.min_volume_mm3)
        labels = mask.view(np.uint8)
        if box is None or not mask.any():
            reason = f"no artery found: nothing reached the probability {self.inference.threshold} over "
            return _segmentation(labels, volume, (reason + f"{self.inference.min_volume_mm3:g} mm3",))
        with stage("left and right"):
            labels[box] = label_sides(mask[box], crop(mask, volume.affine, box)[1])
        return _segmentation(labels, volume, _too_coarse(volume))

    def probability(
        self,
        volume: Volume,
        region: ContrastRegion | None,
        *,
        stage: Stage = lambda name: nullcontext(),
        progress: Progress | None = None,
    ) -> tuple[VolumeArray, Affine]:
        """Probability of lumen, 0..1 ``x y z`` at the model's spacing, around the region; and its affine.

        Pieces that are too small or cannot be an artery have probability 0: on this grid, which is a fraction of the
        input's, they cost little time and memory to tell.
        """
        with stage("preprocess"):
            prepared = _prepare(volume, region, self.preprocessing)
            where = prepared.brighter_than(self.inference.lumen_threshold_hu)
            if region is not None:
                x, y, z = prepared.array.shape
                where &= near_on(region, Grid((x, y, z), prepared.affine))
            plan = plan_windows(where.shape, self.inference.window, self.inference.overlap, self.inference.grow)
        with stage("network"):
            difference, _ = slide(
                prepared.array, self.session, plan, blending=self.inference.blending,
                pad_value=prepared.pad_value, where=where, progress=progress,
            )  # fmt: skip
        # The logistic function of the difference is the softmax over two classes.
        probability = expit(difference, out=difference)
        with stage("components"):
            found = probability >= self.inference.threshold
            voxel_mm3 = math.prod(self.preprocessing.spacing_mm)
            kept = keep_components(found, voxel_mm3, self.inference.min_volume_mm3)
            blood_hu = region.blood_hu if region is not None else None
            kept &= ~implausible(kept, prepared.hu, self.preprocessing.spacing_mm, blood_hu)
            if region is not None:
                x, y, z = kept.shape
                kept &= ~apart(kept, close_on(region, Grid((x, y, z), prepared.affine)))
            probability[found & ~kept] = 0
        return probability, prepared.affine


def as_volume(image: Image) -> Volume:
    """Take a path, a ``Volume``, ``(array, affine)`` or a SimpleITK image as a ``Volume``.

    Raises:
        InputError: it is none of these, or cannot be used.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_volume(Path(image))
    if isinstance(image, tuple) and len(image) == 2:
        return from_array(np.asarray(image[0]), np.asarray(image[1], np.float64))
    if not hasattr(image, "GetSize"):
        raise InputError(
            "the image", f"is a {type(image).__name__}", "give a path, (array, affine) or a SimpleITK image"
        )
    return from_sitk(image)


def mask_from_file(path: Path | str) -> Segmentation:
    """Read a mask as a ``Segmentation``: labels 1 LCA and 2 RCA where both values occur, an artery of neither else.

    Raises:
        InputError: it cannot be read, or it holds other values than 0 to 3.
    """
    volume = read_volume(path)
    values = np.unique(volume.array)
    if not np.isin(values, [0, 1, 2, 3]).all():
        shown = ", ".join(f"{value:g}" for value in values[:6])
        raise InputError(
            path,
            f"its values are {shown}{' ...' if len(values) > 6 else ''}",
            "give a mask of 0 to 3, or segment the scan first: coronary predict",
        )
    labels = volume.array.astype(np.uint8)
    names = TASKS["coronary"].labels if (values == 2).any() else {1: "artery"}
    return Segmentation(labels, volume.affine, names, volume.source)


def threshold_on(grid: Grid, probability: VolumeArray, affine: Affine, threshold: float) -> MaskArray:
    """Bring probabilities onto ``grid`` linearly and threshold them there.

    Probabilities, not masks: a perfect 1 mm mask comes back nearest-neighbour to 0.4 mm at Dice 0.84, probabilities
    at 0.96. Only the box that can reach the threshold is computed, in slabs along z.
    """
    mask = np.zeros(grid.shape, bool, order="F")
    hit = probability >= threshold
    if not hit.any():
        return mask
    spacing = Grid((1, 1, 1), affine).spacing_mm
    source = bounding_box(hit, 2 * max(spacing), spacing)
    part, part_affine = crop(probability, affine, source)
    x, y, z = box_within(grid, part.shape, part_affine)
    slab = max(1, 2**24 // ((x.stop - x.start) * (y.stop - y.start)))
    for start in range(z.start, z.stop, slab):
        box = (x, y, slice(start, min(start + slab, z.stop)))
        mask[box] = resample_to_grid(part, part_affine, grid, box=box) >= threshold
    return mask


def _prepare(volume: Volume, region: ContrastRegion | None, settings: Preprocessing) -> Prepared:
    """Preprocess, and crop to the region: before where that changes nothing, after where it would."""
    if region is None:
        return preprocess(volume, settings)
    if isinstance(settings.normalisation, HuWindow):
        array, affine = crop(volume.array, volume.affine, region.box)
        return preprocess(Volume(array, affine, volume.source), settings)
    prepared = preprocess(volume, settings)
    x, y, z = prepared.array.shape
    box = bounding_box(near_on(region, Grid((x, y, z), prepared.affine)), 0, settings.spacing_mm)
    array, affine = crop(prepared.array, prepared.affine, box)
    return Prepared(array, affine, prepared.scale, prepared.offset, prepared.pad_value)


def _hopeless(volume: Volume) -> str | None:
    """Say so where voxels are larger than half of a large artery: whatever was painted would be something else."""
    largest = max(volume.spacing_mm)
    if largest <= COARSEST_MM:
        return None
    return f"nothing was segmented: voxels of {largest:g} mm cannot show arteries, which begin less than 4 mm wide"


def _too_coarse(volume: Volume) -> tuple[str, ...]:
    """Warn of voxels that are larger than the arteries' branches."""
    largest = max(volume.spacing_mm)
    if largest <= COARSE_MM:
        return ()
    return (f"voxels of {largest:g} mm are too coarse for coronary branches: expect missing and false ones",)


def _segmentation(labels: np.ndarray, volume: Volume, findings: tuple[str, ...]) -> Segmentation:
    return Segmentation(labels, volume.affine, TASKS["coronary"].labels, volume.source, findings)


def _settings(session: Session) -> tuple[Preprocessing, Inference]:
    """Read and check what the model file says of itself."""
    metadata = session.metadata
    if metadata.get("task") != "coronary":
        raise SetupError(f"{session.path}: a model for {metadata.get('task', 'another task')}, not for coronary")
    if metadata.get("metadata_version") != METADATA_VERSION:
        raise SetupError(f"{session.path}: metadata version {metadata.get('metadata_version')}; export it again")
    try:
        return (
            Preprocessing.model_validate(metadata["preprocessing"]),
            Inference.model_validate(metadata["inference"]),
        )
    except (KeyError, ValidationError) as error:
        raise SetupError(f"{session.path}: its metadata is incomplete ({error}); export it again") from error
