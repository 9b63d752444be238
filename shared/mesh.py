"""Surfaces of masks in mm: closed, facing outwards, and as large as the mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array, diags_array

from shared.geometry import apply_affine, bounding_box, crop
from shared.types import Affine, Space

if TYPE_CHECKING:
    from trimesh import Trimesh

Vertices = Float64[np.ndarray, "v 3"]
Faces = Int64[np.ndarray, "f 3"]

# Taubin 1995, "A signal processing approach to fair surface design": a step in and a longer step out smooth a surface
# without shrinking it; the pass-band of this pair is 1/0.5 - 1/0.53 = 0.11.
SMOOTH_IN, SMOOTH_OUT = 0.5, -0.53
# A little under half: voxels that touch by an edge are then joined everywhere alike, as components are by 26
# neighbours. At exactly half that is a tie, which neighbouring cells may break differently and so open the surface.
LEVEL = 0.45
VOLUME_TOLERANCE = 0.001  # to which the surface is brought back to the mask's volume


def mesh_from_mask(
    mask: Bool[np.ndarray, "x y z"],
    affine: Affine,
    *,
    smooth: int = 10,
    max_faces: int | None = 200_000,
    space: Space = "RAS",
) -> Trimesh:
    """Wrap a mask in a closed surface of the mask's volume (within 2 %, usually 0.1 %).

    Marching cubes on the mask itself, so that a vessel one voxel thin is kept; then Taubin smoothing, simplification,
    and a shift along the normals that gives back the volume which corners and thin vessels lost.

    Args:
        mask: ``x y z``; it may touch the border, and be empty (the mesh then has no faces).
        affine: voxel index to RAS mm; mirrored or oblique, normals face outwards all the same.
        smooth: smoothing steps in and out; 0 leaves marching cubes' facets.
        max_faces: simplify to about this many; None keeps all. More stay where fewer would open the surface.
        space: RAS or LPS mm of the vertices.
    """
    from trimesh import Trimesh

    if not mask.any():
        return Trimesh()
    vertices, faces = _marching_cubes(mask, affine)
    if smooth:
        vertices = _taubin(vertices, faces, smooth)
    if max_faces is not None and len(faces) > max_faces:
        vertices, faces = _simplify(vertices, faces, max_faces)
    target_mm3 = int(np.count_nonzero(mask)) * abs(float(np.linalg.det(affine[:3, :3])))
    vertices = _restore_volume(vertices, faces, target_mm3)
    if space == "LPS":  # a half turn about z: it mirrors nothing, so the faces keep their sense
        vertices = vertices * np.array([-1.0, -1.0, 1.0])
    return Trimesh(vertices, faces, process=False)


def _marching_cubes(mask: Bool[np.ndarray, "x y z"], affine: Affine) -> tuple[Vertices, Faces]:
    """Surface between the voxels inside and those outside, in RAS mm, facing outwards."""
    from skimage.measure import marching_cubes

    part, part_affine = crop(mask, affine, bounding_box(mask, 0.0, (1.0, 1.0, 1.0)))
    padded = np.pad(part, 1).astype(np.float32)  # outside the scan there is nothing: the surface closes
    # skimage's default, `descent`, faces inwards for a mask that is 1 inside.
    index, faces, _, _ = marching_cubes(padded, LEVEL, gradient_direction="ascent")  # type: ignore[no-untyped-call]
    vertices = apply_affine(part_affine, index.astype(np.float64) - 1)
    if np.linalg.det(affine[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return vertices, faces.astype(np.int64)


def _taubin(vertices: Vertices, faces: Faces, steps: int) -> Vertices:
    """Move each vertex towards the mean of its neighbours and farther back, ``steps`` times."""
    i, j = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    n = len(vertices)
    neighbours = csr_array((np.ones(len(i)), (i, j)), shape=(n, n))
    mean = diags_array(1 / np.maximum(neighbours.sum(axis=1), 1)) @ neighbours
    for _ in range(steps):
        for factor in (SMOOTH_IN, SMOOTH_OUT):
            vertices = vertices + factor * (mean @ vertices - vertices)
    return vertices


def _simplify(vertices: Vertices, faces: Faces, max_faces: int) -> tuple[Vertices, Faces]:
    """Collapse edges until ``max_faces`` are left, or the fewest at which the surface is still closed."""
    import fast_simplification

    target = max_faces
    while target < len(faces):
        fewer_vertices, fewer_faces = fast_simplification.simplify(
            vertices.astype(np.float32), faces.astype(np.int32), target_count=target
        )
        if _is_closed(fewer_faces):
            return fewer_vertices.astype(np.float64), fewer_faces.astype(np.int64)
        target *= 2
    return vertices, faces


def _is_closed(faces: Faces) -> bool:
    """Whether every edge borders exactly two faces, which run along it in opposite directions."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    n = int(edges.max()) + 1
    forward, backward = np.sort(edges @ [n, 1]), np.sort(edges @ [1, n])
    return bool((np.diff(forward) > 0).all() and (forward == backward).all())


def _restore_volume(vertices: Vertices, faces: Faces, target_mm3: float) -> Vertices:
    """Shift the surface along its normals until it holds ``target_mm3``."""
    for _ in range(20):
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        volume_mm3 = np.einsum("ij,ij->", a - vertices.mean(0), np.cross(b - a, c - a)) / 6
        if abs(volume_mm3 - target_mm3) <= VOLUME_TOLERANCE * target_mm3:
            break
        across = np.cross(b - a, c - a) / 2  # each face's normal times its area
        normal = np.zeros_like(vertices)
        for k in range(3):
            np.add.at(normal, faces[:, k], across)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        # What a shift by 1 mm would add, counted with these normals, is Newton's derivative.
        gain_mm2 = sum(float(np.einsum("ij,ij->", normal[faces[:, k]], across)) for k in range(3)) / 3
        vertices = vertices + normal * ((target_mm3 - volume_mm3) / gain_mm2)
    return vertices
