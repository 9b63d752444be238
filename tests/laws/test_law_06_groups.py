"""Law 6 for pictures: patients, export families and near-duplicates never cross a split."""

import json
import random
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from shared.errors import SetupError
from shared.io.radiograph import from_array, read_radiograph
from shared.splits import (
    crossing,
    family_of,
    fingerprint,
    group_pictures,
    near_duplicates,
    read_split,
    regrouped,
    split_groups,
    write_split,
)

FRACTIONS = {"training": 0.7, "validation": 0.15, "test": 0.15}
GROUPS = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.sampled_from("01234567"), min_size=3)


def film(seed: int, height: int = 200, width: int = 160) -> np.ndarray:
    """A picture of blurred rods as unlike any other as two limbs are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = np.zeros((height, width))
    for _ in range(6):
        x0, y0, turn = rng.random(), rng.random(), rng.uniform(0, np.pi)
        across = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
        along = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
        picture += rng.random() * np.exp(-((across / 0.06) ** 2) - (along / 0.3) ** 2)
    return from_array(picture + 0.01 * rng.random(picture.shape)).array


FILMS = [film(seed) for seed in range(12)]


def resaved(picture: np.ndarray, quality: int, scale: float) -> np.ndarray:
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return read_radiograph(file.getvalue()).array


def cropped(picture: np.ndarray) -> np.ndarray:
    return picture[3:-2, 2:-2]


def brightened(picture: np.ndarray) -> np.ndarray:
    return from_array(np.sqrt(picture + 0.05)).array


def blurred(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    return from_array(np.asarray(image)).array


CHANGES = {
    "saved again, small and poor": lambda p: resaved(p, 40, 0.5),
    "saved again, larger": lambda p: resaved(p, 90, 1.7),
    "cropped by a few pixels": cropped,
    "brightened": brightened,
    "blurred": blurred,
    **{f"turned, as {k}": (lambda p, k=k: np.rot90(p, k % 4)[:, :: -1 if k > 3 else 1]) for k in range(1, 8)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_a_near_duplicate_of_its_original_alone(change: str) -> None:
    copies = [CHANGES[change](picture) for picture in FILMS]
    fingerprints = [fingerprint(picture) for picture in FILMS + copies]
    assert near_duplicates(fingerprints) == [(k, k + len(FILMS)) for k in range(len(FILMS))]


def test_blank_pictures_resemble_none() -> None:
    blank = fingerprint(np.zeros((50, 40), np.float32))
    assert near_duplicates([blank, blank, fingerprint(FILMS[0])]) == []
    assert near_duplicates([]) == []


def test_patients_families_and_copies_are_joined_by_chains() -> None:
    hashed = "0123456789abcdef0123456789abcdef"
    names = [f"a_jpg.rf.{hashed}.jpg", f"other/a_jpg.rf.{hashed[::-1]}.jpg", "b.png", "c.png", "d.png"]
    fingerprints = {"b.png": fingerprint(FILMS[0]), names[1]: fingerprint(FILMS[0]), "d.png": fingerprint(FILMS[1])}
    groups = group_pictures(names, patients={"b.png": "1", "c.png": "1", "d.png": "2"}, fingerprints=fingerprints)
    assert set(groups) == set(names)
    assert len({groups[name] for name in names[:4]}) == 1
    assert groups["d.png"] == "d.png"
    apart = group_pictures(names, fingerprints=fingerprints, families=False)
    assert Counter(Counter(apart.values()).values()) == {1: 3, 2: 1}
    with pytest.raises(ValueError, match="named twice"):
        group_pictures(["a", "a"])


def test_a_family_is_what_roboflow_exported() -> None:
    assert family_of("train/101_jpg.rf.01df1023e27cc86113edc3d17e5d9849.jpg") == "101_jpg"
    for other in ("IMG0000019.jpg", "a.rf.jpg", "a.rf.draft.jpg", "wrist.rf.2.png"):
        assert family_of(other) is None


@given(
    names=st.lists(st.text("abcdef", min_size=1, max_size=5), min_size=4, max_size=40, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_do_not_depend_on_the_order_of_the_files(names: list[str], seed: int) -> None:
    rng = random.Random(seed)
    patients = {name: str(rng.randrange(6)) for name in names if rng.random() < 0.7}
    pictures = {name: fingerprint(FILMS[rng.randrange(12)]) for name in names[:6]}
    shuffled = rng.sample(names, len(names))
    groups = group_pictures(names, patients=patients, fingerprints=pictures)
    again = group_pictures(shuffled, patients=patients, fingerprints=dict(reversed(pictures.items())))
    assert groups == again
    assert split_groups(groups, FRACTIONS, seed=3) == split_groups(dict(reversed(groups.items())), FRACTIONS, seed=3)
    for one in names:
        for other in names:
            if one in patients and patients[one] == patients.get(other):
                assert groups[one] == groups[other]
        assert groups[groups[one]] == groups[one] <= one


@limits(max_examples=60)
@given(groups=GROUPS, seed=st.integers(0, 2**32 - 1), boxed=st.sets(st.text("abcdef", min_size=1, max_size=2)))
def test_no_group_crosses_a_seeded_split(groups: dict[str, str], seed: int, boxed: set[str]) -> None:
    parts = split_groups(groups, FRACTIONS, with_box=boxed, seed=seed)
    held = [name for names in parts.values() for name in names]
    assert sorted(held) == sorted(groups)
    assert crossing(parts, groups) == []
    for one, names in parts.items():
        for other, others in parts.items():
            assert one == other or not {groups[n] for n in names} & {groups[n] for n in others}


def test_parts_are_as_large_as_asked_and_normals_are_in_all() -> None:
    rng = np.random.default_rng(0)
    groups = {f"{k:03d}": f"{k - k % rng.integers(1, 4):03d}" for k in range(400)}
    with_box = [name for name in groups if int(name) % 20]  # 20 have none
    seen = set()
    for seed in range(5):
        parts = split_groups(groups, FRACTIONS, with_box=with_box, seed=seed)
        seen.add(tuple(parts["test"]))
        for part, share in FRACTIONS.items():
            assert len(parts[part]) == pytest.approx(400 * share, abs=4)
            assert len(set(parts[part]) - set(with_box)) == pytest.approx(20 * share, abs=1)
    assert len(seen) == 5
    with pytest.raises(ValueError, match="add up to 1"):
        split_groups(groups, {"training": 0.7, "test": 0.2})


def test_a_published_split_is_held_to_the_groups() -> None:
    groups = {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e", "f": "f"}
    parts = {"training": ["a", "c", "e"], "validation": ["b"], "test": ["d", "f"]}
    assert crossing(parts, groups) == [["a", "b"], ["c", "d"]]
    mended = regrouped(parts, groups)
    assert mended == {"training": ["e"], "validation": ["a", "b"], "test": ["c", "d", "f"]}
    assert crossing(mended, groups) == []
    assert regrouped(parts, groups, first=()) == {
        "training": ["a", "b", "c", "d", "e"],
        "validation": [],
        "test": ["f"],
    }


@given(groups=GROUPS, data=st.data())
def test_regrouping_mends_every_split_and_loses_none(groups: dict[str, str], data: st.DataObject) -> None:
    parts: dict[str, list[str]] = {part: [] for part in FRACTIONS}
    for name in groups:
        parts[data.draw(st.sampled_from(list(FRACTIONS)))].append(name)
    mended = regrouped(parts, groups)
    assert crossing(mended, groups) == []
    assert sorted(n for names in mended.values() for n in names) == sorted(groups)
    assert set(parts["test"]) <= set(mended["test"])


def test_a_split_file_is_read_back_and_refused_if_a_group_crosses(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split({"training": ["b", "a"], "validation": ["c"]}, path)
    assert read_split(path) == {"training": ["a", "b"], "validation": ["c"], "test": []}
    with pytest.raises(SetupError, match=r"split.json: 1 groups .* in two parts, such as a and c; keep each in one"):
        read_split(path, {"a": "a", "b": "b", "c": "a"})
    for content, words in (
        ({"training": ["a"], "test": ["a"]}, "in two parts, such as a; keep"),
        ({"train": ["a"]}, "is no split; write"),
        ({"training": "a"}, "is no split; write"),
        ([["a"]], "is no split; write"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SetupError, match=words):
            read_split(path)
    path.write_text("{")
    with pytest.raises(SetupError, match="is no JSON"):
        read_split(path)
    with pytest.raises(SetupError, match="cannot be read"):
        read_split(tmp_path / "missing.json")
