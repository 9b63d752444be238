import nibabel as nib
import numpy as np
import pytest
from imagecas import noise_case, write_case

from coronary.cases import IMAGE, LABEL, find_cases
from coronary.check import check_folder, check_headers, unusable, wrong_label
from shared.errors import SetupError
from shared.io.volume import from_array

SHAPE = (20, 22, 18)


def shifted(mm):
    affine = np.eye(4)
    affine[0, 3] = mm
    return affine


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A folder with a case of every kind of problem, and two that are right."""
    folder = tmp_path_factory.mktemp("spoilt")
    rng = np.random.default_rng(0)

    def scan():
        return rng.normal(0, 100, SHAPE).astype(np.float32)

    rod = np.zeros(SHAPE, np.uint8)
    rod[9:12, 9:12, 3:-3] = 1
    noise_case(folder, "1")
    noise_case(folder / "201-400", "201")
    write_case(folder, "2", scan(), rod[:-1])
    write_case(folder, "3", scan(), rod)
    nib.save(nib.Nifti1Image(rod, shifted(0.7)), folder / f"3{LABEL}")
    write_case(folder, "4", scan(), rod * 0)
    write_case(folder, "5", scan(), rod * rng.integers(1, 4, SHAPE).astype(np.uint8))
    with_nan = scan()
    with_nan[4, 5, 6] = np.nan
    write_case(folder, "6", with_nan, rod)
    write_case(folder, "7", scan(), rod)
    (folder / f"7{LABEL}").write_bytes((folder / f"7{LABEL}").read_bytes()[:-30])
    write_case(folder, "8", scan(), rod)
    (folder / f"8{IMAGE}").write_bytes(b"no scan")
    write_case(folder, "9", np.asarray(nib.load(folder / f"5{IMAGE}").dataobj), rod)
    write_case(folder, "10", scan(), rod)
    (folder / f"10{LABEL}").unlink()
    write_case(folder, "11", scan(), rod)
    (folder / f"11{IMAGE}").unlink()
    noise_case(folder / "copy", "201")
    return folder


WANTED = {
    "2": "its grid is not that of 2.img.nii.gz: 2.label.nii.gz is 19 x 22 x 18, the scan's 20 x 22 x 18",
    "3": "its grid is not that of 3.img.nii.gz: 3.label.nii.gz is up to 0.7 mm off the scan's",
    "4": "4.label.nii.gz is empty",
    "5": "5.label.nii.gz is not binary: it holds 0, 1, 2, 3",
    "6": "6.img.nii.gz 1 of 7920 voxels are NaN or infinite",
    "7": "7.label.nii.gz is truncated",
    "8": "8.img.nii.gz is not gzip-compressed",
    "10": "has no label",
    "11": "has no scan",
    "201": "its id is there more than once",
}


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_that_is_wrong_is_named_in_one_go(spoilt, workers):
    heard = []
    cases, problems = check_folder(spoilt, workers=workers, on_case=lambda done, total: heard.append((done, total)))
    assert [case.name for case in cases] == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "201"]
    assert heard[-1] == (10, 10)
    told = [(problem.where, problem.what) for problem in problems if "its scan is that of" not in problem.what]
    assert [name for name, _ in told] == list(WANTED)
    for name, what in told:
        assert what.startswith(WANTED[name]), what
    assert [problem.where for problem in problems if problem.what == "its scan is that of 9 too"] == ["5"]
    assert all(problem.remedy for problem in problems)


def test_a_second_folder_of_labels_is_looked_over_too(tmp_path):
    """Two labels of one id are a choice that nobody made; a label without a scan is named."""
    for name in ("1", "2"):
        label = noise_case(tmp_path / "scans", name).label
        for reader in ("a", "b") if name == "1" else ("a",):
            (tmp_path / "labels" / reader).mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / reader / f"{name}.nii.gz").write_bytes(label.read_bytes())
    for name in ("9_seg.nii.gz", "2_aorta.nii.gz"):
        (tmp_path / "labels" / "a" / name).write_bytes(label.read_bytes())
    cases, problems = check_folder(tmp_path / "scans", tmp_path / "labels", workers=1)
    assert [case.name for case in cases] == ["1", "2"]
    assert [(problem.where, problem.what) for problem in problems] == [
        ("1", "its label is there more than once, in sub-folders"),
        ("9", "has no scan"),
    ]
    with pytest.raises(SetupError, match="labels: labels of 1 more than once"):
        find_cases(tmp_path / "scans", tmp_path / "labels")


def test_a_folder_without_scans_is_not_called_right(tmp_path):
    (tmp_path / "case_0001_0000.nii.gz").write_bytes(b"")  # nnU-Net's names
    with pytest.raises(SetupError, match="no ID.img.nii.gz and no ID.label.nii.gz in it"):
        check_folder(tmp_path)


def test_headers_alone_tell_unequal_grids_and_unreadable_files(spoilt):
    from coronary.cases import scan_folder

    problems = check_headers(scan_folder(spoilt).cases)
    assert [problem.where for problem in problems] == ["2", "3", "8"]
    for problem in problems:
        assert problem.what.startswith(WANTED[problem.where]) or "8.img.nii.gz has no header" in problem.what


def test_a_case_that_is_right_has_no_problem(tmp_path):
    noise_case(tmp_path, "1")
    assert check_headers(find_cases(tmp_path)) == []
    assert check_folder(tmp_path)[1] == []


def test_headers_of_equal_grids_in_two_orientations_agree(tmp_path):
    case = noise_case(tmp_path, "1")
    turned = nib.load(case.label).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    label = nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine)
    nib.save(label, case.label)
    assert check_headers([case]) == []
    assert check_folder(tmp_path)[1] == []


@pytest.mark.parametrize(("values", "right"), [((0, 1), True), ((0, 255), True), ((1, 1), True), ((0, 0.5, 1), False),
                                               ((0, -1), False), ((0, 0), False)])  # fmt: skip
def test_a_label_is_background_and_one_value(tmp_path, values, right):
    case = noise_case(tmp_path, "1")
    label = np.resize(np.array(values, np.float32), (4, 5, 6))
    assert (wrong_label(case, from_array(label, np.eye(4))) == []) == right


def test_problems_are_told_a_line_each(spoilt):
    error = unusable(check_folder(spoilt, workers=1)[1])
    lines = str(error).splitlines()
    assert lines[0] == "10 cases cannot be used:"
    assert "  4: 4.label.nii.gz is empty; leave this case out" in lines
    assert error.exit_status == 1
