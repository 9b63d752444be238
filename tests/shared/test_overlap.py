from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.measure import label

from shared.metrics.overlap import betti0_error, cl_dice, dice, hd95_mm, overlap_scores, surface_dice

# Exact in binary: a distance that equals the tolerance is then no matter of rounding.
SPACINGS = [(1.0, 1.0, 1.0), (0.5, 0.5, 0.75), (0.25, 1.0, 2.0)]
EMPTY = np.zeros((6, 5, 4), bool)


def blobs(seed: int, shape: tuple[int, int, int] = (20, 18, 16), filled: float = 0.2) -> np.ndarray[Any, Any]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.asarray(noise > np.quantile(noise, 1 - filled))


def tube(seed: int, radius: float = 1.6, size: int = 28) -> np.ndarray[Any, Any]:
    """A bent tube: all voxels within ``radius`` of a random quadratic curve."""
    ends = np.random.default_rng(seed).uniform(4, size - 5, (3, 3))
    t = np.linspace(0, 1, 80)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    voxels = np.indices((size,) * 3).reshape(3, -1).T
    return np.asarray(KDTree(curve).query(voxels)[0] <= radius).reshape((size,) * 3)


def pairs() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    apart = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    apart[0][:2, :2, :2] = apart[1][9:, 8:, 11:] = True
    shifted = [(tube(seed), np.roll(tube(seed, 1.2), seed, axis=seed % 3)) for seed in range(4)]
    return [(blobs(seed), blobs(seed + 100, filled=0.1)) for seed in range(4)] + shifted + [apart]


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(bits, bool).reshape(shape)


def scores(pred: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> dict[str, float]:
    return overlap_scores(pred, truth, (0.5, 1.0, 0.75), tolerance_mm=0.6)


@pytest.mark.filterwarnings(
    "ignore:.*always_return_as_numpy:FutureWarning"
)  # MONAI calling its own deprecated argument
class TestAgainstMonai:
    """Equal to MONAI's metrics, which are computed another way, in float32."""

    @pytest.mark.parametrize("spacing_mm", SPACINGS)
    def test_surfaces(self, spacing_mm: tuple[float, float, float]) -> None:
        import torch
        from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric

        for pred, truth in pairs():
            y_pred, y = (torch.from_numpy(mask)[None, None].float() for mask in (pred, truth))
            hausdorff = HausdorffDistanceMetric(include_background=True, percentile=95)
            expected = hausdorff(y_pred, y, spacing=spacing_mm).item()
            assert hd95_mm(pred, truth, spacing_mm) == pytest.approx(expected, rel=1e-5)
            for tolerance_mm in (0.0, 0.5, 1.0, 2.0):
                surface = SurfaceDiceMetric([tolerance_mm], include_background=True)
                expected = surface(y_pred, y, spacing=spacing_mm).item()
                assert surface_dice(pred, truth, spacing_mm, tolerance_mm) == pytest.approx(expected, rel=1e-6)

    def test_dice(self) -> None:
        import torch
        from monai.metrics import DiceMetric

        for pred, truth in pairs():
            metric = DiceMetric(include_background=True)
            expected = metric(torch.from_numpy(pred)[None, None].float(), torch.from_numpy(truth)[None, None].float())
            assert dice(pred, truth) == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(masks())
def test_a_mask_agrees_with_itself(mask: np.ndarray[Any, Any]) -> None:
    assert scores(mask, mask) == {"dice": 1, "cl_dice": 1, "hd95_mm": 0, "surface_dice": 1, "betti0_error": 0}


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_symmetric_bounded_and_blind_to_where(mask: np.ndarray[Any, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = mask ^ (rng.random(mask.shape) < 0.3)
    forth = scores(mask, other)
    assert scores(other, mask) == forth
    assert all(0 <= forth[name] <= 1 for name in ("dice", "cl_dice", "surface_dice"))
    assert forth["hd95_mm"] >= 0

    pads = rng.integers(0, 4, (3, 2))
    assert scores(np.pad(mask, pads), np.pad(other, pads)) == forth


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_single_scores_are_those_of_all(mask: np.ndarray[Any, Any], seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.shape) < 0.4
    spacing_mm = (0.5, 1.0, 0.75)
    assert scores(mask, other) == {
        "dice": dice(mask, other),
        "cl_dice": cl_dice(mask, other),
        "hd95_mm": hd95_mm(mask, other, spacing_mm),
        "surface_dice": surface_dice(mask, other, spacing_mm, 0.6),
        "betti0_error": betti0_error(mask, other),
    }


@given(masks(), st.integers(0, 2**32 - 1))
def test_components_agree_with_scikit_image(mask: np.ndarray[Any, Any], seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.shape) < 0.2
    expected = abs(int(label(mask, connectivity=3).max()) - int(label(other, connectivity=3).max()))
    assert betti0_error(mask, other) == expected


@given(st.tuples(*[st.integers(0, 6)] * 3), st.tuples(*[st.floats(0.1, 3)] * 3))
def test_two_points_are_as_far_as_their_millimetres(
    steps: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    assume(any(steps))
    pred, truth = np.zeros((7, 7, 7), bool), np.zeros((7, 7, 7), bool)
    pred[0, 0, 0] = truth[steps] = True
    far = math.sqrt(sum((n * mm) ** 2 for n, mm in zip(steps, spacing_mm, strict=True)))
    assert hd95_mm(pred, truth, spacing_mm) == pytest.approx(far)
    assert surface_dice(pred, truth, spacing_mm, tolerance_mm=far) == 1
    assert surface_dice(pred, truth, spacing_mm, tolerance_mm=far * 0.999) == 0


def test_hd95_leaves_the_worst_twentieth_out() -> None:
    truth = np.zeros((120, 1, 1), bool)
    truth[:100] = True
    pred = truth.copy()
    pred[100:105] = True  # 5 of 105 boundary voxels, 1 to 5 mm outside
    assert hd95_mm(pred, truth, (1, 1, 1)) == pytest.approx(np.percentile([0] * 100 + [1, 2, 3, 4, 5], 95))
    pred[100:120] = True
    assert hd95_mm(pred, truth, (1, 1, 1)) > 10


def test_empty_masks() -> None:
    full = EMPTY.copy()
    full[1:3, 1:3, 1:3] = True
    assert scores(EMPTY, EMPTY) == {"dice": 1, "cl_dice": 1, "hd95_mm": 0, "surface_dice": 1, "betti0_error": 0}
    alone = {"dice": 0, "cl_dice": 0, "hd95_mm": math.inf, "surface_dice": 0, "betti0_error": 1}
    assert scores(EMPTY, full) == scores(full, EMPTY) == alone


def test_label_maps_count_as_foreground_and_shapes_must_agree() -> None:
    mask = blobs(1)
    assert dice(mask.astype(np.uint8) * 2, mask) == 1
    with pytest.raises(ValueError, match="one grid"):
        dice(mask, mask[:-1])
    with pytest.raises(ValueError, match="one grid"):
        dice(mask[0], mask[0])


def test_cl_dice_of_a_broken_vessel() -> None:
    truth = np.zeros((60, 7, 7), bool)
    truth[2:58, 2:5, 2:5] = True
    half = truth.copy()
    half[30:] = False
    precision, sensitivity = 1.0, 0.5  # half's line lies in truth; half of truth's line lies in half
    assert cl_dice(half, truth) == pytest.approx(2 * precision * sensitivity / (precision + sensitivity), abs=0.02)
    wide = ndimage.binary_dilation(truth)
    assert cl_dice(wide, truth) == 1
    assert dice(wide, truth) < 0.65
    assert cl_dice(np.roll(truth, 3, axis=1), truth) == 0


@pytest.mark.parametrize("shape", [(4, 4, 40), (2, 2, 2), (4, 4, 4), (5, 4, 4), (2, 1, 5), (128, 4, 4)])
def test_parts_that_thinning_would_eat_still_count(shape: tuple[int, int, int]) -> None:
    solid = np.pad(np.ones(shape, bool), 1)
    assert cl_dice(solid, solid) == 1
    assert cl_dice(solid, ~solid) == 0
    # A second part, far away and missed, costs what its length is worth.
    both = np.pad(solid, ((0, solid.shape[0]), (0, 0), (0, 0)))
    truth = both | np.roll(both, solid.shape[0], axis=0)
    assert cl_dice(both, truth) == pytest.approx(2 / 3, abs=0.05)


def test_fast_on_a_sparse_tree_in_a_whole_scan() -> None:
    truth = np.zeros((512, 512, 206), bool)
    for seed in range(6):
        x, y, z = np.random.default_rng(seed).integers((80, 80, 20), (400, 400, 150))
        truth[x : x + 28, y : y + 28, z : z + 28] |= tube(seed)
    pred = np.roll(truth, 1, axis=0)
    begin = time.process_time()
    found = overlap_scores(pred, truth, (0.35, 0.35, 0.5))
    assert time.process_time() - begin < 8
    assert 0.5 < found["dice"] < 1
    assert found["hd95_mm"] == pytest.approx(0.35)
    assert found["surface_dice"] == 1
