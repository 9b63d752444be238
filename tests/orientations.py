"""Affines for tests: all 48 orientations, oblique ones on top, and an array with one landmark."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

ALL_48 = [
    np.eye(3)[list(order)].T * np.array(signs)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
SHAPE = (13, 11, 9)
SPACING_MM = (0.4, 0.7, 1.1)
ORIGIN_MM = (-31.0, 17.0, 250.0)
LANDMARK = (9, 3, 6)  # off centre along each axis, so that every flip and swap shows


def affine_of(
    directions: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM, origin_mm: tuple[float, ...] = ORIGIN_MM
) -> np.ndarray:
    """Give the affine of an orientation (a 3x3 of directions in its columns)."""
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing_mm)
    affine[:3, 3] = origin_mm
    return affine


def code(directions: np.ndarray) -> str:
    """Name an orientation for a test's id."""
    return "".join(
        "RAS"[int(abs(column).argmax())] if column.sum() > 0 else "LPI"[int(abs(column).argmax())]
        for column in directions.T
    )


@st.composite
def oblique_affines(draw: st.DrawFn) -> np.ndarray:
    """Draw one of the 48 orientations, turned by up to 40 degrees about each axis, of any cardiac spacing."""
    turn = Rotation.from_euler("xyz", [draw(st.floats(-40, 40)) for _ in range(3)], degrees=True).as_matrix()
    spacing = tuple(draw(st.floats(0.25, 3.0)) for _ in range(3))
    origin = tuple(draw(st.floats(-500, 500)) for _ in range(3))
    return affine_of(turn @ draw(st.sampled_from(ALL_48)), spacing, origin)


def landmark_array(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Give air with one bright block of 3x3x3 voxels around LANDMARK, int16 HU."""
    array = np.full(shape, -1000, np.int16)
    x, y, z = LANDMARK
    array[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 400
    return array


def centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Give the centroid of a mask in the affine's mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
