"""Outlines: clipped, untangled, or refused with a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from spine.polygons import PolygonError, clipped, mend, signed_area

BOX = np.array([[10.0, 10], [50, 10], [50, 40], [10, 40]])
POINT = st.tuples(st.floats(-40, 140), st.floats(-40, 140))


def raster(corners, side=100, finer=8):
    image = Image.new("1", (side * finer, side * finer))
    ImageDraw.Draw(image).polygon([tuple(point) for point in corners * finer], fill=1)
    return np.asarray(image)


def crosses(corners):
    """Whether two sides that do not meet at a corner cut each other, by the plain test of orientations."""

    def turn(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    n = len(corners)
    sides = [(corners[i], corners[(i + 1) % n]) for i in range(n)]
    for i in range(n):
        for j in range(i + 2, n if i else n - 1):
            (a, b), (c, d) = sides[i], sides[j]
            if turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0:
                return True
    return False


def test_what_is_right_is_left_as_it_is():
    found = mend(BOX, 100, 100)
    np.testing.assert_array_equal(found.corners_px, BOX)
    assert found.changes == ()
    closed = mend(np.vstack([BOX, BOX[:1]]), 100, 100)
    np.testing.assert_array_equal(closed.corners_px, BOX)
    assert closed.changes == ()


def test_two_swapped_corners_of_a_quad_are_put_in_order():
    found = mend(BOX[[0, 2, 1, 3]], 100, 100)
    assert abs(signed_area(found.corners_px)) == pytest.approx(40 * 30)
    assert found.changes == ("crossed itself",)


def test_the_smaller_loop_is_cut_off():
    # A square with a small twist in its right side.
    corners = np.array([[10.0, 10], [60, 10], [60, 38], [64, 42], [64, 38], [60, 42], [60, 70], [10, 70]])
    found = mend(corners, 100, 100)
    assert not crosses(found.corners_px)
    assert abs(signed_area(found.corners_px)) == pytest.approx(50 * 60, abs=20)


def test_what_reaches_beyond_the_film_is_cut():
    found = mend(BOX - [20, 0], 100, 100)
    assert found.changes == ("reached beyond the film",)
    assert abs(signed_area(found.corners_px)) == pytest.approx(30 * 30)
    assert found.corners_px.min() >= 0


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        (BOX[:2], "2 points"),
        (BOX[[0, 1, 1, 0]], "2 points"),
        (BOX - [45, 0], "outside"),
        (BOX - [-200, 0], "outside"),
        (BOX * [1, np.nan], "no number"),
        (BOX[[0, 0, 0, 0]] + [[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]], "too small"),
    ],
)
def test_what_cannot_be_used_says_why(corners, reason):
    with pytest.raises(PolygonError, match=reason):
        mend(np.asarray(corners, float), 100, 100)


@given(st.lists(POINT, min_size=3, max_size=9))
def test_whatever_comes_out_lies_in_the_film_and_does_not_cross_itself(points):
    try:
        found = mend(np.array(points), 100, 100).corners_px
    except PolygonError:
        return
    assert found.min() >= 0
    assert found.max() <= 100
    assert len(found) >= 3
    # Cutting at the film's edge may run along it twice; inside nothing crosses.
    assert not crosses(found) or np.isin(found, [0.0, 100.0]).any()


@given(st.floats(-30, 110), st.floats(-30, 110), st.floats(5, 60), st.floats(5, 60), st.floats(0, np.pi))
def test_clipping_is_what_a_raster_shows(x, y, width, height, turn):
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * [width, height]
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [x, y]
    inside = clipped(corners, 100, 100)
    area = abs(signed_area(inside)) if len(inside) >= 3 else 0.0
    assert area == pytest.approx(raster(corners).mean() * 100**2, abs=30)
