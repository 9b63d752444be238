"""The tree of masks whose truth is known: tubes, two-sided hearts, and masks no vessel ever had."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from coronary.tree import Tree, build_tree, label_sides, measure
from shared.types import Grid, Segmentation, Source

SPACINGS_MM = [(0.35, 0.35, 0.5), (0.5, 0.5, 0.5), (0.7, 0.7, 0.7)]


def line(*corners_mm, step_mm=0.2):
    """A polyline through the corners, as points 0.2 mm apart."""
    parts = []
    for a, b in pairwise(corners_mm):
        count = int(np.linalg.norm(np.subtract(b, a)) / step_mm) + 1
        parts.append(np.linspace(a, b, count))
    return np.concatenate(parts).astype(float)


def arc(radius_mm=15.0, turn=2.5, rise_mm=10.0):
    t = np.linspace(0, 1, 600)
    return np.stack([radius_mm * np.cos(turn * t), radius_mm * np.sin(turn * t), rise_mm * t], axis=1)


def length(points):
    return np.linalg.norm(np.diff(points, axis=0), axis=1).sum()


def paint(tubes, spacing_mm=(0.5, 0.5, 0.5), axes=None):
    """Sweep balls along ``(points, radius)`` tubes: a mask around them, its affine, and which tube each voxel is of."""
    spacing = np.array(spacing_mm)
    points = np.concatenate([p for p, _ in tubes])
    radius = np.concatenate([np.broadcast_to(r, len(p)) for p, r in tubes])
    owner = np.concatenate([np.full(len(p), k + 1, np.uint8) for k, (p, _) in enumerate(tubes)])
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if axes is None else axes) @ np.diag(spacing)
    index = points @ np.linalg.inv(affine[:3, :3]).T
    margin = radius.max() / spacing.min() + 3
    lower = np.floor(index.min(0) - margin)
    shape = np.ceil(index.max(0) + margin - lower).astype(int)
    affine[:3, 3] = affine[:3, :3] @ lower
    voxels_mm = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    labels = np.zeros(len(voxels_mm), np.uint8)
    for k in range(len(tubes)):  # the first tube to claim a voxel keeps it
        mine = owner == k + 1
        away, nearest = cKDTree(points[mine]).query(voxels_mm, distance_upper_bound=radius[mine].max() + 0.1)
        labels[(labels == 0) & (away <= np.r_[radius[mine], 0][nearest])] = k + 1
    labels = labels.reshape(shape)
    return labels > 0, affine, labels


# A heart's arteries in short: RAS mm, ostia high and close; the left to the patient's left, the right to the right.
LEFT_STEM = line((-8, 0, 40), (-18, 6, 38))
LEFT_FRONT = line((-18, 6, 38), (-35, 40, 20), (-40, 45, -10))
LEFT_BACK = line((-18, 6, 38), (-45, -20, 15), (-40, -30, -5))
RIGHT = line((10, 12, 38), (32, 25, 25), (38, 10, -5), (20, -15, -20))
HEART = [(LEFT_STEM, 2.0), (LEFT_FRONT, 1.5), (LEFT_BACK, 1.4), (RIGHT, 1.7)]


@pytest.fixture(scope="module")
def heart():
    return paint(HEART, (0.7, 0.7, 0.7))


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM, ids=str)
@pytest.mark.parametrize("radius_mm", [0.5, 1.0, 2.3])
def test_a_tube_has_its_length_and_diameter(radius_mm, spacing_mm):
    course = arc()
    mask, affine, _ = paint([(course, radius_mm)], spacing_mm)
    (branch,) = build_tree(mask, affine).branches
    error_mm = np.abs(branch.diameter_mm - 2 * radius_mm)
    assert branch.length_mm == pytest.approx(length(course), rel=0.03)
    assert error_mm.mean() < 0.15
    assert cKDTree(course).query(branch.points_mm)[0].max() < 0.5
    assert branch.narrowings == ()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), mirrored=st.booleans())
def test_oblique_and_mirrored_grids_measure_the_same(seed, mirrored):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    axes[:, 0] *= -1 if mirrored == (np.linalg.det(axes) > 0) else 1
    course = arc(10, 2)
    mask, affine, _ = paint([(course, 1.2)], (0.4, 0.5, 0.6), axes)
    (branch,) = build_tree(mask, affine).branches
    assert branch.length_mm == pytest.approx(length(course), rel=0.03)
    assert branch.mean_diameter_mm == pytest.approx(2.4, abs=0.1)


def test_tapering_is_followed_and_is_no_narrowing():
    course = line((0, 0, 0), (30, 20, 40))
    radius_mm = np.linspace(2.2, 0.8, len(course))
    mask, affine, _ = paint([(course, radius_mm)])
    (branch,) = build_tree(mask, affine).branches
    truth_mm = 2 * radius_mm[cKDTree(course).query(branch.points_mm)[1]]
    assert np.abs(branch.diameter_mm - truth_mm).mean() < 0.15
    assert branch.narrowings == ()


@pytest.mark.parametrize("percent", [40, 60, 80])
@pytest.mark.parametrize("plaque_mm", [5.0, 12.0])
def test_a_narrowing_is_found_where_it_is(percent, plaque_mm):
    course = line((0, 0, 0), (60, 5, 10))
    along = np.linspace(0, length(course), len(course))
    dip = np.where(abs(along - 25) < plaque_mm / 2, 0.5 + 0.5 * np.cos((along - 25) * 2 * np.pi / plaque_mm), 0)
    radius_mm = np.linspace(1.9, 1.4, len(course)) * (1 - percent / 100 * dip)
    mask, affine, _ = paint([(course, radius_mm)], (0.35, 0.35, 0.35))
    (branch,) = build_tree(mask, affine).branches
    (found,) = branch.narrowings
    truth = course[np.argmin(abs(along - 25))]
    assert np.linalg.norm(found.point_mm - truth) < 1.5
    assert found.percent == pytest.approx(percent, abs=found.uncertainty_percent)
    assert found.reference_diameter_mm == pytest.approx(
        2 * np.interp(25, along, np.linspace(1.9, 1.4, len(along))), abs=0.3
    )
    assert found.length_mm == pytest.approx(plaque_mm / 2, abs=1.5)  # half of the depth of a cosine is half its width
    assert found.percent == pytest.approx(100 * (1 - found.diameter_mm / found.reference_diameter_mm))


def test_what_the_grid_does_not_resolve_is_not_reported():
    course = line((0, 0, 0), (45, 17, 11))
    radius_mm = np.where(abs(course[:, 0] - 22) < 3, 0.7, 1.0)  # 30 %, but less than a voxel of 0.7 mm
    coarse, fine = (
        build_tree(*paint([(course, radius_mm)], (spacing_mm,) * 3)[:2]).narrowings for spacing_mm in (0.7, 0.25)
    )
    assert coarse == ()
    ((_, found),) = fine
    assert found.percent == pytest.approx(30, abs=5)


def test_the_funnel_of_a_take_off_is_no_narrowing():
    trunk, side = line((0, 0, 0), (0, 0, -70)), line((0, 0, -20), (14, 0, -40), (30, 0, -45))
    mask, affine, _ = paint([(trunk, 2.4), (side, 1.3)], (0.35, 0.35, 0.35))
    tree = build_tree(mask, affine)
    (branch,) = [branch for branch in tree.branches if branch.parent is not None]
    assert tree.narrowings == ()
    assert branch.mean_diameter_mm == pytest.approx(2.6, abs=0.15)
    assert branch.length_mm == pytest.approx(length(side), abs=2.4)  # where it leaves is known to the radius


def test_a_step_down_at_a_fork_is_no_narrowing():
    thick, thin = line((0, 0, 0), (0, 0, -30)), line((0, 0, -30), (0, 10, -65))
    mask, affine, _ = paint([(thick, 2.4), (thin, 1.3)], (0.35, 0.35, 0.35))
    assert build_tree(mask, affine).narrowings == ()


def test_a_vessel_half_outside_the_scan_is_not_narrow():
    bent, affine, _ = paint([(line((0, 0, 1.5), (20, 0, 0), (30, 0, 0), (50, 0, 1.5)), 1.6)], (0.4, 0.4, 0.4))
    below = int(np.flatnonzero(bent.any(axis=(0, 1)))[0]) + 4  # cuts the middle, spares the ends
    assert build_tree(bent[:, :, below:], affine).narrowings == ()


def test_sides_and_branches_of_a_heart(heart):
    mask, affine, truth = heart
    sides = label_sides(mask, affine)
    np.testing.assert_array_equal(sides, np.array([0, 1, 1, 1, 2])[truth])

    tree = build_tree(mask, affine)
    assert [branch.side for branch in tree.branches] == ["LCA", "LCA", "RCA"]
    first, second, right = tree.branches
    np.testing.assert_allclose(first.points_mm[0], LEFT_STEM[0], atol=1.0)
    np.testing.assert_allclose(right.points_mm[0], RIGHT[0], atol=1.0)
    assert (first.parent, second.parent, right.parent) == (None, 0, None)
    assert (first.generation, second.generation, right.generation) == (0, 1, 0)
    assert np.linalg.norm(first.points_mm - second.points_mm[0], axis=1).min() == 0
    assert np.linalg.norm(second.points_mm[0] - LEFT_STEM[-1]) < 3
    assert first.length_mm == pytest.approx(length(LEFT_STEM) + length(LEFT_FRONT), rel=0.03)
    assert right.mean_diameter_mm == pytest.approx(3.4, abs=0.1)
    assert tree.volume_mm3["LCA"] == pytest.approx((sides == 1).sum() * 0.343)


@pytest.mark.parametrize("mirrored", [False, True])
def test_sides_are_the_patients_not_the_arrays(heart, mirrored):
    mask, affine, truth = heart
    turned = affine @ np.array([[-1, 0, 0, mask.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    sides = label_sides(mask[::-1], turned if mirrored else affine)
    expected = np.array([0, 1, 1, 1, 2])[truth][::-1]
    if not mirrored:  # a mirrored patient: left and right change places
        expected = np.array([0, 2, 1])[expected]
        assert (sides == expected).mean() > 0.99
    else:
        np.testing.assert_array_equal(sides, expected)


@pytest.mark.parametrize(("tubes", "side"), [(HEART[:3], 1), (HEART[3:], 2)])
def test_one_tree_alone_is_told_by_its_course(tubes, side):
    mask, affine, _ = paint(tubes, (0.7, 0.7, 0.7))
    assert set(np.unique(label_sides(mask, affine))) == {0, side}


def test_one_tree_that_leans_nowhere_is_unknown_and_says_so():
    mask, affine, _ = paint([(line((0, 0, 30), (0, 30, 0), (0, 20, -20)), 1.5)], (0.7, 0.7, 0.7))
    tree = build_tree(mask, affine)
    assert [branch.side for branch in tree.branches] == ["unknown"]
    assert "LCA or the RCA" in tree.notes[0]


@pytest.mark.parametrize(
    "bridge", [((-8, 0, 40), (10, 12, 38)), ((-40, -30, -5), (20, -15, -20))], ids=["ostia", "tips"]
)
def test_two_trees_grown_together_are_parted_where_they_touch(bridge):
    mask, affine, truth = paint([*HEART, (line(*bridge), 0.8)], (0.7, 0.7, 0.7))
    sides = label_sides(mask, affine)
    own = (truth > 0) & (truth < 5)
    assert (sides[own] == np.array([0, 1, 1, 1, 2, 0])[truth[own]]).mean() > 0.99


def test_a_broken_vessel_keeps_its_side_and_hangs_on_its_parent():
    near, far = line((-18, 6, 38), (-30, 30, 25)), line((-32, 34, 21), (-40, 45, -10))
    mask, affine, _ = paint([HEART[0], HEART[2], HEART[3], (near, 1.5), (far, 1.2)], (0.7, 0.7, 0.7))
    tree = build_tree(mask, affine)
    (piece,) = [branch for branch in tree.branches if branch.gap_mm > 0]
    assert piece.side == "LCA"
    assert 2 < piece.gap_mm < 7
    assert piece.parent is not None
    assert piece.generation == tree.branches[piece.parent].generation + 1
    assert piece.length_mm == pytest.approx(length(far), rel=0.05)


def test_a_loop_is_cut():
    t = np.linspace(0, 2 * np.pi, 800)
    ring = np.stack([10 * np.cos(t), 10 * np.sin(t), 0 * t], axis=1)
    mask, affine, _ = paint([(ring, 1.0)])
    tree = build_tree(mask, affine)
    assert tree.length_mm == pytest.approx(length(ring), rel=0.1)
    assert all(len(np.unique(branch.points_mm, axis=0)) == len(branch.points_mm) for branch in tree.branches)


def test_rough_walls_grow_no_branches():
    course = line((0, 0, 0), (40, 10, 10))
    mask, affine, _ = paint([(course, 1.5)], (0.4, 0.4, 0.4))
    wall = mask ^ (np.roll(mask, 1, 0) & np.roll(mask, -1, 1) & np.roll(mask, 1, 2))
    rough = mask & ~(wall & (np.random.default_rng(0).random(mask.shape) < 0.3))
    assert len(build_tree(rough, affine).branches) == 1


def checks_out(tree: Tree) -> None:
    json.dumps(tree.to_dict(), allow_nan=False)
    assert len(tree.to_rows()) == len(tree.branches)
    for number, branch in enumerate(tree.branches):
        assert branch.id == number
        assert branch.parent is None or branch.parent < number
        assert branch.points_mm.shape == (len(branch.diameter_mm), 3)
        assert np.isfinite(branch.points_mm).all()
        assert (branch.diameter_mm > 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1), shape=st.tuples(*[st.integers(1, 14)] * 3))
def test_no_mask_is_too_odd(seed, density, shape):
    mask = np.random.default_rng(seed).random(shape) < density
    tree = build_tree(mask, np.diag([-0.4, 0.5, 0.6, 1]))
    checks_out(tree)
    assert sum(tree.volume_mm3.values()) == pytest.approx(mask.sum() * 0.12)


@pytest.mark.parametrize("kind", ["empty", "voxel", "ball", "plate", "full", "specks"])
def test_masks_that_are_no_vessels(kind):
    mask = np.zeros((40, 40, 40), bool)
    if kind == "voxel":
        mask[5, 5, 5] = True
    elif kind == "ball":
        mask = ((np.indices(mask.shape) - 20) ** 2).sum(0) < 150
    elif kind == "plate":
        mask[:, :, 20] = True
    elif kind == "full":
        mask[:] = True
    elif kind == "specks":
        mask[::3, ::3, ::3] = True
    tree = build_tree(mask, np.eye(4))
    checks_out(tree)
    if kind in ("empty", "voxel", "specks"):
        assert tree.branches == ()


def test_what_is_too_large_for_arteries_is_not_traced():
    tree = build_tree(np.ones((50, 50, 50), bool), np.diag([1, 1, 1, 1.0]))
    assert tree.branches == ()
    assert any("125 ml cannot be a coronary tree" in note for note in tree.notes)


def segmentation(labels, affine, names):
    return Segmentation(labels.astype(np.uint8), affine, names, Source(Grid(labels.shape, affine)))


def test_measure_keeps_the_sides_it_is_given(heart):
    _, affine, truth = heart
    swapped = np.array([0, 4, 4, 4, 7])[truth]
    tree = measure(segmentation(swapped, affine, {0: "background", 4: "RCA", 7: "LCA"}))
    assert [branch.side for branch in tree.branches] == ["LCA", "RCA", "RCA"]


def test_measure_leaves_a_third_label_a_tree_of_its_own(heart):
    _, affine, truth = heart
    tree = measure(segmentation(np.array([0, 1, 1, 0, 3])[truth], affine, {1: "LCA", 2: "RCA", 3: "unassigned artery"}))
    assert {branch.side for branch in tree.branches} == {"LCA", "unknown"}
    assert "neither LCA nor RCA" in tree.notes[0]


def test_measure_tells_the_sides_of_a_plain_mask(heart):
    mask, affine, _ = heart
    tree = measure(segmentation(mask, affine, {0: "background", 1: "coronary artery"}))
    assert [row["side"] for row in tree.to_rows()] == ["LCA", "LCA", "RCA"]


def test_json_and_rows(heart):
    mask, affine, _ = heart
    tree = build_tree(mask, affine)
    result = json.loads(json.dumps(tree.to_dict()))
    assert result["schema_version"] == 1
    assert result["coordinates"] == "RAS mm"
    assert result["volume_mm3"].keys() == {"LCA", "RCA"}
    assert len(result["branches"][0]["points_mm"]) == len(result["branches"][0]["diameter_mm"])
    assert result["branches"][1]["parent"] == 0
    assert result["length_mm"] == pytest.approx(sum(row["length_mm"] for row in tree.to_rows()), abs=0.1)
