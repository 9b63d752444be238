"""Each transform of coronary.augment against MONAI's, with the same drawn parameters."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from scipy import ndimage

from coronary.augment import (
    STILL,
    Warp,
    add_noise,
    adjust_contrast,
    affine,
    change_intensities,
    draw_warp,
    resample,
    rotation,
    smooth,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mt = pytest.importorskip("monai.transforms", exc_type=ImportError)

SIZE = (24, 28, 22)
INNER = (slice(7, -7),) * 3
ANGLES = st.tuples(*[st.floats(-0.5, 0.5)] * 3)


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).normal(size=SIZE)
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)[None] * 10


def warped(picture, warp):
    return resample(picture, (np.array(SIZE) - 1) / 2, warp, SIZE)


def agree(ours, monais, atol=2e-3):
    assert np.allclose(ours[0][INNER], np.asarray(monais)[0][INNER], atol=atol)


@limits(max_examples=10, deadline=None)
@given(angles=ANGLES)
def test_rotation_is_monais(picture, angles):
    wanted = mt.Rotate(angles, keep_size=True, mode="bilinear", padding_mode="border", align_corners=True)(picture)
    agree(warped(picture, STILL.then(rotation(np.array(angles)))), wanted)


@limits(max_examples=10, deadline=None)
@given(angles=ANGLES, scale=st.tuples(*[st.floats(0.9, 1.1)] * 3), shift=st.tuples(*[st.floats(-3, 3)] * 3))
def test_an_affine_transform_is_monais(picture, angles, scale, shift):
    monai = mt.Affine(
        rotate_params=angles, scale_params=scale, translate_params=shift, padding_mode="border", image_only=True
    )
    turn = rotation(np.array(angles))
    ours = warped(picture, STILL.then(turn @ np.diag(scale), turn @ np.array(shift)))
    assert np.allclose(ours[0][8:-8, 8:-8, 8:-8], np.asarray(monai(picture))[0][8:-8, 8:-8, 8:-8], atol=2e-3)


def test_the_drawn_affine_is_rotated_then_shifted_then_scaled(picture):
    class Same:
        """Numbers from -1 to 1, in the order in which they are asked for."""

        def __init__(self):
            self.drawn = []

        def uniform(self, low, high, count):
            self.drawn.append(np.random.default_rng(len(self.drawn)).uniform(low, high, count))
            return self.drawn[-1]

    rng = Same()
    ours = warped(picture, STILL.then(*affine(rng, rotate_deg=15, scale=0.1, shift_voxels=3)))
    rotate, shift, scale = rng.drawn
    monai = mt.Affine(
        rotate_params=(rotate * np.deg2rad(15)).tolist(), translate_params=(shift * 3).tolist(),
        scale_params=(1 + scale * 0.1).tolist(), padding_mode="border", image_only=True,
    )  # fmt: skip
    agree(ours, monai(picture))


@pytest.mark.parametrize("larger", [26, 22])
def test_zoom_is_monais(picture, larger):
    """Sizes at which MONAI's own rounding of the zoomed size changes nothing."""
    cube = picture[:, :24, :24, :22]
    cube = np.pad(cube, [(0, 0), (0, 0), (0, 0), (0, 2)], mode="edge")
    factor = larger / 24 + 1e-6
    wanted = mt.Zoom(factor, mode="trilinear", padding_mode="edge", keep_size=True, align_corners=False)(cube)
    ours = resample(cube, np.full(3, 11.5), STILL.then(np.eye(3) / factor), (24, 24, 24))
    agree(ours, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flip_is_monais(picture, axis):
    warp = STILL.then(np.diag(np.where(np.arange(3) == axis, -1.0, 1.0)))
    assert warp.is_flip
    assert np.allclose(warped(picture, warp), mt.Flip(spatial_axis=axis)(picture), atol=1e-4)


def test_several_in_one_resampling_are_several_in_turn(picture):
    first, second = rotation(np.array([0.3, 0, 0.1])), np.eye(3) / 1.05
    at_once = warped(picture, STILL.then(first).then(second, np.array([1.0, 0, -2])))
    in_turn = warped(warped(picture, STILL.then(first)), STILL.then(second, np.array([1.0, 0, -2])))
    assert np.abs(at_once - in_turn)[0][INNER].max() < 0.1 * np.abs(picture).max()  # in turn blurs twice
    assert np.corrcoef(at_once[0][INNER].ravel(), in_turn[0][INNER].ravel())[0, 1] > 0.999


@limits(max_examples=20, deadline=None)
@given(angles=ANGLES, shift=st.tuples(*[st.floats(-3, 3)] * 3))
def test_points_go_where_the_patch_shows_them(angles, shift):
    warp = STILL.then(rotation(np.array(angles)) * 0.95, np.array(shift))
    offsets = np.random.default_rng(0).normal(size=(10, 3))
    seen = warp.to_patch(offsets)
    assert np.allclose(seen @ warp.matrix.T + warp.shift, offsets)


def test_no_more_is_read_than_is_looked_at():
    warp = Warp(rotation(np.array([0.2, -0.4, 0.1])), np.zeros(3))
    corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1) * ((np.array(SIZE) - 1) / 2)[:, None]
    assert np.allclose(np.abs(warp.matrix @ corners).max(axis=1), warp.reach(SIZE))


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_contrast_is_monais(picture, gamma):
    wanted = mt.AdjustContrast(gamma)(picture)
    assert np.allclose(adjust_contrast(picture[0], gamma), wanted[0], atol=1e-4)


def test_contrast_of_an_even_patch_stays(picture):
    assert np.array_equal(adjust_contrast(np.full((4, 4, 4), 3, np.float32), 0.7), np.full((4, 4, 4), 3, np.float32))


@pytest.mark.parametrize("sigma", [(0.3, 0.5, 0.8), (0.8, 0.8, 0.8)])
def test_smoothing_is_monais(picture, sigma):
    wanted = mt.GaussianSmooth(sigma=sigma, approx="erf")(picture)
    agree(smooth(picture[0], np.array(sigma))[None], wanted, atol=1e-4)


def test_noise_has_its_deviation(picture):
    noise = add_noise(picture[0], 0.05, np.random.default_rng(0)) - picture[0]
    assert noise.std() == pytest.approx(0.05, rel=0.03)
    assert abs(noise.mean()) < 0.002


def test_how_often_each_is_drawn():
    """Of many draws: nothing moves voxels with 0.7 ** 3, and no axis is mirrored, with 0.7 ** 3."""
    rng = np.random.default_rng(0)
    warps = [draw_warp("reference", rng) for _ in range(3000)]
    assert np.mean([warp.is_flip for warp in warps]) == pytest.approx(0.7**3, abs=0.03)
    assert np.mean([np.array_equal(warp.matrix, np.eye(3)) for warp in warps]) == pytest.approx(0.7**6, abs=0.03)
    mirrored = np.mean([np.linalg.det(warp.matrix) < 0 for warp in warps])
    assert mirrored == pytest.approx(3 * 0.3 * 0.7**2 + 0.3**3, abs=0.03)
    still = np.ones((4, 4, 4), np.float32) * np.arange(4, dtype=np.float32)
    kept = [change_intensities("reference", still, rng) is still for _ in range(3000)]
    assert np.mean(kept) == pytest.approx(0.7**3, abs=0.03)
    scanner = [draw_warp("scanner", rng) for _ in range(3000)]
    assert np.mean([warp.is_flip for warp in scanner]) == pytest.approx(0.6, abs=0.03)


def test_the_scanners_warps_never_mirror():
    """Law 12: left and right carry meaning, so no augmentation but the reference's may change handedness."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        warp = draw_warp("scanner", rng)
        assert np.linalg.det(warp.matrix) > 0
        assert (np.diag(warp.matrix) > 0.7).all()  # nor is there a quarter turn


def test_none_changes_nothing(picture):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert draw_warp("none", rng) is STILL
    assert change_intensities("none", picture[0], rng) is not None
    assert rng.bit_generator.state == before
