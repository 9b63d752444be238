"""Straightened views of tubes whose course and width are known exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coronary.straighten import OUTSIDE, frames, resample, straighten
from shared.geometry import apply_affine

RADIUS_MM = 2.0
LUMEN_HU, TISSUE_HU = 400.0, 40.0


def helix(turns=1.0, radius_mm=9.0, rise_mm=22.0, points=400):
    t = np.linspace(0, turns * 2 * np.pi, points)
    return np.stack([radius_mm * np.cos(t), radius_mm * np.sin(t), rise_mm * (t / t[-1] - 0.5)], axis=1)


def tube(line_mm, affine, shape):
    """A scan of a tube around a line, its wall one voxel wide."""
    from scipy.spatial import cKDTree

    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(float)
    away_mm = cKDTree(line_mm).query(apply_affine(affine, index))[0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0).mean()
    inside = np.clip((RADIUS_MM - away_mm) / spacing + 0.5, 0, 1)
    return (TISSUE_HU + (LUMEN_HU - TISSUE_HU) * inside).astype(np.float32)


def centred(matrix, shape):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ (np.array(shape) - 1) / 2
    return affine


def widths_mm(found):
    """Width of the lumen in each column, where it is at least half of full brightness; sums partial pixels."""
    return ((found.image - TISSUE_HU) / (LUMEN_HU - TISSUE_HU)).clip(0, 1).sum(axis=0) * found.step_mm


@pytest.fixture(scope="module")
def helical():
    shape = (60, 60, 70)
    affine = centred(np.diag([0.5, 0.5, 0.5]), shape)
    line = helix()
    return tube(line, affine, shape), affine, line


@pytest.mark.parametrize("angle", [0, 45, 90, 200])
def test_a_helix_comes_out_straight_and_as_wide_as_it_is(helical, angle):
    array, affine, line = helical
    found = straighten(array, affine, line, half_width_mm=4, angle_deg=angle)
    middle = found.image.shape[0] // 2
    assert (found.image[middle] > 0.95 * LUMEN_HU).all()
    assert widths_mm(found)[4:-4] == pytest.approx(2 * RADIUS_MM, abs=0.4)
    rows = np.arange(found.image.shape[0])[:, None] - middle
    weight = found.image - TISSUE_HU
    off_mm = (rows * weight).sum(axis=0) / weight.sum(axis=0) * found.step_mm
    assert np.abs(off_mm[4:-4]).max() < 0.25


def test_its_length_is_the_vessel_s(helical):
    array, affine, line = helical
    found = straighten(array, affine, line)
    true_mm = np.hypot(2 * np.pi * 9.0, 22.0)
    assert found.along_mm[-1] == pytest.approx(true_mm, abs=found.step_mm)
    assert len(found.along_mm) == found.image.shape[1] == len(found.points_mm)
    steps = np.linalg.norm(np.diff(found.points_mm, axis=0), axis=1)
    assert steps == pytest.approx(found.step_mm, abs=0.02)


def test_half_a_turn_mirrors_the_picture(helical):
    one, other = (straighten(*helical, half_width_mm=4, angle_deg=angle).image for angle in (30, 210))
    assert one == pytest.approx(other[::-1], abs=0.5)


def test_a_memory_map_of_half_floats_gives_the_same(helical, tmp_path):
    array, affine, line = helical
    array.astype("<f2").ravel(order="F").tofile(tmp_path / "scan")
    mapped = np.memmap(tmp_path / "scan", "<f2", "r", shape=array.shape, order="F")
    assert straighten(mapped, affine, line).image == pytest.approx(straighten(array, affine, line).image, abs=0.5)


def test_outside_the_scan_is_air():
    array = np.zeros((20, 20, 20), np.float32)
    line = np.array([[10.0, 10, 2], [10, 10, 40]])
    image = straighten(array, np.eye(4), line, half_width_mm=3).image
    assert image[12, 4] == 0
    assert (image[:, -4:] == OUTSIDE).all()
    assert (straighten(array, np.eye(4), line + 500).image == OUTSIDE).all()


angles = st.floats(-3.1, 3.1)


@settings(max_examples=25)
@given(st.tuples(angles, angles, angles), st.floats(0.6, 1.4), st.floats(-40, 40))
def test_the_scan_s_orientation_does_not_matter(turn, spacing, moved):
    """The same ramp on any grid, oblique and shifted, gives the same picture."""
    from scipy.spatial.transform import Rotation

    shape = (50, 50, 50)
    matrix = Rotation.from_rotvec(turn).as_matrix() * spacing
    affine = centred(matrix, shape)
    affine[:3, 3] += moved
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(float)
    slope = np.array([3.0, -2.0, 5.0])
    array = (apply_affine(affine, index) @ slope).astype(np.float32)
    line = np.array([[-5.0, 0, 0], [0, 2, 1], [6, 1, 4]]) + moved
    found = straighten(array, affine, line, half_width_mm=3)
    _, normal, _ = frames(found.points_mm)
    offset_mm = (np.arange(found.image.shape[0]) - found.image.shape[0] // 2) * found.step_mm
    wanted = (found.points_mm[None] + offset_mm[:, None, None] * normal[None]) @ slope
    assert found.image == pytest.approx(wanted, abs=0.05)


@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=2, max_size=12))
def test_frames_are_orthonormal_whatever_the_line(points):
    try:
        line, along = resample(np.array(points), 0.5)
    except ValueError:
        assert np.ptp(np.array(points), axis=0).max() < 1e-6
        return
    assert len(line) == len(along) >= 2
    tangent, normal, binormal = frames(line)
    moving = np.linalg.norm(tangent, axis=1) > 0.5  # where a line turns back on itself it has no direction
    for vectors in (normal[moving], binormal[moving]):
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert (normal * tangent)[moving].sum(axis=1) == pytest.approx(0, abs=1e-6)


def test_frames_do_not_turn_about_a_line_in_a_plane():
    t = np.linspace(0, 2, 200)
    line = np.stack([20 * np.cos(t), np.zeros_like(t), 20 * np.sin(t)], axis=1)
    _, normal, binormal = frames(line)
    across = np.array([0.0, 1.0, 0.0])
    angle = np.unwrap(np.arctan2(binormal @ across, normal @ across))
    assert np.ptp(angle) < 1e-6


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.ones((5, 3))])
def test_no_line_is_refused(points):
    with pytest.raises(ValueError, match="two points"):
        straighten(np.zeros((5, 5, 5), np.float32), np.eye(4), points)
