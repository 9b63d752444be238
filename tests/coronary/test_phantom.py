import cc3d
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coronary import phantom_tree
from coronary.phantom import PhantomConfig, _person, make_phantom, write_dataset, write_phantom
from coronary.phantom_anatomy import Anatomy, Pose
from coronary.phantom_render import Tubes, paint_vessels
from coronary.phantom_scan import Scan
from shared.errors import SetupError

CLEAN = {"difficulty": 0.0, "noise_hu": (0.5, 0.5), "blur_fwhm_mm": (0.6, 0.6)}
WHOLE = PhantomConfig(shape=(150, 150, 144), spacing_mm=(0.8, 0.8, 0.8), **CLEAN)
SMALL = PhantomConfig(shape=(40, 44, 36), spacing_mm=(1.2, 1.2, 1.5))


@pytest.fixture(scope="module")
def whole():
    return make_phantom(WHOLE, 3)


def voxel_of(phantom, points_mm):
    index = np.rint((points_mm - phantom.volume.affine[:3, 3]) / phantom.volume.spacing_mm).astype(int)
    return index, ((index >= 0) & (index < phantom.labels.shape)).all(1)


def test_same_config_and_seed_give_the_same_voxels():
    first, other = make_phantom(SMALL, 5), make_phantom(SMALL, 3)
    _person.cache_clear()
    again = make_phantom(SMALL, 5)
    assert np.array_equal(first.volume.array, again.volume.array)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_two_trees_are_two_components(whole):
    for label in (1, 2):
        assert cc3d.connected_components((whole.labels == label).astype(np.uint8), return_N=True)[1] == 1
    assert cc3d.connected_components((whole.labels > 0).astype(np.uint8), return_N=True)[1] == 2


def test_centrelines_lie_in_their_own_tree(whole):
    for line in whole.centrelines:
        index, held = voxel_of(whole, line.points_mm)
        found = whole.labels[tuple(index[held].T)]
        assert np.mean(found == (1 if line.name == "LCA" else 2)) > 0.97  # an ostium's first voxel may be the aorta's


def test_branches_start_on_their_parents_and_taper(whole):
    for line in whole.centrelines:
        assert np.all(np.linalg.norm(np.diff(line.points_mm, axis=0), axis=1) < 1.0)
        if line.parent is None:
            assert 1.0 < line.radius_mm[:10].mean() < 2.8
        else:
            parent = whole.centrelines[line.parent]
            assert parent.name == line.name
            assert np.linalg.norm(parent.points_mm - line.points_mm[0], axis=1).min() < 0.6
            assert line.radius_mm[-4:].mean() <= line.radius_mm[:4].mean() + 0.1


def test_left_tree_is_left_of_the_right_one(whole):
    start = {line.name: line.points_mm[0] for line in whole.centrelines if line.parent is None}
    assert start["LCA"][0] < start["RCA"][0]
    assert {line.branch for line in whole.centrelines} >= {"LM", "LAD", "LCx", "RCA"}


def test_lumen_is_as_bright_as_its_blood_and_its_surroundings_are_not(whole):
    blood = whole.facts["blood_hu"]["coronary"]
    wide = [line for line in whole.centrelines if line.radius_mm[0] > 1.4]
    index = np.concatenate([voxel_of(whole, line.points_mm[line.radius_mm > 1.3])[0] for line in wide])
    inside = whole.volume.array[tuple(index.T)]
    assert 0.75 * blood < np.median(inside) < 1.05 * blood


@pytest.mark.parametrize(
    ("spacing_mm", "tolerance"), [((0.3, 0.3, 0.3), 0.02), ((0.5, 0.7, 0.4), 0.04), ((0.9, 0.8, 1.2), 0.1)]
)
@pytest.mark.parametrize("radius_mm", [0.7, 1.6])
def test_a_tube_keeps_its_volume_and_its_light_on_any_grid(spacing_mm, tolerance, radius_mm):
    ends = np.array([[-9.0, -4.3, -6.1], [8.2, 5.1, 7.4]])
    axes = [np.arange(-14, 14, s).astype(np.float32) for s in spacing_mm]
    shape = tuple(map(len, axes))
    hu, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    tube = Tubes.of_paths([(ends, np.full(2, radius_mm), 400.0, 2)])
    paint_vessels(hu, labels, axes, np.array(spacing_mm), {"lumen": tube})
    truth = np.pi * radius_mm**2 * (np.linalg.norm(ends[1] - ends[0]) + 4 / 3 * radius_mm)
    assert hu.sum() / 400 * np.prod(spacing_mm) == pytest.approx(truth, rel=max(tolerance, 0.03))
    if radius_mm > max(
        spacing_mm
    ):  # a thinner tube fills half of too few voxels; the centreline's voxels make up for it
        assert (labels == 2).sum() * np.prod(spacing_mm) == pytest.approx(truth, rel=tolerance)
    assert set(np.unique(labels)) <= {0, 2}


def test_calcium_stays_out_of_the_lumen():
    axes = [np.arange(-5, 5, 0.3, dtype=np.float32)] * 3
    ends = np.array([[-9.0, 0, 0], [9.0, 0, 0]])
    lumen = Tubes.of_paths([(ends, np.full(2, 1.5), 300.0, 1)])
    stone = Tubes.of_paths([(np.array([[-1.0, 1.5, 0], [1.0, 1.5, 0]]), np.full(2, 1.0), 1200.0, 0)])
    hu, labels = (np.zeros((34,) * 3, t) for t in (np.float32, np.uint8))
    paint_vessels(hu, labels, axes, np.full(3, 0.3), {"lumen": lumen, "calcium": stone})
    bare = np.zeros_like(labels)
    paint_vessels(np.zeros_like(hu), bare, axes, np.full(3, 0.3), {"lumen": lumen})
    assert np.array_equal(labels, bare)
    assert hu.max() > 1000
    assert np.median(hu[labels > 0]) == pytest.approx(300)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["RAS", "LPS", "SRA", "PIR", "ILA"]),
    st.tuples(*[st.sampled_from([0.8, 1.1, 1.5])] * 3),
    st.tuples(*[st.integers(50, 60)] * 3),
)
def test_one_seed_is_one_scene_on_every_grid(whole, orientation, spacing_mm, shape):
    phantom = make_phantom(PhantomConfig(shape=shape, spacing_mm=spacing_mm, orientation=orientation, **CLEAN), 3)
    reference = whole
    assert nib.aff2axcodes(phantom.volume.source.grid.affine) == tuple(orientation)
    for line, same in zip(phantom.centrelines, reference.centrelines, strict=True):
        assert np.array_equal(line.points_mm, same.points_mm)
    # Away from edges, a voxel of one grid and the nearest of the other show the same HU.
    axes = [np.arange(n) for n in shape]
    mm = np.stack(np.meshgrid(*axes, indexing="ij"), -1) * spacing_mm + phantom.volume.affine[:3, 3]
    index, held = voxel_of(reference, mm.reshape(-1, 3))
    ours, theirs = phantom.volume.array.ravel()[held], reference.volume.array[tuple(index[held].T)]
    assert np.median(np.abs(ours - theirs)) < 12
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


@pytest.mark.parametrize("orientation", ["LPS", "SAR"])
def test_imagecas_layout_reads_back(tmp_path, orientation):
    phantom = make_phantom(SMALL.model_copy(update={"orientation": orientation}), 5)
    image, label = write_phantom(phantom, tmp_path, 12)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "12.centrelines.csv", "12.img.nii.gz", "12.label.nii.gz", "12.tree.nii.gz"
    ]  # fmt: skip
    stored = nib.load(image)
    assert stored.get_data_dtype() == np.int16
    assert nib.aff2axcodes(stored.affine) == tuple(orientation)
    assert np.allclose(stored.affine, phantom.volume.source.grid.affine, atol=1e-4)
    back = nib.as_closest_canonical(stored)
    assert np.allclose(back.affine, phantom.volume.affine, atol=1e-3)
    assert np.abs(back.get_fdata() - phantom.volume.array).max() <= 0.5
    mask = nib.as_closest_canonical(nib.load(label))
    assert np.array_equal(np.asarray(mask.dataobj), phantom.labels > 0)
    assert phantom.labels.any()
    tree = nib.as_closest_canonical(nib.load(tmp_path / "12.tree.nii.gz"))
    assert np.array_equal(np.asarray(tree.dataobj), phantom.labels)
    rows = (tmp_path / "12.centrelines.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(line.points_mm) for line in phantom.centrelines)


def test_a_data_sets_cases_differ_and_do_not_depend_on_their_company(tmp_path):
    heard = []
    assert write_dataset(tmp_path / "a", 2, 1, SMALL, on_case=heard.append) == [1, 2]
    assert heard == [1, 2]
    assert write_dataset(tmp_path / "b", 1, 1, SMALL, first_id=2) == [2]
    first, second, same = (tmp_path / name for name in ("a/1.img.nii.gz", "a/2.img.nii.gz", "b/2.img.nii.gz"))
    assert second.read_bytes() == same.read_bytes()
    assert first.read_bytes() != second.read_bytes()


def test_without_contrast_no_blood_is_bright():
    config = SMALL.model_copy(update={"contrast": False, **CLEAN})
    phantom = make_phantom(config, 5)
    blood = phantom.facts["blood_hu"]
    assert max(blood.values()) < 70
    soft = phantom.volume.array[(np.abs(phantom.volume.array) < 400)]
    assert np.percentile(soft, 99) < 90
    assert phantom.labels.any()  # the arteries are there, only unseen


def test_asked_for_stenoses_narrow_the_lumen():
    config = SMALL.model_copy(update={"difficulty": 0.0, "stenoses": 3})
    phantom = make_phantom(config, 5)
    assert len(phantom.facts["stenoses"]) == 3
    for stenosis in phantom.facts["stenoses"]:
        line = phantom.centrelines[stenosis["branch"]]
        k = np.argmin(np.linalg.norm(line.points_mm - stenosis["at_mm"], axis=1))
        narrowing = 100 * (1 - line.radius_mm[k] / line.wall_radius_mm[k])
        assert narrowing >= min(stenosis["percent"], 75) - 1


def test_a_step_shifts_scan_and_truth_together():
    scan = Scan(1, (0.6, 0.6), 1, 0, ((10.0, 1.5, 0.0), (40.0, 0.0, -1.0)))
    assert np.array_equal(scan.shift_mm(np.array([0.0, 20, 50])), [[0, 0, 0], [1.5, 0, 0], [0, -1, 0]])
    config = PhantomConfig(shape=(120, 120, 110), spacing_mm=(1.0, 1.0, 1.0), noise_hu=(0.5, 0.5))
    stepped = make_phantom(config, 107)
    assert stepped.facts["scan"]["steps_mm"]
    for label in (1, 2):
        assert cc3d.connected_components((stepped.labels == label).astype(np.uint8), return_N=True)[1] == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.tuples(*[st.floats(-90, 90)] * 3), min_size=1, max_size=5))
def test_pose_has_an_inverse(seed, points):
    pose = Pose.random(np.random.default_rng(seed))
    assert np.allclose(pose.to_heart(pose.to_scene(np.array(points))), points, atol=1e-3)


def test_arteries_run_outside_muscle_and_trees_keep_apart():
    rng = np.random.default_rng(11)
    anatomy = Anatomy(rng)
    tree = phantom_tree.grow(anatomy, rng)
    for line in tree:
        distance, _ = anatomy.clearance(line.points_mm)
        assert np.all((distance - line.radius_mm)[12:] > -2)
        assert np.median(distance - line.radius_mm) < 3
    left = np.vstack([line.points_mm for line in tree if line.name == "LCA"])
    right = np.vstack([line.points_mm for line in tree if line.name == "RCA"])
    assert np.linalg.norm(left[:, None] - right, axis=-1).min() > 2


def test_missing_samples_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_tree, "SAMPLES", tmp_path)
    phantom_tree.real_windings.cache_clear()
    _person.cache_clear()
    with pytest.raises(SetupError, match="lca.csv"):
        make_phantom(SMALL, 1)


@pytest.mark.parametrize(
    "bad", [{"orientation": "LPX"}, {"orientation": "LLS"}, {"shape": (0, 9, 9)}, {"spacing_mm": (1, -1, 1)}]
)
def test_a_config_that_cannot_be_is_refused(bad):
    with pytest.raises(ValidationError):
        PhantomConfig(**bad)
