import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from imagecas import noise_case, write_case
from scipy import ndimage
from skimage.morphology import dilation

from coronary.cache import ARRAYS, CachedCase, cache_case, prepare
from coronary.cases import Case, find_cases
from coronary.config import HuWindow, Preprocessing, ZScore
from coronary.preprocess import preprocess
from shared.errors import InputError, SetupError
from shared.io.volume import read_volume
from shared.metrics.centreline import skeleton
from shared.problems import DataError

WINDOW = Preprocessing(normalisation=HuWindow())


@pytest.fixture
def data(tmp_path):
    for name in "123":
        noise_case(tmp_path / "data", name)
    return find_cases(tmp_path / "data")


def times(cached):
    return {path.name: path.stat().st_mtime_ns for path in cached.folder.iterdir()}


def test_a_case_is_made_once_and_anew_beside_it_when_a_file_or_a_setting_changes(data, tmp_path):
    cache = tmp_path / "cache"
    first = prepare(data, WINDOW, cache, workers=1)
    made = [times(case) for case in first]
    assert [times(case) for case in prepare(data, WINDOW, cache, workers=1)] == made
    os.utime(data[0].label, ns=(1, 1))
    again = prepare(data, WINDOW, cache, workers=1)
    assert again[0].folder != first[0].folder
    assert again[1:] == first[1:]
    assert times(first[0]) == made[0]  # a run may be reading it
    assert prepare(data, Preprocessing(), cache, workers=1)[1].folder != first[1].folder


def test_processes_make_what_one_makes(data, tmp_path):
    heard = []
    one = prepare(data, WINDOW, tmp_path / "one", workers=1)
    two = prepare(data, WINDOW, tmp_path / "two", workers=2, on_case=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    for a, b in zip(one, two, strict=True):
        for name in ARRAYS:
            assert np.array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("settings", [WINDOW, Preprocessing(normalisation=ZScore(pad_to=(40, 8, 30)))])
def test_it_holds_what_preprocessing_gives(tmp_path, settings):
    case = noise_case(tmp_path, "1", (24, 30, 20), spacing_mm=0.6)
    cached = cache_case(case, settings, tmp_path / "cache")
    wanted = preprocess(read_volume(case.image), settings)
    assert np.array_equal(cached.image, wanted.array.astype(np.float16))
    assert cached.image.shape == cached.occupancy.shape
    assert cached.notes["pad_value"] == wanted.pad_value
    assert np.array_equal(cached.notes["affine"], wanted.affine)
    assert np.array_equal(cached.foreground, np.argwhere(cached.occupancy >= 128))
    for name in ARRAYS:
        assert isinstance(getattr(cached, name), np.memmap)


@limits(max_examples=8, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(0.4, 1.3)] * 3),
    at=st.tuples(*[st.floats(0.3, 0.7)] * 3),
)
def test_a_vessel_stays_where_it_is_in_mm(tmp_path_factory, axes, signs, spacing, at):
    folder = tmp_path_factory.mktemp("turned")
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, axes] * signs
    affine[:3, 3] = [5, -40, 11]
    shape = np.array([24, 26, 22])
    middle = np.rint(shape * at).astype(int)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(m - 2, m + 3) for m in middle)] = 1
    case = write_case(folder, "1", np.zeros(shape, np.int16), label, affine)
    settings = Preprocessing(spacing_mm=(0.6, 0.5, 0.4), normalisation=ZScore(pad_to=(30, 30, 30)))
    cached = cache_case(case, settings, folder / "cache")
    wanted = affine[:3, :3] @ middle + affine[:3, 3]
    share = np.asarray(cached.occupancy, float)
    index = np.array(ndimage.center_of_mass(share))
    matrix = np.array(cached.notes["affine"])
    assert np.allclose(matrix[:3, :3] @ index + matrix[:3, 3], wanted, atol=0.25)
    on_skeleton = np.asarray(cached.skeleton, float).mean(axis=0)
    assert np.linalg.norm(matrix[:3, :3] @ on_skeleton + matrix[:3, 3] - wanted) < 1.5


def test_all_cases_that_cannot_be_used_are_named_and_the_others_made(data, tmp_path):
    empty = np.zeros((20, 22, 18), np.uint8)
    nib.save(nib.Nifti1Image(empty, np.eye(4)), data[0].label)
    nib.save(nib.Nifti1Image(empty[:-1] + 1, np.eye(4)), data[2].label)
    gone = Case("4", tmp_path / "4.img.nii.gz", tmp_path / "4.label.nii.gz")
    with pytest.raises(DataError) as caught:
        prepare([*data, gone], WINDOW, tmp_path / "cache", workers=2)
    assert [problem.where for problem in caught.value.problems] == ["1", "3", "4"]
    assert "1.label.nii.gz is empty" in str(caught.value)
    assert "3.label.nii.gz is 19 x 22 x 18, the scan's 20 x 22 x 18" in str(caught.value)
    assert "4.img.nii.gz is not in" in str(caught.value)
    assert [path.name[0] for path in (tmp_path / "cache").iterdir()] == ["2"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "no notes", "torn notes", "notes of another kind"])
def test_damage_is_healed(data, tmp_path, damage):
    cached = cache_case(data[0], WINDOW, tmp_path)
    whole = {name: np.array(getattr(cached, name)) for name in ARRAYS}
    match damage:
        case "truncated":
            os.truncate(cached.folder / "occupancy.npy", 300)
        case "missing":
            (cached.folder / "image.npy").unlink()
        case "no notes":
            (cached.folder / "notes.json").unlink()
        case "torn notes":
            (cached.folder / "notes.json").write_text('{"bytes": {')
        case _:
            (cached.folder / "notes.json").write_text("[]")
    assert not cached.is_whole()
    healed = cache_case(data[0], WINDOW, tmp_path)
    assert healed.folder == cached.folder
    assert healed.is_whole()
    for name, array in whole.items():
        assert np.array_equal(getattr(healed, name), array)
    assert [path.name for path in tmp_path.glob("*") if path.name != "data"] == [healed.folder.name]


PREPARE = """
import sys
from pathlib import Path
from coronary.cache import prepare
from coronary.cases import find_cases
from coronary.config import HuWindow, Preprocessing
if __name__ == "__main__":
    settings = Preprocessing(normalisation=HuWindow())
    prepare(find_cases(Path(sys.argv[1])), settings, Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


def start(data, cache, workers):
    words = [sys.executable, "-c", PREPARE, data[0].image.parent, cache, workers]
    return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL)


def workers_alive(process):
    """The children of a process, on Linux."""
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


@pytest.mark.parametrize(("after", "workers"), [(0, 1), (3, 1), (2, 2)])
def test_killed_it_goes_on_where_it_was(tmp_path, after, workers):
    """SIGKILL after some cases: what is there is whole, what is not is made, what was begun is swept away."""
    for i in range(8):
        noise_case(tmp_path / "data", str(i), (60, 60, 50))
    data, cache = find_cases(tmp_path / "data"), tmp_path / "cache"
    process = start(data, cache, workers)
    deadline = time.monotonic() + 60
    while len(list(cache.glob("*"))) <= after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    workers_of = workers_alive(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers_of) and time.monotonic() < deadline:
        time.sleep(0.02)  # its workers notice, and end
    there = [CachedCase(path.name[0], path) for path in cache.glob("[!.]*")]
    assert len(there) >= after
    assert all(case.is_whole() for case in there)
    made = {case.folder: times(case) for case in there}
    for aside in cache.glob(".*"):
        os.utime(aside, (0, 0))
    cases = prepare(data, WINDOW, cache, workers=1)
    assert sorted(path.name for path in cache.iterdir()) == sorted(case.folder.name for case in cases)
    assert all(times(CachedCase("", folder)) == before for folder, before in made.items())


def test_two_processes_may_fill_one_cache(tmp_path):
    for i in range(4):
        noise_case(tmp_path / "data", str(i))
    data, cache = find_cases(tmp_path / "data"), tmp_path / "cache"
    both = [start(data, cache, 1) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert all(CachedCase("", path).is_whole() for path in cache.iterdir())
    assert len(list(cache.iterdir())) == 4


def test_a_case_whose_files_went_away_is_named(tmp_path):
    case = noise_case(tmp_path, "1")
    case.image.unlink()
    with pytest.raises(InputError, match=r"1.img.nii.gz: is not in"):
        cache_case(case, WINDOW, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match="cache.*cannot be written"):
        cache_case(data[0], WINDOW, tmp_path / "cache")


def unpadded(spacing_mm):
    return Preprocessing(spacing_mm=(spacing_mm,) * 3, normalisation=HuWindow())


def rods(shape, *radii_mm, spacing_mm):
    """Rods along z of some radii, side by side."""
    label = np.zeros(shape, np.uint8)
    x, y = np.indices(shape[:2]) * spacing_mm
    for i, radius_mm in enumerate(radii_mm):
        centre = np.array(shape[:2]) * spacing_mm * [(i + 0.5) / len(radii_mm), 0.5]
        label[np.hypot(x - centre[0], y - centre[1]) <= radius_mm, 4:-4] = 1
    return label


def test_thin_vessels_are_those_below_0_8_mm(tmp_path):
    label = rods((120, 60, 40), 0.5, 2.0, spacing_mm=0.25)
    case = write_case(tmp_path, "1", np.zeros(label.shape, np.int16), label, 0.25)
    for spacing in (0.5, 1.0):
        cached = cache_case(case, unpadded(spacing), tmp_path / "cache")
        thin_mm = np.asarray(cached.thin) * spacing
        assert len(thin_mm) > 6 / spacing  # along a rod of 8 mm
        assert (np.abs(thin_mm[:, :2] - [7.5, 7.5]) <= spacing).all()


def test_a_vessel_too_thin_for_the_grid_is_not_lost(tmp_path):
    label = np.zeros((40, 40, 40), np.uint8)
    label[21, 21, 5:35] = 1
    case = write_case(tmp_path, "1", np.zeros(label.shape, np.int16), label, 0.3)
    cached = cache_case(case, unpadded(1.2), tmp_path / "cache")
    assert cached.occupancy.max() < 128
    assert len(cached.foreground) >= 7
    assert np.array_equal(np.unique(cached.foreground, axis=0), np.unique(cached.skeleton, axis=0))


def test_the_tubed_skeleton_is_that_of_skeleton_recall(tmp_path):
    """On the label's own grid: the skeleton, dilated twice by face neighbours, cut to the label."""
    label = rods((50, 26, 30), 4.2, 2.3, spacing_mm=1.0)
    case = write_case(tmp_path, "1", np.zeros(label.shape, np.int16), label, 1.0)
    cached = cache_case(case, unpadded(1.0), tmp_path / "cache")
    wanted = dilation(dilation(skeleton(label > 0))) & (label > 0)
    assert np.array_equal(cached.skeleton, np.argwhere(wanted))
    assert 0 < len(cached.skeleton) < np.count_nonzero(label)


def read_all(folders, queue):
    queue.put([float(np.asarray(CachedCase("", folder).image, np.float32).sum()) for folder in folders])


def test_other_processes_read_it(data, tmp_path):
    cached = prepare(data, WINDOW, tmp_path / "cache", workers=1)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    reader = context.Process(target=read_all, args=([case.folder for case in cached], queue))
    reader.start()
    assert queue.get(timeout=60) == [float(np.asarray(case.image, np.float32).sum()) for case in cached]
    reader.join()


def test_notes_are_plain_json(data, tmp_path):
    cached = cache_case(data[0], WINDOW, tmp_path)
    assert set(json.loads((cached.folder / "notes.json").read_text())) == {"pad_value", "affine", "scan", "bytes"}
