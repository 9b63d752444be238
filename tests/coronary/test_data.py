import os
import warnings
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from imagecas import noise_case, write_case

from coronary.augment import STILL, draw_warp
from coronary.cache import cache_case, prepare
from coronary.config import Config, HuWindow, Loss, Preprocessing, Sampling, ZScore
from coronary.data import Patches, corner, cut
from shared.sliding_window import _padding
from shared.training_data import Consecutive, batches
from shared.training_settings import TrainingSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monai_utils = pytest.importorskip("monai.transforms.utils", exc_type=ImportError)
    from monai.transforms import RandCropByPosNegLabel

PATCH = (12, 14, 10)
WINDOW = Preprocessing(normalisation=HuWindow())


def config(**sampling):
    return Config(preprocessing=WINDOW, sampling=Sampling(patch=PATCH, **sampling))


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return prepare([noise_case(folder, name) for name in "abcde"], WINDOW, folder / "cache", workers=1)


@pytest.mark.parametrize("augment", ["none", "reference", "scanner"])
def test_an_item_is_a_function_of_seed_and_index(cached, augment):
    first, again = Patches(cached, config(augment=augment)), Patches(cached, config(augment=augment))
    other = Patches(cached, config(augment=augment).model_copy(update={"training": TrainingSettings(seed=1)}))
    wanted = [first[i] for i in range(12)]
    for i in reversed(range(12)):
        item = again[i]
        assert item["case"] == wanted[i]["case"]
        for key in ("image", "label"):
            assert torch.equal(item[key], wanted[i][key])
        assert item["image"].shape == (1, *PATCH)
        assert item["label"].shape == (2, *PATCH)
        assert item["image"].dtype == item["label"].dtype == torch.float32
        assert torch.allclose(item["label"].sum(0), torch.ones(PATCH))
        assert "skeleton" not in item
    assert any(not torch.equal(other[i]["image"], wanted[i]["image"]) for i in range(12))


@pytest.mark.parametrize("per_case", [1, 4])
def test_a_pass_takes_every_case_in_turn_in_an_order_of_its_own(cached, per_case):
    patches = Patches(cached, config(patches_per_case=per_case))
    count = len(cached) * per_case
    orders = []
    for number in range(4):
        names = [patches.case_of(number * count + i).name for i in range(count)]
        assert set(Counter(names).values()) == {per_case}
        assert names == [name for name in names[::per_case] for _ in range(per_case)]
        orders.append(tuple(names))
    assert len(set(orders)) > 1
    assert patches[3]["case"] == patches.case_of(3).name


@given(
    shape=st.tuples(*[st.integers(4, 40)] * 3),
    size=st.tuples(*[st.integers(1, 40)] * 3),
    at=st.tuples(*[st.floats(0, 0.999)] * 3),
)
def test_a_patch_is_moved_inside_as_monai_moves_it(shape, size, at):
    centre = np.floor(np.array(shape) * at).astype(int)
    start = corner(centre, shape, size)
    fits = np.array(size) <= shape
    inside = np.minimum(size, shape)
    monais = np.array(monai_utils.correct_crop_centers(centre.tolist(), inside.tolist(), shape)) - inside // 2
    assert np.array_equal(start[fits], monais[fits])
    for axis in np.flatnonzero(~fits):  # prediction pads a small scan in the same way
        assert -start[axis] == _padding(shape[axis], size[axis])[0]
    array = np.arange(np.prod(shape)).reshape(shape)
    patch = cut(array, start, size, -1)
    assert patch.shape == size
    assert patch[tuple(centre - start)] == array[tuple(centre)]
    assert (patch == -1).sum() == np.prod(size) - np.prod(inside)


def test_positives_and_negatives_are_drawn_as_monai_draws_them(cached):
    """Shares of centres on lumen, and where the patches lie, over many draws from one case."""
    draws, case = 3000, cached[0]
    label = (np.asarray(case.occupancy) >= 128)[None]
    monai = RandCropByPosNegLabel(PATCH, label, pos=1, neg=1, num_samples=draws)
    monai.set_random_state(0)
    monai.randomize(label)
    monais = np.array([np.array(centre) - np.array(PATCH) // 2 for centre in monai.centers])

    patches = Patches([case], config(positive_fraction=0.5))
    centres = [patches._centre(case, case.occupancy, np.random.default_rng(i)) for i in range(draws)]
    ours = np.array([corner(centre, label.shape[1:], PATCH) for centre in centres])
    on_lumen = np.mean([label[0][tuple(centre)] for centre in centres])
    assert on_lumen == pytest.approx(0.5, abs=0.04)
    for axis in range(3):
        room = label.shape[axis + 1] - PATCH[axis] + 1
        shares = [np.bincount(starts[:, axis], minlength=room) / draws for starts in (ours, monais)]
        assert shares[0] == pytest.approx(shares[1], abs=0.04)
    held = [[label[0][tuple(slice(s, s + n) for s, n in zip(start, PATCH, strict=True))].any() for start in starts]
            for starts in (ours, monais)]  # fmt: skip
    assert np.mean(held[0]) == pytest.approx(np.mean(held[1]), abs=0.04)


def test_every_voxel_of_the_background_can_be_a_centre(tmp_path):
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    case = cache_case(write_case(tmp_path, "1", label.astype(np.int16), label), WINDOW, tmp_path / "cache")
    patches = Patches([case], config(positive_fraction=0.0))
    drawn = {tuple(patches._centre(case, case.occupancy, np.random.default_rng(i))) for i in range(4000)}
    assert drawn == {tuple(voxel) for voxel in np.argwhere(np.asarray(case.occupancy) < 128)}


def test_jitter_and_thin_vessels(tmp_path):
    label = np.zeros((40, 60, 40), np.uint8)
    label[8:14, 10:16, 4:-4] = 1
    label[30, 45, 4:-4] = 1
    case = write_case(tmp_path, "1", label.astype(np.int16), label, 0.5)
    cached = cache_case(case, Preprocessing(spacing_mm=(0.5, 0.5, 0.5), normalisation=HuWindow()), tmp_path / "cache")
    assert {tuple(xy) for xy in cached.thin[:, :2]} == {(30, 45)}

    def centres(**sampling):
        whole = config(positive_fraction=1.0, **sampling).model_copy(
            update={"preprocessing": Preprocessing(spacing_mm=(0.5, 0.5, 0.5), normalisation=HuWindow())}
        )
        patches = Patches([cached], whole)
        return np.array([patches._centre(cached, cached.occupancy, np.random.default_rng(i)) for i in range(2000)])

    assert np.mean(centres(distal_fraction=0.4)[:, 1] == 45) == pytest.approx(0.4 + 0.6 / 37, abs=0.04)
    assert (centres(distal_fraction=1.0)[:, :2] == (30, 45)).all()
    away = centres(distal_fraction=1.0, jitter_mm=2.0)[:, :2] - (30, 45)
    assert np.abs(away).max() == 4  # voxels of half a millimetre
    assert len(np.unique(away[:, 0])) == 9


def test_a_scan_smaller_than_the_patch_is_padded_as_prediction_pads(tmp_path):
    case = noise_case(tmp_path, "1", (10, 30, 10))
    for preprocessing, air in ((WINDOW, -1.0), (Preprocessing(normalisation=ZScore(pad_to=(1, 1, 1))), 0.0)):
        cached = cache_case(case, preprocessing, tmp_path / "cache")
        patches = Patches([cached], config().model_copy(update={"preprocessing": preprocessing}))
        item = patches[0]
        image, label = item["image"][0].numpy(), item["label"][1].numpy()
        assert (image[0] == air).all()
        assert (image[11] == air).all()
        assert (label[[0, 11]] == 0).all()
        assert np.array_equal(image[1:11].std() > 0, True)
        whole = np.asarray(cached.image, np.float32)
        assert any(np.array_equal(image[1:11], whole[:, y : y + 14, :]) for y in range(17))


@pytest.mark.parametrize("augment", ["none", "reference", "scanner"])
def test_the_skeleton_lies_where_the_label_does(tmp_path, augment):
    case = noise_case(tmp_path, "1", (40, 40, 40))
    cached = cache_case(case, WINDOW, tmp_path / "cache")
    settings = config(augment=augment, positive_fraction=1.0).model_copy(update={"loss": Loss(skeleton_recall=1.0)})
    patches = Patches([cached], settings)
    shares = []
    for i in range(40):
        item = patches[i]
        skeleton, lumen = item["skeleton"][0] > 0, item["label"][1]
        assert item["skeleton"].shape == (1, *PATCH)
        assert set(item["skeleton"].unique().tolist()) <= {0.0, 1.0}
        shares += lumen[skeleton].tolist()
    assert len(shares) > 1000
    assert np.mean(shares) > 0.85
    assert np.mean(np.array(shares) > 0) > 0.98


def test_a_warped_patch_shows_the_same_scan(tmp_path):
    """Image and label move together, and a field linear in place tells where every voxel was cut from."""
    shape = (50, 48, 46)
    place = sum(g * w for g, w in zip(np.indices(shape), (1, -2, 3), strict=True)).astype(np.int16)
    label = (place > 40).astype(np.uint8)
    cached = cache_case(write_case(tmp_path, "1", place, label), WINDOW, tmp_path / "cache")
    patches = Patches([cached], config(augment="reference", positive_fraction=0.0))
    moved = 0
    for i in range(60):
        rng = np.random.default_rng((0, 1, i))
        start = corner(patches._centre(cached, cached.occupancy, rng), shape, PATCH)
        warp = draw_warp("reference", rng)
        middle = (np.array(PATCH) - 1) / 2
        offsets = np.moveaxis(np.indices(PATCH), 0, -1) - middle
        seen = offsets @ warp.matrix.T + warp.shift + start + middle
        inside = ((seen >= 0) & (seen <= np.array(shape) - 1)).all(-1)
        wanted = seen @ np.array([1.0, -2.0, 3.0])
        share = patches[i]["label"][1].numpy()
        assert (share[inside & (wanted > 47)] > 0.99).all()
        assert (share[inside & (wanted < 34)] < 0.01).all()
        moved += not warp.is_flip
    assert moved > 20


def test_training_never_mirrors(tmp_path):
    """Law 12: a scan brighter to the right stays so, whatever was drawn."""
    ramp = np.broadcast_to(np.linspace(-200, 800, 40)[:, None, None], (40, 40, 40)).astype(np.int16)
    label = np.zeros(ramp.shape, np.uint8)
    label[18:22, 18:22, 18:22] = 1
    cached = cache_case(write_case(tmp_path, "1", ramp, label), WINDOW, tmp_path / "cache")

    def falls(augment):
        patches = Patches([cached], config(augment=augment))
        images = [patches[i]["image"][0] for i in range(60)]
        return sum(bool(image[:3].mean() > image[-3:].mean()) for image in images)

    assert falls("scanner") == 0
    assert falls("reference") > 5  # and the reference's mirrors are there


def settings(**training):
    return TrainingSettings(batch=2, **{"workers": 0} | training)


def some(patches, count, *words, **training):
    return list(islice(batches(patches, settings(**training), *words), count))


def same(one, other):
    assert list(one["case"]) == list(other["case"])
    assert torch.equal(one["image"], other["image"])
    assert torch.equal(one["label"], other["label"])


def test_workers_and_a_resumed_run_give_the_same_batches(cached):
    patches = Patches(cached, config(augment="scanner"))
    alone = some(patches, 5)
    for one, other in zip(alone, some(patches, 5, workers=2), strict=True):
        same(one, other)
    for one, other in zip(alone[3:], some(patches, 2, 3, workers=1), strict=True):
        same(one, other)


def test_ranks_share_out_what_one_process_sees(cached):
    patches = Patches(cached, config())
    whole = list(islice(batches(patches, TrainingSettings(batch=6, workers=0), 1), 3))
    ranks = [some(patches, 3, 1, rank, 3) for rank in range(3)]
    for step, batch in enumerate(whole):
        together = {key: torch.cat([rank[step][key] for rank in ranks]) for key in ("image", "label")} | {
            "case": [name for rank in ranks for name in rank[step]["case"]]
        }
        same(batch, together)


@limits(max_examples=30)
@given(batch=st.integers(1, 5), world=st.integers(1, 4), step=st.integers(0, 9))
def test_no_sample_is_seen_twice_and_none_is_left_out(batch, world, step):
    seen = [list(islice(Consecutive(batch, step, rank, world), 3 * batch)) for rank in range(world)]
    assert sorted(i for rank in seen for i in rank) == list(range(step * world * batch, (step + 3) * world * batch))


def test_the_networks_random_numbers_are_left_alone(cached):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    some(Patches(cached, config(augment="reference")), 2, workers=1)
    assert torch.equal(torch.rand(4), wanted)


class Memory(Patches):
    """Patches that tell how much memory of its own the process holds that makes them."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        with open("/proc/self/smaps_rollup") as file:  # noqa: PTH123
            sizes = dict(line.split()[:2] for line in file.readlines()[1:])
        own = int(sizes["Private_Dirty:"]) + int(sizes["Private_Clean:"])
        return {"case": item["case"], "kilobytes": own, "process": os.getpid()}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's /proc")  # noqa: PTH110
def test_a_workers_memory_does_not_grow_with_the_cases(tmp_path):
    """Two workers go through 24 cases of 3 MB; what is theirs alone stays within a few of them."""
    case = noise_case(tmp_path, "1", (100, 100, 100))
    cached = cache_case(case, WINDOW, tmp_path / "cache")
    cases = []
    for i in range(24):
        folder = tmp_path / f"copy-{i}"
        folder.mkdir()
        for path in cached.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        cases.append(type(cached)(str(i), folder))
    patches = Memory(cases, config(patches_per_case=1))
    seen = some(patches, 36, workers=2)
    names = {name for batch in seen for name in batch["case"]}
    assert len(names) == 24
    for process in {int(p) for batch in seen for p in batch["process"]}:
        used = [int(batch["kilobytes"].max()) for batch in seen if int(batch["process"][0]) == process]
        assert max(used[4:]) - min(used[:4]) < 12_000


def test_nothing_is_still_when_nothing_moves():
    assert STILL.is_flip
