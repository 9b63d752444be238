"""Law 4: a sliding window equals the whole volume for a convolution-only network; every voxel is written."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shared.sliding_window import importance, plan_windows, slide

SIDES = st.integers(5, 60)
SHAPES = st.tuples(SIDES, SIDES, SIDES)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)


def pointwise(image):
    return np.concatenate([-2 * image, 3 * image + 1], axis=1)


def convolution(image):
    result = ndimage.convolve(image[0, 0], KERNEL, mode="constant")
    return np.stack([np.zeros_like(result), result])[None]


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(0, 0.7), st.sampled_from([1.0, 1.35, 2.0]), st.sampled_from(["gaussian", "constant"]))
def test_a_pointwise_network_gives_the_whole_volume_everywhere(shape, overlap, grow, blending):
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    plan = plan_windows(shape, (16, 16, 16), overlap, grow, multiple=4)
    got, _ = slide(volume, pointwise, plan, blending=blending)
    np.testing.assert_allclose(got, 5 * volume + 1, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.floats(0.2, 0.7), st.sampled_from([1.0, 1.35]))
def test_a_convolution_gives_the_whole_volume_away_from_window_borders(shape, overlap, grow):
    volume = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    plan = plan_windows(shape, (16, 16, 16), overlap, grow, multiple=4)
    got, _ = slide(volume, convolution, plan)
    whole = ndimage.convolve(volume, KERNEL, mode="constant")
    inside = np.ones(shape, bool)
    for axis, (length, size, starts) in enumerate(zip(shape, plan.window, plan.starts, strict=True)):
        if length > size:
            borders = {b for s in starts for b in (s, s + size - 1) if 0 < b < length - 1}
            inside[tuple(sorted(borders) if a == axis else slice(None) for a in range(3))] = False
    np.testing.assert_allclose(got[inside], whole[inside], rtol=1e-3, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(1, 900)] * 3), st.floats(0, 0.75), st.floats(1, 2))
def test_windows_cover_every_voxel_and_keep_their_overlap(shape, overlap, grow):
    plan = plan_windows(shape, (96, 96, 96), overlap, grow)
    for length, size, starts in zip(shape, plan.window, plan.starts, strict=True):
        assert 96 <= size <= 96 * grow
        assert size % 16 == 0
        assert starts[0] == 0
        assert starts[-1] + size >= length
        assert all(0 < b - a <= size * (1 - overlap) + 1 for a, b in itertools.pairwise(starts))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(8, 70)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.6]))
def test_trained_windows_are_those_of_monai(shape, overlap):
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    window = (16, 24, 32)
    padded = tuple(max(n, w) for n, w in zip(shape, window, strict=True))
    interval = _get_scan_interval(padded, window, 3, [overlap] * 3)
    wanted = [tuple(s.start for s in box) for box in dense_patch_slices(padded, window, interval)]
    assert plan_windows(shape, window, overlap).origins == wanted


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(40, 33, 25), (10, 40, 20)])
def test_equals_monai_with_a_real_network(shape, blending):
    import torch
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 2, 3, padding=1)
    )
    volume = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        logits = sliding_window_inference(
            torch.from_numpy(volume)[None, None], (16, 16, 16), 1, network, overlap=0.25, mode=blending
        )[0]
        wanted = (logits[1] - logits[0]).numpy()

        def run(window):
            return network(torch.from_numpy(window)).numpy()

        got, count = slide(volume, run, plan_windows(shape, (16, 16, 16), 0.25), blending=blending)
    assert count == np.prod([len(s) for s in plan_windows(shape, (16, 16, 16), 0.25).starts])
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_importance_is_that_of_monai():
    from monai.data.utils import compute_importance_map

    wanted = compute_importance_map((24, 16, 32), mode="gaussian").numpy()
    np.testing.assert_allclose(importance((24, 16, 32), "gaussian"), wanted, rtol=1e-4)


def test_windows_without_a_candidate_are_skipped_and_say_background():
    volume = np.zeros((64, 16, 16), np.float32)
    where = np.zeros(volume.shape, bool)
    where[3, 3, 3] = True
    got, ran = slide(volume, pointwise, plan_windows(volume.shape, (16, 16, 16), 0), where=where, skipped_value=-7)
    assert ran == 1
    assert (got[:16] == 1).all()
    assert (got[16:] == -7).all()
