"""Phantom limbs: the same on every run, exact boxes and masks, and read back as they were made."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from bones.cases import find_cases, scan_folder
from bones.formats.rle import decode
from bones.masks import bone_mask
from bones.phantom import PhantomConfig, make, write_dataset
from bones.phantom_bones import LongBone, Motion
from bones.phantom_breaks import BREAKS, MARGIN, broken_ends, draw_break
from bones.phantom_limbs import LIMBS
from bones.phantom_render import Texture, View, pieces_of, seen, soft_tissue
from shared.io.radiograph import from_array, read_radiograph

SMALL = PhantomConfig(size_px=112, implants=0.5)
BONE = LongBone("tibia", (0.0, -60.0), (0.0, 60.0), 9.0, (16.0, 14.0), 3.5)
VIEW = View(160, 280, 0.5, (0.0, 0.0), 0.2, True)
SHIFT = st.floats(-200, 200)


@given(angle=st.floats(-4, 4), x=SHIFT, y=SHIFT, other=st.tuples(st.floats(-4, 4), SHIFT, SHIFT), px=SHIFT, py=SHIFT)
def test_motions_undo_and_follow_each_other(angle, x, y, other, px, py) -> None:
    one, two = Motion(angle, x, y), Motion(*other)
    point = np.array(px), np.array(py)
    np.testing.assert_allclose(one.undo(*one.apply(*point)), point, atol=1e-9)
    np.testing.assert_allclose(one.after(two).apply(*point), one.apply(*two.apply(*point)), atol=1e-9)
    about = Motion.about(px, py, angle, (x, y))
    np.testing.assert_allclose(about.apply(*point), (px + x, py + y), atol=1e-9)


@given(px=st.floats(0, 160), py=st.floats(0, 280), angle=st.floats(-4, 4), mirrored=st.booleans())
def test_the_view_goes_to_millimetres_and_back(px, py, angle, mirrored) -> None:
    view = replace(VIEW, angle_rad=angle, mirrored=mirrored, centre=(12.0, -30.0))
    x, y = view.grid()
    k = int(min(py, 279)), int(min(px, 159))
    back = view.to_px(np.array([[x[k], y[k]]]))
    np.testing.assert_allclose(back, [[k[1] + 0.5, k[0] + 0.5]], atol=1e-9)


@given(along=st.floats(0, 120), across=st.floats(-20, 20), bow=st.floats(-10, 10))
def test_a_bones_frame_goes_to_the_film_and_back(along, across, bow) -> None:
    bone = replace(BONE, bow_mm=bow, start=(10.0, -30.0), end=(70.0, 50.0))
    x, y = bone.points(np.array(along * 100 / 120), np.array(across))
    np.testing.assert_allclose(bone.along_across(x, y), (along * 100 / 120, across), atol=1e-9)


def line_of(bone: LongBone, breaks: dict) -> np.ndarray:
    """What each ray crosses of one bone."""
    x, y = VIEW.grid()
    line = np.zeros(x.shape)
    for piece in pieces_of([bone], breaks):
        window, added, _ = seen(piece, x, y, Texture(np.random.default_rng(0), 0.0))
        line[window] += added
    return line


@pytest.mark.parametrize("displaced", [True, False])
@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("seed", range(2))
def test_a_box_holds_all_that_the_break_changed_and_little_more(kind, displaced, seed) -> None:
    """The change a break makes in the line integrals is within its box and, but for its margin, fills it."""
    changed, one = draw_break(np.random.default_rng(seed), BONE, kind, displaced)
    if kind == "buckle":
        before, after = line_of(BONE, {}), line_of(changed, {})
    elif displaced:
        # With the far fragment taken away, the bone, which lies upright, ends within the box of the break.
        gone = replace(one, motion=Motion(0.0, 1e4, 0.0))
        after = line_of(changed, {BONE.name: gone})
        still = replace(one, motion=Motion())
        ends = VIEW.to_px(broken_ends(changed, still, Motion()))
        rows = np.flatnonzero((after > 0.01).any(axis=1))
        assert ends[:, 1].min() <= rows[-1] + 0.5 <= ends[:, 1].max()
        return
    else:
        one = replace(one, motion=Motion())
        before, after = line_of(BONE, {}), line_of(changed, {BONE.name: one})
    points = VIEW.to_px(broken_ends(changed, one, Motion()))
    low, high = points.min(axis=0), points.max(axis=0)
    rows, columns = np.nonzero(np.abs(after - before) > 0.02 * before.max())
    assert len(rows)
    first = np.array([columns.min(), rows.min()])
    last = np.array([columns.max(), rows.max()]) + 1
    assert (low - 1 <= first).all()
    assert (last <= high + 1).all()
    margin = MARGIN * BONE.shaft_mm / VIEW.mm_per_px
    slack = margin * 2 + 3 if kind == "buckle" else margin + 5  # a bulge fades out
    assert (first - low <= slack).all()
    assert (high - last <= slack).all()


@pytest.mark.parametrize("kind", ["transverse", "oblique", "spiral"])
def test_flesh_does_not_tell_where_the_bone_is_cracked(kind) -> None:
    changed, one = draw_break(np.random.default_rng(2), BONE, kind, False)
    whole = soft_tissue(pieces_of([BONE], {}), *VIEW.grid(), 1.0)
    cracked = soft_tissue(pieces_of([changed], {BONE.name: replace(one, motion=Motion())}), *VIEW.grid(), 1.0)
    np.testing.assert_allclose(cracked, whole, atol=1e-9)


def test_what_hangs_on_a_far_fragment_goes_with_it() -> None:
    child = replace(BONE, name="foot", start=(0.0, 62.0), end=(0.0, 90.0), parent="tibia")
    _, one = draw_break(np.random.default_rng(1), BONE, "transverse", True)
    pieces = {(piece.bone.name, piece.near): piece.motion for piece in pieces_of([child, BONE], {"tibia": one})}
    assert pieces["tibia", True] == Motion()
    assert pieces["tibia", False] == one.motion == pieces["foot", True]


@pytest.mark.parametrize("index", range(8))
def test_a_phantom_is_a_function_of_seed_and_number(index: int) -> None:
    one, again = make(4, index, SMALL), make(4, index, SMALL)
    assert one.picture.tobytes() == again.picture.tobytes()
    assert (one.boxes == again.boxes).all()
    assert make(5, index, SMALL).picture.tobytes() != one.picture.tobytes()
    height, width = one.picture.shape
    assert one.picture.dtype == np.float32
    assert max(height, width) == 112
    assert 0 <= one.picture.min() < 0.2
    assert 0.5 < one.picture.max() <= 1
    assert (one.boxes[:, :2] >= 0).all()
    assert (one.boxes[:, 2:] <= (width, height)).all()
    assert ((one.boxes[:, 2:] - one.boxes[:, :2]) >= 2).all()
    assert len(one.boxes) == len(one.kinds)
    union = np.any([instance.mask for instance in one.instances], axis=0)
    assert (union == one.bone_mask).all()
    assert 0.02 < one.bone_mask.mean() < 0.7
    assert one.picture[one.bone_mask].mean() > one.picture[~one.bone_mask].mean() + 0.1
    for x1, y1, x2, y2 in one.boxes:
        assert one.bone_mask[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)].any()


def test_whole_limbs_have_no_boxes_and_every_limb_can_be_drawn() -> None:
    for number, limb in enumerate(LIMBS):
        phantom = make(1, number, SMALL.model_copy(update={"limbs": (limb,), "broken": 0.0}))
        assert (phantom.limb, phantom.boxes.shape, phantom.kinds) == (limb, (0, 4), ())
        assert phantom.instances


@limits(max_examples=3)
@given(seed=st.integers(0, 2**31))
def test_a_data_set_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("phantoms")
    heard: list[int] = []
    config = PhantomConfig(size_px=64, broken=1.0, implants=0.5)
    assert write_dataset(folder, 5, seed, config, first_id=3, on_case=heard.append) == [3, 4, 5, 6, 7]
    assert heard == [1, 2, 3, 4, 5]
    found = scan_folder(folder)
    assert (found.layout, found.problems) == ("COCO", ())
    assert sorted((case.name, case.part) for case in found.cases) == [
        ("train/00003.png", "training"), ("train/00004.png", "training"), ("train/00005.png", "training"),
        ("train/00007.png", "training"), ("valid/00006.png", "validation"),
    ]  # fmt: skip
    broken = {case.name: case for case in find_cases(folder, ("fracture",))}
    for case in found.cases:
        made = make(seed, int(case.picture.stem), config)
        stored = from_array(np.round(made.picture * 255).astype(np.uint8))
        np.testing.assert_array_equal(read_radiograph(case.picture).array, stored.array)
        masks = [decode(outline) for outline in case.outlines or () if outline is not None]
        assert len(masks) == len(made.instances)
        assert all((mask == one.mask).all() for mask, one in zip(masks, made.instances, strict=True))
        assert case.labels == (*(one.label for one in made.instances), *("fracture",) * len(made.boxes))
        assert (bone_mask(case) == made.bone_mask).all()
        np.testing.assert_array_equal(broken[case.name].boxes, made.boxes)
        assert case.fractured == bool(len(made.boxes))


def test_breaks_come_as_often_as_asked_and_in_all_kinds() -> None:
    config = PhantomConfig(size_px=144, broken=0.7)
    made = [make(0, number, config) for number in range(30)]
    assert 0.5 < np.mean([len(one.boxes) > 0 for one in made]) < 0.9
    kinds = {kind.split()[0] for one in made for kind in one.kinds}
    assert kinds == set(BREAKS)
    assert {kind.split()[-1] for one in made for kind in one.kinds} == {"displaced", "hairline", "buckle"}
