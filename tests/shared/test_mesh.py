import struct

import numpy as np
import pytest
import trimesh

from shared.errors import SetupError
from shared.io.writers import write_stl
from shared.mesh import mesh_from_mask

OBLIQUE = np.array([[-0.5, 0.1, 0.0, 30.0], [0.1, 0.5, 0.1, -20.0], [0.0, -0.1, 0.8, 900.0], [0, 0, 0, 1.0]])


def ball(radius: int = 6) -> np.ndarray:
    at = np.indices((2 * radius + 5,) * 3) - radius - 2
    return (at**2).sum(0) <= radius**2


def test_surface_lies_where_the_mask_does():
    mask = np.zeros((30, 30, 30), bool)
    mask[3:20, 18:21, 5:9] = True
    centre = OBLIQUE @ np.r_[np.argwhere(mask).mean(0), 1]
    np.testing.assert_allclose(mesh_from_mask(mask, OBLIQUE).center_mass, centre[:3], atol=0.02)


def test_smoothing_rounds_a_ball_without_shrinking_it():
    affine = np.diag([0.5, 0.5, 0.5, 1])
    rough, smooth = (mesh_from_mask(ball(), affine, smooth=steps) for steps in (0, 10))
    truth_mm2 = 4 * np.pi * 3**2
    assert abs(smooth.area / truth_mm2 - 1) < 0.04 < 0.08 < abs(rough.area / truth_mm2 - 1)


def test_lps_is_ras_turned_not_mirrored():
    ras, lps = (mesh_from_mask(ball(), OBLIQUE, space=space) for space in ("RAS", "LPS"))
    np.testing.assert_allclose(lps.vertices, ras.vertices * [-1, -1, 1])
    assert lps.volume == pytest.approx(ras.volume)


def test_empty_mask_gives_an_empty_mesh(tmp_path):
    mesh = mesh_from_mask(np.zeros((4, 4, 4), bool), np.eye(4))
    assert len(mesh.faces) == 0
    write_stl(mesh, tmp_path / "empty.stl")
    assert (tmp_path / "empty.stl").stat().st_size == 84


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_stl_is_lps_in_mm_and_read_by_others(tmp_path, space):
    mesh = mesh_from_mask(ball(), OBLIQUE, space=space)
    write_stl(mesh, tmp_path / "ball.stl", space=space)
    content = (tmp_path / "ball.stl").read_bytes()
    assert b"SPACE=LPS" in content[:80]
    assert not content.startswith(b"solid")
    assert struct.unpack("<I", content[80:84]) == (len(mesh.faces),)

    read = trimesh.load_mesh(tmp_path / "ball.stl")
    centre_ras = (OBLIQUE @ [8, 8, 8, 1])[:3]
    np.testing.assert_allclose(read.center_mass, centre_ras * [-1, -1, 1], atol=0.02)
    assert read.is_watertight
    assert read.volume == pytest.approx(mesh.volume, rel=1e-4)
    outwards = read.triangles_center - read.center_mass
    assert (np.einsum("ij,ij->i", read.face_normals, outwards) > 0).mean() > 0.99


def test_stl_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be written"):
        write_stl(mesh_from_mask(ball(), np.eye(4)), tmp_path / "file" / "ball.stl")
