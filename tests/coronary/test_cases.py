import json
import logging
import sys
from pathlib import Path

import openpyxl
import pytest

from coronary.cases import (
    IMAGE,
    LABEL,
    OTHER_LABELS,
    Case,
    Split,
    find_cases,
    load_split,
    save_split,
    scan_folder,
    shortened,
    split,
)
from shared.errors import SetupError


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())


def cases_named(*names):
    return [Case(name, Path(name + IMAGE), Path(name + LABEL)) for name in names]


def workbook(path, rows, columns=4):
    """An Excel file of the official split's form: a merged title, the header, a row for each id."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([None, "4-fold cross validation"])
    sheet.append(["FileName", *(f"Split-{i + 1}" for i in range(columns))])
    for row in rows:
        sheet.append(row)
    book.save(path)
    return path


OFFICIAL = [
    [1, "Training", "Training", "Training", "Testing"],
    [2, "Training", "Training", "Testing", "Val"],
    [3, "Val", "Testing", "Training", "Training"],
    [4, "Testing", "Val", "Val", "Training"],
]


def names(cases):
    return [case.name for case in cases]


def test_flat_and_in_folders_of_two_hundred(tmp_path):
    touch(tmp_path / "1-200", "2" + IMAGE, "2" + LABEL, "._2" + IMAGE)
    touch(tmp_path / "201-400", "201" + IMAGE, "201" + LABEL)
    touch(tmp_path, "10" + IMAGE, "10" + LABEL)
    cases = find_cases(tmp_path)
    assert names(cases) == ["2", "10", "201"]
    assert cases[2].label == tmp_path / "201-400" / ("201" + LABEL)


def test_halves_and_repeated_ids_are_told(tmp_path, caplog):
    touch(tmp_path / "a", "1" + IMAGE, "1" + LABEL, "2" + IMAGE, "3" + LABEL)
    found = scan_folder(tmp_path)
    assert [path.name for path in found.alone] == ["2" + IMAGE, "3" + LABEL]
    with caplog.at_level(logging.WARNING):
        assert names(find_cases(tmp_path)) == ["1"]
    assert "2.img.nii.gz, 3.label.nii.gz" in caplog.text
    touch(tmp_path / "b", "1" + IMAGE, "1" + LABEL)
    with pytest.raises(SetupError, match="1 more than once in it; keep one file of each id"):
        find_cases(tmp_path)


@pytest.mark.parametrize("ending", OTHER_LABELS)
def test_a_second_folder_of_labels(tmp_path, ending):
    touch(tmp_path / "scans" / "1-200", "7" + IMAGE, "7" + LABEL, "8" + IMAGE, "8" + LABEL)
    touch(tmp_path / "labels" / "deep", "7" + ending)
    found = scan_folder(tmp_path / "scans", tmp_path / "labels")
    assert [(case.name, case.label) for case in found.cases] == [("7", tmp_path / "labels" / "deep" / ("7" + ending))]
    assert [path.name for path in found.alone] == ["8" + IMAGE]


def test_folders_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(SetupError, match="no such folder"):
        find_cases(tmp_path / "none")
    with pytest.raises(SetupError, match=r"no pair ID.img.nii.gz and ID.label.nii.gz"):
        find_cases(tmp_path)
    touch(tmp_path, "1" + IMAGE, "1" + LABEL)
    (tmp_path / "labels").mkdir()
    with pytest.raises(SetupError, match=r"labels: no label there .*ID_seg.nii.gz"):
        find_cases(tmp_path, tmp_path / "labels")


@pytest.mark.parametrize(
    ("fold", "training", "validation", "test"),
    [(None, ["1", "2"], ["3"], ["4"]), (1, ["1", "2"], ["3"], ["4"]), (2, ["1", "2"], ["4"], ["3"]),
     (4, ["3", "4"], ["2"], ["1"])],
)  # fmt: skip
def test_the_official_workbook(tmp_path, fold, training, validation, test):
    path = workbook(tmp_path / "split.xlsx", OFFICIAL)
    found = split(cases_named("1", "2", "3", "4"), path, fold)
    assert (names(found.training), names(found.validation), names(found.test)) == (training, validation, test)


def test_a_workbook_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    cases = cases_named("1", "2")
    with pytest.raises(SetupError, match="no column FileName with Split-5; it has Split-1, Split-2"):
        split(cases, workbook(tmp_path / "two.xlsx", OFFICIAL, columns=2), 5)
    (tmp_path / "text.xlsx").write_text("no workbook")
    with pytest.raises(SetupError, match=r"text.xlsx: is no Excel workbook"):
        split(cases, tmp_path / "text.xlsx")
    with pytest.raises(SetupError, match=r"none.xlsx: cannot be read \(No such file"):
        split(cases, tmp_path / "none.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(SetupError, match="openpyxl is missing, which reads it; install"):
        split(cases, tmp_path / "two.xlsx")


@pytest.mark.parametrize(
    ("content", "fold"),
    [
        ({"training": ["1", 2], "validation": ["3"], "test": ["4"]}, None),
        ({"train": ["1", "2"], "val": ["3"], "Testing": ["4"]}, None),
        ([{"train": ["4"], "val": ["1"]}, {"train": ["1", "2"], "val": ["3"], "test": [4]}], 1),
    ],
)
def test_splits_of_ones_own(tmp_path, content, fold):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    found = split(cases_named("1", "2", "3", "4"), path, fold)
    assert (names(found.training), names(found.validation), names(found.test)) == (["1", "2"], ["3"], ["4"])


def test_a_file_without_validation_gives_some_of_its_training_cases(tmp_path):
    (tmp_path / "splits.json").write_text(json.dumps({"training": list("12345"), "test": ["6"]}))
    found = split(cases_named(*"123456"), tmp_path / "splits.json", fraction=0.4, seed=3)
    assert len(found.validation) == 2
    assert sorted(names(found.training + found.validation)) == list("12345")
    assert names(found.test) == ["6"]


def test_what_a_split_file_and_the_data_do_not_share_is_told(tmp_path, caplog):
    (tmp_path / "splits.json").write_text(json.dumps({"training": ["1", "9"], "validation": ["2"]}))
    with caplog.at_level(logging.WARNING):
        split(cases_named("1", "2", "3"), tmp_path / "splits.json")
    assert "1 of its 3 ids are not in the data" in caplog.text
    assert "not named there, so left out: 3" in caplog.text
    with pytest.raises(SetupError, match=r"names none of the cases; its ids are such as 1, 2 and 1 more, .* a, b"):
        split(cases_named("a", "b"), tmp_path / "splits.json")


@pytest.mark.parametrize(
    ("text", "fold", "message"),
    [
        ("{", None, "is no JSON"),
        ('{"training": "1"}', None, "is no split; write"),
        ('{"learn": ["1"]}', None, "'learn' is no part of a split"),
        ('[{"train": ["1"]}]', 1, "has no fold 1; it has 0 to 0"),
        ('{"training": ["1"]}', 0, "holds one split, so leave the fold out"),
    ],
)
def test_a_split_file_of_another_form_is_named(tmp_path, text, fold, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SetupError, match=message):
        split(cases_named("1"), tmp_path / "s.json", fold)


def test_a_part_is_asked_for_by_name():
    one, two = cases_named("1", "2")
    found = Split((one,), (two,))
    assert found.part("val") == (two,)
    assert found.part("all") == (one, two)
    with pytest.raises(SetupError, match="no cases for test; it has some for training and validation"):
        found.part("test")
    with pytest.raises(SetupError, match="'holdout' is no part of a split"):
        found.part("holdout")


def test_a_run_remembers_its_split_and_others_can_use_it(tmp_path):
    cases = [Case(name, tmp_path / (name + IMAGE), tmp_path / (name + LABEL)) for name in "1234"]
    path = tmp_path / "cases.json"
    save_split(path, cases[:2], cases[2:3], cases[3:])
    assert load_split(path) == (cases[:2], cases[2:3])
    assert split(cases, path) == Split(tuple(cases[:2]), tuple(cases[2:3]), tuple(cases[3:]))
    path.write_text("{}")
    with pytest.raises(SetupError, match="list of cases cannot be read"):
        load_split(path)


def test_long_lists_are_shortened_in_the_order_of_ids():
    assert shortened(["10", "9", "1"], 2) == "1, 9 and 1 more"


def test_a_single_scan_is_trained_on_and_looked_at_and_that_is_said(caplog):
    found = split(cases_named("1"))
    assert found.training == found.validation
    assert "says nothing of other scans" in caplog.text
