"""Training samples: the same for the same seed, boxes where the picture has them, copies only of what is trained on."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

import bones.data
from bones.augment import MIRRORS, Mirror, Window
from bones.cases import Case
from bones.config import Config
from bones.data import BoneMasks, Fractures, collate, prepare, read_masks
from bones.formats.rle import encode
from shared.config import apply_preset

BASE = apply_preset(Config(), {"detector": {"kind": "yolo", "size_px": 64}, "gate": {"size_px": 32}})


def configured(**sampling):
    return apply_preset(BASE, {"sampling": sampling})


def write_case(folder, number, boxes, size=(60, 40)):
    """A dark picture, bright in its boxes."""
    grey = np.full(size[::-1], 30, np.uint8)
    for x1, y1, x2, y2 in boxes:
        grey[y1:y2, x1:x2] = 220
    path = folder / f"{number}.png"
    Image.fromarray(grey).save(path)
    outlines = tuple((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32),) for x1, y1, x2, y2 in boxes)
    return Case(
        path.name, path, *size, np.array(boxes, np.float32).reshape(-1, 4), ("fracture",) * len(boxes), outlines
    )


@pytest.fixture
def cases(tmp_path):
    return [
        write_case(tmp_path, 1, [(10, 5, 30, 20)]),
        write_case(tmp_path, 2, [(40, 20, 55, 36), (3, 3, 12, 30)]),
        write_case(tmp_path, 3, []),
    ]


def same(one, other):
    return all(
        torch.equal(one[name], other[name]) if isinstance(one[name], torch.Tensor) else one[name] == other[name]
        for name in one
    )


def test_a_sample_is_a_function_of_seed_and_index(cases, tmp_path):
    prepared = prepare(cases, tmp_path / "cache", 1024)
    config = configured(augment="best", small_object_crops=0.5)
    one, other = Fractures(prepared, config), Fractures(prepared, config)
    torch.manual_seed(1)
    first = [one[index] for index in range(9)]
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert all(same(first[index], other[index]) for index in reversed(range(9)))
    assert torch.equal(before, torch.random.get_rng_state())  # the network's own numbers are left alone
    seeded = Fractures(prepared, apply_preset(config, {"training": {"seed": 1}}))
    assert not all(torch.equal(first[index]["image"], seeded[index]["image"]) for index in range(9))


def test_each_pass_has_every_picture_once_in_an_order_of_its_own(cases, tmp_path):
    samples = Fractures(prepare(cases, tmp_path / "cache", 1024), configured())
    passes = [[samples[index]["case"] for index in range(start, start + 3)] for start in range(0, 30, 3)]
    assert all(sorted(names) == ["1.png", "2.png", "3.png"] for names in passes)
    assert len({tuple(names) for names in passes}) > 2


def test_upsampling_has_each_training_picture_four_times_and_no_other(cases, tmp_path):
    """The reference made the copies before its split; here there is nothing to hold out that they are copies of."""
    training = prepare(cases[:2], tmp_path / "cache", 1024)
    samples = Fractures(training, configured(upsample="flips"))
    assert samples.pictures == 8
    names = [samples[index]["case"] for index in range(8)]
    assert sorted(names) == ["1.png"] * 4 + ["2.png"] * 4
    copies = [samples[index]["image"] for index in range(8) if names[index] == "1.png"]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(copies, 2))


def bright(image):
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@given(st.data())
def test_mirrors_take_boxes_along_exactly(data):
    width, height = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    image = torch.zeros(1, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 1
    boxes = tv_tensors.BoundingBoxes([[x1, y1, x2, y2]], format="XYXY", canvas_size=(height, width))
    mirror = Mirror(*data.draw(st.sampled_from(MIRRORS)))
    turned, moved = mirror(tv_tensors.Image(image), boxes)
    assert moved.tolist() == [bright(turned[0].numpy())]
    back, there = mirror(turned, moved)
    assert torch.equal(back, image)
    assert there.tolist() == [[x1, y1, x2, y2]]


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.2, 1))
@settings(max_examples=60)
def test_windows_take_boxes_along(seed, about_box, share):
    box = [40, 30, 90, 60]
    image = torch.zeros(1, 120, 160)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    boxes = tv_tensors.BoundingBoxes([box], format="XYXY", canvas_size=(120, 160))
    window = Window(share, 64, about_box)
    torch.manual_seed(seed)
    place = window.make_params([tv_tensors.Image(image), boxes])
    cut, moved = (window.transform(one, place) for one in (tv_tensors.Image(image), boxes))
    assert cut.shape == (1, 64, 64)
    centre = (65 - place["left"], 45 - place["top"])
    inside = 0 < centre[0] < place["width"] and 0 < centre[1] < place["height"]
    assert inside or moved.tolist() == [[0, 0, 0, 0]]
    assert inside or about_box < 1
    if inside:
        np.testing.assert_allclose(moved.tolist()[0], bright(cut[0].numpy() > 127), atol=1.5)


@pytest.mark.parametrize("sampling", [{}, {"window_px": 48}, {"small_object_crops": 1.0}])
def test_boxes_stay_on_what_they_are_about(cases, tmp_path, sampling):
    samples = Fractures(prepare(cases[:2], tmp_path / "cache", 1024), configured(augment="best", **sampling))
    seen = 0
    for index in range(30):
        sample = samples[index]
        side = sampling.get("window_px", 64)
        assert sample["image"].shape == (1, side, side)
        assert sample["image"].min() >= 0
        assert sample["image"].max() <= 1
        for x1, y1, x2, y2 in sample["boxes"].tolist():
            assert 0 <= x1 < x2 <= side
            assert 0 <= y1 < y2 <= side
            inside = sample["image"][0, round(y1 + 1) : round(y2 - 1), round(x1 + 1) : round(x2 - 1)]
            if inside.numel():
                seen += 1
                assert inside.mean() > sample["image"].mean()
        assert len(sample["labels"]) == len(sample["boxes"])
    assert seen > 15


def test_without_augmentation_boxes_are_scaled_and_nothing_else(cases, tmp_path):
    samples = Fractures(prepare(cases[:1], tmp_path / "cache", 1024), configured())
    np.testing.assert_allclose(samples[0]["boxes"].numpy(), [[10 / 60 * 64, 8, 32, 32]], atol=1e-5)


def test_pictures_are_read_once_and_anew_when_they_change(cases, tmp_path, monkeypatch):
    read = []
    original = bones.data.read_radiograph
    monkeypatch.setattr(bones.data, "read_radiograph", lambda path: (read.append(path.name), original(path))[1])
    cache = tmp_path / "cache"
    first = prepare(cases, cache, 1024)
    assert len(read) == 3
    assert prepare(cases, cache, 1024).files == first.files
    assert len(read) == 3
    before = cases[0].picture.stat()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(cases[0].picture)
    os.utime(cases[0].picture, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    prepare(cases, cache, 1024)
    assert read[3:] == ["1.png"]
    smaller = prepare(cases, cache, 30)
    assert [np.load(file).shape for file in smaller.files] == [(20, 30)] * 3
    samples = Fractures(smaller, configured())
    found = {sample["case"]: sample["boxes"] for sample in map(samples.__getitem__, range(3))}
    np.testing.assert_allclose(found["1.png"].numpy(), [[10 / 60 * 64, 8, 32, 32]], atol=1e-5)


def test_masks_of_bone_and_of_each_box(cases, tmp_path):
    cache = tmp_path / "cache"
    each = prepare(cases, cache, 1024, masks="instances").masks
    assert [read_masks(mask).shape for mask in each] == [(1, 40, 60), (2, 40, 60), (0, 40, 60)]
    assert bright(read_masks(each[1])[1]) == [3, 3, 12, 30]
    runs = Case("1.png", cases[0].picture, 60, 40, cases[0].boxes, ("bone",), (encode(read_masks(each[0])[0] > 0),))
    assert np.array_equal(read_masks(prepare([runs], cache, 1024, masks="bone").masks[0]), read_masks(each[0]))

    smaller = prepare([runs], cache, 30, masks="bone").masks[0]
    assert bright(read_masks(smaller)[0]) == [5, 2, 15, 10]

    config = configured(augment="best")
    samples = BoneMasks(prepare([runs, replace(runs, outlines=None)], cache, 1024, masks="bone"), config)
    batch = collate([samples[0], samples[1]])
    assert batch["image"].shape == batch["mask"].shape == (2, 1, 32, 32)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}


def test_a_batch_keeps_each_pictures_targets_apart(cases, tmp_path):
    prepared = prepare(cases, tmp_path / "cache", 1024, masks="instances")
    batch = collate([Fractures(prepared, configured())[index] for index in range(3)])
    counts = {name: len(target["boxes"]) for name, target in zip(batch["case"], batch["targets"], strict=True)}
    assert counts == {"1.png": 1, "2.png": 2, "3.png": 0}
    assert all(len(target["masks"]) == len(target["boxes"]) for target in batch["targets"])


def test_what_is_dropped_takes_its_label_and_mask_along(cases, tmp_path):
    config = configured(augment="best", window_px=32)
    samples = Fractures(prepare(cases[1:2], tmp_path / "cache", 1024, masks="instances"), config)
    kept = [len(samples[index]["boxes"]) for index in range(20)]
    assert min(kept) < 2
    for index in range(20):
        sample = samples[index]
        assert len(sample["labels"]) == len(sample["masks"]) == len(sample["boxes"])
