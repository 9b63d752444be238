"""Files for the browser: half floats that keep HU, the same extent at every resolution, labels cut to their box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.niivue.encode import EncodedVolume, fit_dims, write_labels, write_surface, write_volume

AFFINE = np.diag([0.4, 0.4, 0.6, 1.0])


def read_half(path, dims):
    return np.fromfile(path, "<f2").reshape(dims, order="F")


def test_every_whole_hu_to_2048_comes_through(tmp_path):
    array = np.arange(-1024, 2048, dtype=np.float32)[: 12 * 16 * 16].reshape((12, 16, 16), order="F")
    encoded = write_volume(array, AFFINE, tmp_path)
    assert encoded.fine == encoded.dims == array.shape
    assert (read_half(tmp_path / EncodedVolume.FINE_NAME, encoded.fine) == array).all()


def test_the_first_picture_is_coarse_and_covers_the_same_extent(tmp_path):
    x = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None], (64, 48, 40))
    encoded = write_volume(np.asfortranarray(x), AFFINE, tmp_path, first_voxels=4000)
    first = read_half(tmp_path / EncodedVolume.FIRST_NAME, encoded.first)
    assert first.size <= 4000
    centre = (np.arange(encoded.first[0]) + 0.5) * 64 / encoded.first[0] - 0.5
    assert first[:, 0, 0] == pytest.approx(centre, abs=0.51)


def test_a_scan_too_large_for_a_browser_is_shown_with_fewer_voxels(tmp_path):
    encoded = write_volume(np.zeros((40, 40, 30), np.float32), AFFINE, tmp_path, fine_voxels=8000)
    assert encoded.dims == (40, 40, 30)
    assert np.prod(encoded.fine) <= 8000
    assert (tmp_path / EncodedVolume.FINE_NAME).stat().st_size == 2 * np.prod(encoded.fine)


def test_what_half_floats_cannot_hold_is_clipped(tmp_path):
    write_volume(np.full((2, 2, 2), 1e6, np.float32), AFFINE, tmp_path)
    assert np.isfinite(read_half(tmp_path / EncodedVolume.FINE_NAME, (2, 2, 2))).all()


@given(st.tuples(*[st.integers(1, 900)] * 3), st.tuples(*[st.floats(0.2, 3)] * 3), st.integers(1, 2**22))
def test_fewer_voxels_never_more_than_asked_for(shape, spacing, most):
    dims = fit_dims(shape, np.diag([*spacing, 1.0]), most)
    assert all(1 <= d <= n for d, n in zip(dims, shape, strict=True))
    if np.prod(shape) <= most:
        assert dims == shape
    else:
        # An axis that would have less than one voxel keeps one.
        assert np.prod(dims) <= most or 1 in dims


def test_labels_are_cut_to_their_box(tmp_path):
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[5:8, 10:14, 20:25] = 1
    labels[6, 11, 22] = 3
    encoded = write_labels(labels, tmp_path / "labels.u8")
    part = np.fromfile(tmp_path / "labels.u8", np.uint8).reshape(encoded.dims, order="F")
    start = np.round(np.array(encoded.low) * labels.shape).astype(int)
    stop = np.round(np.array(encoded.high) * labels.shape).astype(int)
    assert tuple(stop - start) == encoded.dims
    assert (labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] == part).all()
    assert part.sum() == labels.sum()
    assert encoded.present == (1, 3)


def test_no_label_no_file(tmp_path):
    assert write_labels(np.zeros((4, 4, 4), np.uint8), tmp_path / "labels.u8") is None
    assert not list(tmp_path.iterdir())


def test_a_surface_is_mz3(tmp_path):
    from trimesh.creation import box

    mesh = box((1, 2, 3))
    write_surface(mesh, tmp_path / "a.mz3")
    content = (tmp_path / "a.mz3").read_bytes()
    assert np.frombuffer(content, "<u2", 2).tolist() == [23117, 3]
    faces, vertices, skip = np.frombuffer(content, "<u4", 3, 4)
    assert (faces, vertices, skip) == (len(mesh.faces), len(mesh.vertices), 0)
    assert (np.frombuffer(content, "<i4", 3 * faces, 16).reshape(-1, 3) == mesh.faces).all()
    assert np.frombuffer(content, "<f4", 3 * vertices, 16 + 12 * faces) == pytest.approx(mesh.vertices.ravel())
