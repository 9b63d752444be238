"""Law 2: a mesh's volume is positive, watertight and within 2 % of its mask's volume in mm3."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.mesh import mesh_from_mask

TOLERANCE = 0.02


@st.composite
def affines(draw):
    """Any spacing, mirrored or not, turned by any angle, any place."""
    spacing_mm = [draw(st.floats(0.2, 3.0)) for _ in range(3)]
    mirror = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    order = draw(st.permutations(range(3)))
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[list(order)] @ np.diag(np.multiply(spacing_mm, mirror))
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


def vessel(seed: int) -> np.ndarray:
    """A walk of voxels through a small volume, here and there thickened; it may touch the border."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((14, 13, 12), bool)
    at = rng.integers(0, mask.shape)
    for _ in range(30):
        mask[tuple(at)] = True
        if rng.random() < 0.2:
            mask[tuple(slice(max(0, k - 1), k + 2) for k in at)] = True
        at = np.clip(at + rng.integers(-1, 2, 3), 0, np.array(mask.shape) - 1)
    return mask


def holds(mask: np.ndarray, affine: np.ndarray, **options: object) -> None:
    mesh = mesh_from_mask(mask, affine, **options)
    volume_mm3 = mask.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert mesh.volume == pytest.approx(volume_mm3, rel=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), affine=affines(), smooth=st.sampled_from([0, 10]))
def test_vessels_under_any_affine(seed, affine, smooth):
    holds(vessel(seed), affine, smooth=smooth)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.01, 0.99), affine=affines())
def test_pieces_that_touch_by_edges_and_corners(seed, density, affine):
    mask = np.random.default_rng(seed).random((8, 7, 6)) < density
    mask[3, 3, 3] = True
    holds(mask, affine)


@pytest.mark.parametrize("max_faces", [None, 400])
def test_touching_every_border(max_faces):
    holds(np.ones((9, 8, 7), bool), np.diag([-0.4, 0.4, 0.7, 1]), max_faces=max_faces)


def test_one_voxel_thin_and_in_pieces():
    mask = np.zeros((20, 20, 20), bool)
    mask[np.arange(20), np.arange(20), np.arange(20)] = True
    mask[:, 15, 2] = True
    mask[2, 2, 17] = True
    holds(mask, np.diag([0.35, 0.35, 0.5, 1]))


def test_simplified():
    x, y, z = np.indices((40, 24, 24)) - np.array([20, 12, 12])[:, None, None, None]
    mask = (y**2 + z**2 < 49) & (abs(x) < 17)
    affine = np.diag([0.5, 0.5, 0.5, 1])
    holds(mask, affine, max_faces=600)
    assert len(mesh_from_mask(mask, affine, max_faces=600).faces) <= 600
