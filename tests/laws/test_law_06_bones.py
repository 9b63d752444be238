"""Law 6 for radiographs: no patient, copy or flip of a picture is on two sides, whichever split was asked for."""

import json
from collections.abc import Sequence
from pathlib import Path

import bone_sets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from bones.cases import Case, find_cases
from bones.config import Config
from bones.splitting import Split, fingerprint_cases, read_parts, split_cases
from shared.errors import SetupError
from shared.splits import Fingerprint, fingerprint, near_duplicates

PARTS = ("training", "validation", "test")
FLIPS = {"h": np.s_[:, ::-1], "v": np.s_[::-1], "hv": np.s_[::-1, ::-1]}


def config(seed: int = 0, fraction: float = 0.25) -> Config:
    return Config(validation_fraction=fraction, training={"seed": seed})


def parts_of(split: Split) -> dict[str, list[str]]:
    return {part: [case.name for case in getattr(split, part)] for part in PARTS}


def cases_of(count: int, patients: Sequence[str | None] = (), part: Sequence[str | None] = ()) -> list[Case]:
    """Cases whose pictures are not there: their fingerprints are given."""
    box = np.array([[1, 1, 9, 9]], np.float32)
    return [
        Case(f"p{k:03d}.png", Path(f"p{k:03d}.png"), 60, 40, box if k % 3 else box[:0], ("fracture",) * min(k % 3, 1),
             patient=patients[k] if patients else None, part=part[k] if part else None)
        for k in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """A set that was made four times larger by flips before anybody split it, as the reference's was."""
    folder = tmp_path_factory.mktemp("flipped")
    labels = {}
    for seed in range(8):
        labels[f"train/{seed}"] = bone_sets.yolo_line((5, 5, 20, 20), 120, 90) if seed % 4 else ""
    bone_sets.yolo(folder, labels, width=120, height=90)
    for path in sorted((folder / "train" / "images").glob("*.png")):
        shown = np.asarray(Image.open(path))
        for name, turn in FLIPS.items():
            Image.fromarray(shown[turn]).save(path.with_stem(f"{path.stem}-{name}"))
            (folder / "train" / "labels" / f"{path.stem}-{name}.txt").write_text("")
    return find_cases(folder)


@pytest.fixture(scope="module")
def looks(flipped: list[Case]) -> dict[str, Fingerprint]:
    return fingerprint_cases(flipped)


@limits(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.05, 0.9))
def test_flips_made_before_the_split_stay_with_their_picture(flipped, looks, seed: int, fraction: float) -> None:
    split = split_cases(flipped, config(seed, fraction), fingerprints=looks)
    assert len(flipped) == 32
    sides = [{case.name[13] for case in split.part(part)} for part in ("training", "validation")]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set("01234567")
    assert len(split.training) + len(split.validation) == 32
    assert len(split.training) % 4 == 0


def test_the_four_flips_of_pictures_are_in_the_training_part_alone(flipped: list[Case], tmp_path: Path) -> None:
    """Upsampling multiplies what the split gave for training; nothing of it resembles what was held out."""
    from bones.data import Fractures, prepare

    originals = [case for case in flipped if "-" not in case.name]
    settings = Config(sampling={"upsample": "flips"}, validation_fraction=0.25, detector={"size_px": 272})
    split = split_cases(originals, settings)
    assert split.validation
    samples = Fractures(prepare(split.training, tmp_path, 120, 1), settings)
    assert samples.pictures == 4 * len(split.training)
    seen = [samples[index] for index in range(samples.pictures)]
    assert {one["case"] for one in seen} == {case.name for case in split.training}
    each = {name: {one["image"].numpy().tobytes() for one in seen if one["case"] == name}
            for name in (case.name for case in split.training)}  # fmt: skip
    assert all(len(different) == 4 for different in each.values())
    held_out = fingerprint_cases(split.validation)
    shown = {f"{k}": fingerprint(one["image"][0].numpy().astype(np.float32)) for k, one in enumerate(seen)}
    names = [*held_out, *shown]
    pairs = near_duplicates([{**held_out, **shown}[name] for name in names])
    assert not [pair for pair in pairs if pair[0] < len(held_out) <= pair[1]]


@given(data=st.data(), seed=st.integers(0, 2**32 - 1), count=st.integers(2, 40))
def test_patients_never_cross(data: st.DataObject, seed: int, count: int) -> None:
    patients = data.draw(st.lists(st.sampled_from([None, *"abcdef"]), min_size=count, max_size=count))
    part = data.draw(st.lists(st.sampled_from([None, *PARTS]), min_size=count, max_size=count))
    cases = cases_of(count, patients, part)
    split = split_cases(cases, config(seed), fingerprints={})
    sides = parts_of(split)
    if any("are one group" in note for note in split.notes):  # the one exception, and it is said
        assert sides["training"] == sides.pop("validation")
        assert len({split.groups[name] for name in sides["training"]}) == 1
    for patient in "abcdef":
        own = {case.name for case in cases if case.patient == patient}
        assert sum(bool(own & set(names)) for names in sides.values()) <= 1
    assert sorted(name for names in sides.values() for name in names) == [case.name for case in cases]


def test_a_published_split_that_leaks_is_mended_and_says_what_moved() -> None:
    part = ["training"] * 6 + ["validation"] * 2 + ["test"] * 2
    patients = ["a", "b", "c", "d", "e", "f", "a", "g", "b", "h"]
    split = split_cases(cases_of(10, patients, part), fingerprints={})
    assert parts_of(split) == {
        "training": ["p002.png", "p003.png", "p004.png", "p005.png"],
        "validation": ["p000.png", "p006.png", "p007.png"],
        "test": ["p001.png", "p008.png", "p009.png"],
    }
    (note,) = split.notes
    assert note == (
        "the data set's split leaks: 2 groups of one patient or near-duplicates cross it; 2 pictures moved, such as "
        "p000.png from training to validation"
    )


def test_a_split_that_does_not_leak_is_kept_to_the_letter() -> None:
    part = ["training"] * 3 + ["validation", "test"] * 2
    split = split_cases(cases_of(7, list("abcdefg"), part), fingerprints={})
    assert split.notes == ()
    assert [len(names) for names in parts_of(split).values()] == [3, 2, 2]


@pytest.mark.parametrize("given", ["own", "lists"])
def test_fracatlas_official_split_is_kept_and_normals_are_in_every_part(tmp_path: Path, given: str) -> None:
    cases = find_cases(bone_sets.fracatlas(tmp_path / "data"))
    lists = bone_sets.official_split(tmp_path / "lists") if given == "lists" else None
    split = split_cases(cases, config(), lists)
    fractured = {
        part: [case.picture.stem for case in getattr(split, part) if case.fractured] for part in parts_of(split)
    }
    assert fractured == {
        "training": ["IMG0000019", "IMG0000025"], "validation": ["IMG0003733"], "test": ["IMG0003297"],
    }  # fmt: skip
    normal = [sum(not case.fractured for case in getattr(split, part)) for part in PARTS]
    assert normal == [4, 2, 2]
    assert any("8 pictures that the split does not name are spread over its parts" in note for note in split.notes)
    assert parts_of(split_cases(cases, config(), lists)) == parts_of(split)


def test_a_split_file_of_ones_own(tmp_path: Path) -> None:
    cases = cases_of(6, ["a", "b", "c", "d", "e", "a"])
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["p000.png", "p001.png"], "val": ["p002.png", "p005.png"], "test": ["gone"]}))
    split = split_cases(cases, config(), path, fingerprints={})
    assert parts_of(split) == {
        "training": ["p001.png"], "validation": ["p000.png", "p002.png", "p005.png"], "test": [],
    }  # fmt: skip
    assert [note.split(" ")[0] for note in split.notes] == ["2", "split.json"]
    assert "2 pictures that split.json does not name are left out, such as p003.png" in split.notes[0]


def test_what_a_split_without_training_pictures_does_not_name_is_to_train_on() -> None:
    split = split_cases(cases_of(5, "abcde", [None, None, "validation", "validation", "test"]), fingerprints={})
    assert [len(names) for names in parts_of(split).values()] == [2, 2, 1]


def test_training_without_a_validation_part_gives_up_some_of_its_groups() -> None:
    part = ["training"] * 12 + ["test"] * 4
    split = split_cases(cases_of(16, [str(k // 2) for k in range(16)], part), config(fraction=0.3), fingerprints={})
    assert [len(names) for names in parts_of(split).values()] == [8, 4, 4]
    assert {case.patient for case in split.training}.isdisjoint(case.patient for case in split.validation)
    assert {bool(len(case.boxes)) for case in split.validation} == {True, False}
    assert "4 of 12 pictures are held out for validation by the seed" in split.notes


def test_versions_that_roboflow_made_of_a_picture_stay_together() -> None:
    names = [f"train/images/{k // 3}_jpg.rf.{k:032x}.jpg" for k in range(30)]
    cases = [Case(name, Path(name), 9, 9, part="training") for name in names]
    split = split_cases(cases, config(), fingerprints={})
    sides = [{case.name.split(".rf.")[0] for case in part} for part in (split.training, split.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ('{"train": "a"}', "is no split; write"),
        ('{"fold": ["a"]}', "is no split; write"),
        (
            '{"train": ["x.png"]}',
            "names none of the pictures; its names are such as x.png, those of the data such",
        ),
        ('{"train": ["p000.png"], "test": ["p000.png"]}', "p000.png is in training and in test"),
    ],
)
def test_split_files_that_cannot_be_used_say_why(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(SetupError, match=words):
        read_parts(path, cases_of(3))


def test_lists_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"holds no train.csv, valid.csv and test.csv"):
        read_parts(tmp_path, cases_of(3))
    (tmp_path / "train.csv").write_text("file\na\n")
    with pytest.raises(SetupError, match="has no column image_id"):
        read_parts(tmp_path, cases_of(3))
    with pytest.raises(SetupError, match="cannot be read"):
        read_parts(tmp_path / "missing.json", cases_of(3))


def test_a_picture_that_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    bone_sets.yolo(tmp_path, {f"train/{k}": "" for k in range(4)})
    path = bone_sets.picture(tmp_path / "train" / "images" / "broken.jpg", 200, 200)
    path.write_bytes(path.read_bytes()[:-1500])  # its header is whole
    split = split_cases(find_cases(tmp_path), config())
    assert len(split.part("all")) == 4
    assert split.notes[0] == "1 pictures cannot be read and are left out, such as train/images/broken.jpg"
    with pytest.raises(SetupError, match="no pictures for test; it has some for training and validation"):
        split.part("test")
    with pytest.raises(SetupError, match="'dev' is no part"):
        split.part("dev")
