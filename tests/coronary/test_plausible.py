"""Lung vessels, bone and calcium are told from arteries by what they are and what surrounds them."""

import numpy as np
import pytest

from coronary.plausible import apart, implausible

SPACING = (0.7, 0.7, 0.7)


def scene(around_hu, inside_hu, shape=(60, 40, 40)):
    hu = np.full(shape, around_hu, np.float32)
    mask = np.zeros(shape, bool)
    mask[10:50, 19:22, 19:22] = True
    hu[mask] = inside_hu
    return mask, hu


@pytest.mark.parametrize(
    ("around_hu", "inside_hu", "goes"),
    [
        (-100, 350, False),
        (110, 350, False),
        (-850, 350, True),
        (-200, 350, True),
        (-100, 700, True),
        (-100, 420, True),
    ],
)
def test_what_surrounds_a_piece_decides(around_hu, inside_hu, goes):
    mask, hu = scene(around_hu, inside_hu)
    np.testing.assert_array_equal(implausible(mask, hu, SPACING, 400.0), mask & goes)


def test_an_artery_beside_the_lung_stays():
    mask, hu = scene(-100, 350)
    hu[:, 25:, :] = -850
    assert not implausible(mask, hu, SPACING, 400.0).any()


def test_only_the_piece_in_the_lung_goes():
    mask, hu = scene(-100, 350)
    mask[10:50, 34:37, 19:22] = True
    hu[:, 28:, :] = -850
    hu[mask] = 350
    gone = implausible(mask, hu, SPACING, 400.0)
    assert gone[:, 30:].sum() == mask[:, 30:].sum()
    assert not gone[:, :30].any()


def test_without_a_blood_pool_brightness_does_not_count():
    mask, hu = scene(-100, 1500)
    assert not implausible(mask, hu, SPACING, None).any()


def test_an_empty_mask_and_one_that_fills_the_scan():
    mask, hu = scene(-100, 350)
    assert not implausible(np.zeros_like(mask), hu, SPACING, 400.0).any()
    assert not implausible(np.ones_like(mask), np.full_like(hu, 300), SPACING, 400.0).any()


def test_pieces_that_come_nowhere_near_the_heart_go_whole():
    mask, place = np.zeros((40, 30, 30), bool), np.zeros((40, 30, 30), bool)
    place[:12] = True
    mask[5:35, 4:6, 4:6] = True  # begins at the heart and leads away
    mask[20:30, 20:22, 20:22] = True  # lies elsewhere
    gone = apart(mask, place)
    assert gone.sum() == mask[20:30, 20:22, 20:22].sum()
    assert not gone[:, :10].any()
    assert not apart(np.zeros_like(mask), place).any()
