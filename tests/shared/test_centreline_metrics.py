"""Recall of a centreline by radius: closed forms on tubes, and clDice's sensitivity over all classes together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shared.metrics.centreline import centreline_recall, radius_on, skeleton

Mask = np.ndarray[Any, Any]


def tubes(spacing_mm: tuple[float, float, float], radii_mm: list[float], shift: float = 0.0) -> Mask:
    """Straight vessels along x, 8 mm apart along y, each of its radius."""
    length_mm, apart_mm = 24.0, 8.0
    size = (length_mm, apart_mm * len(radii_mm), apart_mm)
    x, y, z = np.meshgrid(*(np.arange(0, mm, s) for mm, s in zip(size, spacing_mm, strict=True)), indexing="ij")
    mask = np.zeros(x.shape, bool)
    for i, radius in enumerate(radii_mm):
        mask |= np.hypot(y - apart_mm * (i + 0.5) - shift, z - apart_mm / 2 - shift / 2) <= radius
    return mask


@given(st.floats(0.6, 2.5), st.floats(0, 0.6), st.sampled_from([(0.4, 0.4, 0.5), (0.35, 0.35, 0.6), (0.7, 0.7, 0.7)]))
@settings(max_examples=25)
def test_the_radius_of_a_tube(radius: float, shift: float, spacing_mm: tuple[float, float, float]) -> None:
    mask = tubes(spacing_mm, [radius], shift)
    found = radius_on(skeleton(mask), mask, spacing_mm)
    # Along the grid's axes every slice errs alike; what bends is better, see tests/coronary/test_evaluate.py.
    assert abs(float(np.median(found)) - radius) < 0.75 * max(spacing_mm)


def test_each_class_has_its_own_recall() -> None:
    spacing_mm = (0.4, 0.4, 0.4)
    truth = tubes(spacing_mm, [0.5, 1.2, 2.2])
    pred = truth.copy()
    third = truth.shape[1] // 3
    pred[:, :third] = False  # the thin one is missed
    pred[truth.shape[0] // 2 :, third : 2 * third] = False  # and half of the middle one
    thin, middle, wide = centreline_recall(pred, truth, spacing_mm, (0.8, 1.5))
    assert thin == 0
    assert middle == pytest.approx(0.5, abs=0.05)
    assert wide == 1


def test_a_class_that_is_not_there_has_no_recall() -> None:
    truth = tubes((0.5, 0.5, 0.5), [1.1])
    thin, middle, wide = centreline_recall(truth, truth, (0.5, 0.5, 0.5), (0.8, 1.5))
    assert middle == 1
    assert math.isnan(thin)
    assert math.isnan(wide)
    assert all(math.isnan(value) for value in centreline_recall(truth, np.zeros_like(truth), (1, 1, 1), (1.0,)))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_all_classes_together_are_cl_dices_sensitivity(seed: int, grow: int) -> None:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(20, 18, 16)), 1.5)
    truth = np.pad(noise > np.quantile(noise, 0.85), grow)
    pred = truth ^ (rng.random(truth.shape) < 0.3)
    line = skeleton(truth)
    expected = np.count_nonzero(line & pred) / np.count_nonzero(line)
    spacing_mm = (0.5, 0.5, 0.75)
    assert centreline_recall(pred, truth, spacing_mm, ()) == [pytest.approx(expected)]
    radius = radius_on(line, truth, spacing_mm)
    edges = tuple(np.quantile(radius, [0.3, 0.7]))
    weights = np.bincount(np.digitize(radius, edges), minlength=3)
    parts = np.array(centreline_recall(pred, truth, spacing_mm, edges))
    assert np.nansum(parts * weights) / weights.sum() == pytest.approx(expected)


def test_where_the_crop_lies_makes_no_difference() -> None:
    spacing_mm = (0.5, 0.4, 0.6)
    truth = np.pad(tubes(spacing_mm, [0.7, 1.6]), 4)
    pred = np.roll(truth, 2, axis=1)
    here = centreline_recall(pred, truth, spacing_mm, (0.8, 1.5))
    padded = [np.pad(mask, [(9, 0), (3, 8), (0, 5)]) for mask in (pred, truth)]
    np.testing.assert_equal(centreline_recall(padded[0], padded[1], spacing_mm, (0.8, 1.5)), here)


def test_the_scans_edge_is_no_wall() -> None:
    mask = tubes((0.5, 0.5, 0.5), [2.0])  # leaves the scan at both ends
    radius = radius_on(skeleton(mask), mask, (0.5, 0.5, 0.5))
    assert radius.min() == pytest.approx(2.0, abs=0.3)


def test_shapes_must_agree() -> None:
    mask = tubes((0.5, 0.5, 0.5), [1.0])
    with pytest.raises(ValueError, match="one grid"):
        centreline_recall(mask[1:], mask, (1, 1, 1), (1.0,))
