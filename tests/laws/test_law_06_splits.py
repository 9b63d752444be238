"""Law 6: a scan is never on two sides of a split, whatever its files are called."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagecas import noise_case

from coronary.cache import prepare, refuse_copies
from coronary.cases import Case, split
from coronary.check import check_folder
from coronary.config import Config, HuWindow, Preprocessing, Sampling
from coronary.data import Patches
from shared.errors import SetupError

TOY = Config(sampling=Sampling(patch=(16, 16, 16)), preprocessing=Preprocessing(normalisation=HuWindow()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight scans; 3 is a copy of 1, and 4 too, written anew with another compression."""
    folder = tmp_path_factory.mktemp("data")
    for name in "125678":
        noise_case(folder, name)
    for half in (".img.nii.gz", ".label.nii.gz"):
        shutil.copy(folder / f"1{half}", folder / f"3{half}")
        (folder / f"4{half}").write_bytes(gzip.compress(gzip.decompress((folder / f"1{half}").read_bytes()), 1))
    return folder


@pytest.fixture(scope="module")
def cases(folder):
    return [Case(name, folder / f"{name}.img.nii.gz", folder / f"{name}.label.nii.gz") for name in "12345678"]


@given(seed=st.integers(0, 2**32), fraction=st.floats(0.01, 0.99), count=st.integers(2, 60))
def test_a_seeded_split_is_disjoint_and_whole(seed, fraction, count):
    cases = [Case(str(i), Path(f"{i}.img.nii.gz"), Path(f"{i}.label.nii.gz")) for i in range(count)]
    found = split(cases, fraction=fraction, seed=seed)
    assert not set(found.training) & set(found.validation)
    assert set(found.training) | set(found.validation) == set(cases)
    assert len(found.validation) == min(max(round(count * fraction), 1), count - 1)
    assert found == split(cases, fraction=fraction, seed=seed)


def test_copies_stay_on_one_side_of_a_seeded_split(cases):
    seen = set()
    for seed in range(40):
        found = split(cases, fraction=0.4, seed=seed)
        held_out = {case.name for case in found.validation}
        assert {"1", "3", "4"} <= held_out or not held_out & {"1", "3", "4"}
        assert held_out
        assert len(held_out) < 8
        seen.add("1" in held_out)
    assert seen == {True, False}


def test_a_split_file_with_an_id_in_two_parts_is_refused(tmp_path, cases):
    (tmp_path / "a.json").write_text(json.dumps({"training": ["1", "2", "5"], "test": ["5", "2"]}))
    (tmp_path / "b.json").write_text(json.dumps([{"train": ["1", "2", "5"], "val": [5, 2]}]))
    book = openpyxl.Workbook()
    for row in (["FileName", "Split-1"], [2, "Training"], [5, "Training"], [5, "Testing"], [2, "Val"]):
        book.active.append(row)
    book.save(tmp_path / "c.xlsx")
    for name in ("a.json", "b.json", "c.xlsx"):
        with pytest.raises(SetupError, match=rf"{name}: 2, 5 in two parts; keep each id in one"):
            split(cases, tmp_path / name)


def test_a_split_file_with_copies_in_two_parts_is_refused_by_name(tmp_path, cases):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"training": ["1", "2"], "validation": ["5"], "test": ["4"]}))
    with pytest.raises(SetupError, match=r"copies of one scan are in two parts: 1 \(training\), 4 \(test\)"):
        split(cases, path)
    path.write_text(json.dumps({"training": ["1", "3", "4"], "validation": ["5"], "test": ["2"]}))
    assert [case.name for case in split(cases, path).training] == ["1", "3", "4"]


def test_a_scan_written_anew_is_found_by_its_voxels(tmp_path, folder, cases):
    import nibabel as nib

    turned = tmp_path / "data"
    shutil.copytree(folder, turned)
    for half in (".img.nii.gz", ".label.nii.gz"):  # the same scan as 2: another orientation, number type and header
        image = nib.load(folder / f"2{half}")
        flipped = image.as_reoriented(np.array([[0, -1], [1, 1], [2, -1]]))
        nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj).astype(np.float32), flipped.affine), turned / f"9{half}")
    whole, problems = check_folder(turned, workers=1)
    assert [(p.where, p.what) for p in problems] == [
        ("1", "its scan is that of 3, 4 too"),
        ("2", "its scan is that of 9 too"),
    ]
    cached = {case.name: case for case in prepare(whole, TOY.preprocessing, tmp_path / "cache", workers=1)}
    with pytest.raises(SetupError, match=r"held-out scans are trained on: 9 \(as 2\)"):
        refuse_copies([cached["2"], cached["5"]], [cached["6"], cached["9"]])
    refuse_copies([cached["2"], cached["5"]], [cached["6"], cached["7"]])


def test_patches_come_from_the_training_cases_alone(tmp_path, cases):
    """No patch is cut, changed and kept before the split: they are drawn from cases that were split before."""
    found = split(cases, fraction=0.5, seed=1)
    held_out = {case.name for case in found.validation}
    patches = Patches(prepare(found.training, TOY.preprocessing, tmp_path, workers=1), TOY)
    drawn = {patches[i]["case"] for i in range(60)}
    assert drawn == {case.name for case in found.training}
    assert not drawn & held_out
