import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from shared.postprocess import _keep_sparse, keep_components, label_components

STRUCTURE = {6: 1, 18: 2, 26: 3}


def random_mask(seed: int, density: float) -> np.ndarray:
    return np.random.default_rng(seed).random((7, 6, 5)) < density


@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1), connectivity=st.sampled_from([6, 18, 26]))
def test_components_are_scipys_largest_first(seed, density, connectivity):
    mask = random_mask(seed, density)
    labels, sizes = label_components(mask, connectivity)
    theirs, count = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURE[connectivity]))
    assert len(sizes) == count
    assert list(sizes) == sorted(np.bincount(theirs.ravel())[1:], reverse=True)
    np.testing.assert_array_equal(np.bincount(labels.ravel(), minlength=count + 1)[1:], sizes)
    assert len(np.unique(np.stack([labels.ravel(), theirs.ravel()]), axis=1).T) == len(np.unique(theirs))


@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1), smallest=st.integers(1, 10))
def test_pieces_are_kept_by_their_volume(seed, density, smallest):
    mask, voxel_mm3 = random_mask(seed, density), 0.35 * 0.35 * 0.5
    labels, sizes = label_components(mask)
    kept = keep_components(mask, voxel_mm3, min_volume_mm3=smallest * voxel_mm3)
    np.testing.assert_array_equal(kept, np.isin(labels, np.flatnonzero(sizes >= smallest) + 1))


@pytest.mark.parametrize("turn", [np.ascontiguousarray, np.asfortranarray, lambda mask: mask[::-1, :, ::2]])
def test_any_memory_order(turn):
    mask = turn(random_mask(0, 0.2))
    before = mask.copy()
    np.testing.assert_array_equal(
        keep_components(mask, 1.0, 3.0), keep_components(np.ascontiguousarray(mask), 1.0, 3.0)
    )
    np.testing.assert_array_equal(mask, before)


@given(seed=st.integers(0, 2**32 - 1), shape=st.permutations([1, 1, 3, 5]), connectivity=st.sampled_from([6, 18, 26]))
def test_grids_one_voxel_thin(seed, shape, connectivity):
    mask = np.random.default_rng(seed).random(shape[:3]) < 0.6
    _, count = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURE[connectivity]))
    assert len(label_components(mask, connectivity)[1]) == count
    np.testing.assert_array_equal(keep_components(mask, 1.0, 1.0, connectivity), mask)


@given(
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0.001, 0.3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    smallest=st.integers(1, 6),
    connectivity=st.sampled_from([6, 18, 26]),
    turned=st.booleans(),
)
def test_the_graph_over_true_voxels_keeps_the_same_pieces(seed, density, shape, smallest, connectivity, turned):
    mask = np.random.default_rng(seed).random(shape) < density
    if turned:
        mask = np.asfortranarray(mask)
    if mask.any():
        theirs, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURE[connectivity]))
        wanted = mask & (np.bincount(theirs.ravel())[theirs] >= smallest)
        np.testing.assert_array_equal(_keep_sparse(mask, smallest, connectivity), wanted)


def test_empty():
    mask = np.zeros((3, 3, 3), bool)
    labels, sizes = label_components(mask)
    assert not labels.any()
    assert len(sizes) == 0
    assert not keep_components(mask, 1.0, 1.0).any()
