"""The contrast region: blood with contrast is found, its absence is a finding."""

import numpy as np
import pytest

from coronary.contrast import contrast_region, near_on
from coronary.phantom import PhantomConfig, make_phantom
from shared.io.volume import from_array

SMALL = PhantomConfig(shape=(96, 96, 80), spacing_mm=(1.2, 1.2, 1.3))


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SMALL, 3)


def test_every_artery_of_a_phantom_lies_in_the_region(phantom):
    region = contrast_region(phantom.volume)
    assert region.finding is None
    assert near_on(region, phantom.volume.grid)[phantom.labels > 0].all()
    inside = np.zeros(phantom.labels.shape, bool)
    inside[region.box] = True
    assert inside[phantom.labels > 0].all()
    assert 200 < region.blood_hu < 700


def test_a_scan_without_contrast_says_so():
    plain = make_phantom(SMALL.model_copy(update={"contrast": False}), 3)
    region = contrast_region(plain.volume)
    assert region.finding is not None
    assert "without contrast" in region.finding
    assert not region.near.any()


def test_bone_is_not_blood():
    rng = np.random.default_rng(0)
    array = np.full((80, 80, 80), 40.0, np.float32)
    grid = np.stack(np.meshgrid(*[np.arange(80) - 40] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) < 22**2
    array[ball] = (300 + 350 * rng.normal(size=(20, 20, 20)).repeat(4, 0).repeat(4, 1).repeat(4, 2))[ball]
    assert contrast_region(from_array(array, np.eye(4))).finding is not None
    array[ball] = 350
    assert contrast_region(from_array(array, np.eye(4))).finding is None


def test_marrow_in_its_cortex_is_not_blood():
    array = np.full((80, 80, 80), 40.0, np.float32)
    away = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(80) - 40] * 3, indexing="ij")), axis=0)
    array[away < 26] = 700
    array[away < 20] = 270
    assert contrast_region(from_array(array, np.eye(4))).finding is not None
    array[away >= 20] = 40
    assert contrast_region(from_array(array, np.eye(4))).finding is None


def test_oblique_scans_work(phantom):
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = phantom.volume.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    region = contrast_region(from_array(phantom.volume.array, affine))
    straight = contrast_region(phantom.volume)
    assert region.box == straight.box
