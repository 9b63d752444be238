import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from orientations import ALL_48, SHAPE, affine_of, code, oblique_affines

from shared.geometry import bounding_box, crop, from_ras, ras_grid, resample_to_grid, resample_to_spacing, to_ras
from shared.types import Grid

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monai_transforms = pytest.importorskip("monai.transforms", exc_type=ImportError)
    from monai.data import MetaTensor

SHAPES = st.tuples(st.integers(2, 14), st.integers(2, 14), st.integers(2, 14))


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Give a field linear in mm, which trilinear interpolation must reproduce exactly: each value names its place."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    places = indices @ affine[:3, :3].T + affine[:3, 3]
    return (places @ [1.0, 10.0, -7.0]).astype(np.float32)


@pytest.mark.parametrize("directions", ALL_48, ids=code)
def test_turning_to_ras_is_nibabels_and_turns_back(directions: np.ndarray) -> None:
    affine = affine_of(directions)
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    turned, turned_affine = to_ras(array, affine)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int32), affine))
    assert np.array_equal(turned, np.asarray(canonical.dataobj))
    assert np.allclose(turned_affine, canonical.affine)
    assert (np.diag(turned_affine)[:3] > 0).all()
    back = from_ras(turned, Grid(SHAPE, affine))
    assert np.array_equal(back, array)
    assert np.shares_memory(back, array)
    grid = ras_grid(Grid(SHAPE, affine))
    assert grid.shape == turned.shape
    assert np.array_equal(grid.affine, turned_affine)


@given(oblique_affines(), SHAPES)
def test_turning_an_oblique_array_keeps_every_voxel_in_place(affine: np.ndarray, shape: tuple[int, int, int]) -> None:
    turned, turned_affine = to_ras(ramp(shape, affine), affine)
    assert np.allclose(turned, ramp(turned.shape, turned_affine), atol=0.02)


def test_from_ras_refuses_an_array_of_another_grid() -> None:
    with pytest.raises(ValueError, match="does not lie on a grid"):
        from_ras(np.zeros((4, 4, 5)), Grid(SHAPE, np.eye(4)))


@given(oblique_affines(), SHAPES, st.floats(0.3, 3.0), st.integers(0, 2**32 - 1))
@limits(max_examples=60)
def test_resampling_agrees_with_monai_spacing(
    affine: np.ndarray, shape: tuple[int, int, int], spacing_mm: float, seed: int
) -> None:
    extent = (np.array(shape) - 1) * np.linalg.norm(affine[:3, :3], axis=0) / spacing_mm
    assume((np.abs(extent % 1 - 0.5) > 1e-9).all())  # there the shape hangs on the last bit
    array = np.random.default_rng(seed).uniform(-1000, 2000, shape).astype(np.float32)
    compare_with_monai(array, affine, spacing_mm)


@pytest.mark.parametrize("slices", [205, 206, 207])
def test_resampling_agrees_with_monai_where_the_extent_ends_on_half_a_voxel(slices: int) -> None:
    array = np.random.default_rng(0).uniform(-1000, 2000, (6, 5, slices)).astype(np.float32)
    compare_with_monai(array, np.diag([0.3, 0.5, 0.5, 1.0]), 1.0)


def test_resampling_keeps_an_axis_within_a_micrometre_as_monai_does() -> None:
    array = np.random.default_rng(0).uniform(-1000, 2000, (9, 8, 7)).astype(np.float32)
    compare_with_monai(array, np.diag([1.0005, 0.5, 0.9993, 1.0]), 1.0)


def compare_with_monai(array: np.ndarray, affine: np.ndarray, spacing_mm: float) -> None:
    spacing = monai_transforms.Spacing(pixdim=(spacing_mm,) * 3, mode="bilinear", padding_mode="border")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = spacing(MetaTensor(array[None], affine=affine))
    ours, ours_affine = resample_to_spacing(array, affine, spacing_mm)
    assert ours.shape == tuple(theirs.shape[1:])
    assert np.allclose(ours_affine, theirs.affine.numpy(), atol=1e-6)
    assert np.allclose(ours, theirs.numpy()[0], rtol=1e-3, atol=0.05)


@given(oblique_affines(), SHAPES, st.tuples(*[st.floats(0.3, 3.0)] * 3))
def test_a_field_linear_in_mm_survives_resampling(
    affine: np.ndarray, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    ours, ours_affine = resample_to_spacing(ramp(shape, affine), affine, spacing_mm)
    beyond = np.linalg.solve(affine, ours_affine)  # the last sample may lie beyond the last voxel, where borders hold
    inside = tuple(slice(0, int(np.floor((n - 1) / beyond[axis, axis] + 1e-6)) + 1) for axis, n in enumerate(shape))
    assert np.allclose(ours[inside], ramp(ours.shape, ours_affine)[inside], atol=0.05)


def test_resampling_to_the_same_spacing_gives_the_array_itself() -> None:
    array = np.ones(SHAPE, np.float32)
    same, affine = resample_to_spacing(array, np.diag([0.5, 0.5, 0.5, 1.0]), 0.5)
    assert same is array
    assert affine[0, 0] == 0.5


def test_resampling_refuses_a_spacing_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        resample_to_spacing(np.ones(SHAPE, np.float32), np.eye(4), (1.0, 0.0, 1.0))


@given(oblique_affines(), st.floats(0.4, 2.0), st.integers(0, 2**32 - 1))
def test_a_box_of_a_grid_is_the_same_as_the_whole_grid_cut(affine: np.ndarray, spacing_mm: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.uniform(0, 1, SHAPE).astype(np.float32)
    coarse, coarse_affine = resample_to_spacing(array, affine, spacing_mm)
    starts = rng.integers(0, SHAPE)
    box = tuple(slice(int(start), int(rng.integers(start + 1, n + 1))) for start, n in zip(starts, SHAPE, strict=True))
    whole = resample_to_grid(coarse, coarse_affine, Grid(SHAPE, affine))
    part = resample_to_grid(coarse, coarse_affine, Grid(SHAPE, affine), box=box)
    assert np.array_equal(part, whole[box])


def test_equal_grids_give_the_values_untouched_and_uncopied() -> None:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    affine = affine_of(ALL_48[17])
    assert np.shares_memory(resample_to_grid(array, affine, Grid(SHAPE, affine)), array)


def test_values_hold_for_one_voxel_beyond_the_array_and_are_zero_farther_out() -> None:
    array = np.full((3, 3, 3), 5.0, np.float32)
    wide = Grid((9, 3, 3), affine_of(np.eye(3), (1, 1, 1), (-3, 0, 0)))
    along = resample_to_grid(array, np.eye(4), wide)[:, 1, 1]
    assert along.tolist() == [0, 0, 5, 5, 5, 5, 5, 0, 0]
    assert along[2] == 5  # at -1, one voxel out
    assert resample_to_grid(array, np.eye(4), Grid((2, 2, 2), affine_of(np.eye(3), (1, 1, 1), (50, 0, 0)))).max() == 0


def test_nearest_keeps_labels_and_their_type() -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    fine = Grid((26, 22, 18), np.diag([0.5, 0.5, 0.5, 1.0]))
    resampled = resample_to_grid(labels, np.eye(4), fine, order=0)
    assert resampled.dtype == np.uint8
    assert np.array_equal(resampled[::2, ::2, ::2], labels)
    assert set(np.unique(resampled)) <= {0, 1, 2, 3}


def test_grids_that_are_turned_against_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="directions"):
        resample_to_grid(np.zeros(SHAPE, np.float32), np.eye(4), Grid(SHAPE, affine_of(ALL_48[20])))


def test_the_box_around_a_mask_has_its_margin_in_mm_and_stays_inside() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[8:10, 1, 15] = True
    assert bounding_box(mask, 3.0, (1.0, 2.0, 0.5)) == (slice(5, 13), slice(0, 4), slice(9, 20))
    assert bounding_box(mask, 0.0, (1.0, 2.0, 0.5)) == (slice(8, 10), slice(1, 2), slice(15, 16))
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((3, 3, 3), bool), 1.0, (1.0, 1.0, 1.0))


@given(oblique_affines())
def test_a_crop_keeps_its_place(affine: np.ndarray) -> None:
    part, part_affine = crop(ramp(SHAPE, affine), affine, (slice(2, 9), slice(None, 5), slice(4, None)))
    assert part.shape == (7, 5, 5)
    assert np.allclose(part, ramp(part.shape, part_affine), atol=0.02)
