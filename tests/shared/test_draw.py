import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from shared.draw import PALETTE, VIEWS, preview
from shared.types import Grid, Segmentation, Source, Volume

NAMES = {0: "background", 1: "LCA", 2: "RCA"}
RED, GREEN = (255, 0, 0), (0, 255, 0)


def scene(labels, spacing_mm=(0.5, 0.5, 0.5), findings=()):
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -0.5 * np.array(labels.shape) * spacing_mm
    source = Source(Grid(labels.shape, affine))
    array = np.random.default_rng(0).normal(50, 20, labels.shape).astype(np.float32)
    return Volume(array, affine, source), Segmentation(labels, affine, NAMES, source, findings)


def blob(shape, centre, label=1, radius=3):
    away = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return np.where((away**2).sum(0) <= radius**2, label, 0).astype(np.uint8)


def words(monkeypatch, draw):
    """What a picture says, as the texts that were drawn."""
    said = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, t, *a, **k: (said.append(t), text(self, xy, t, *a, **k))
    )
    draw()
    return said


def places(image: Image.Image, colour):
    """Columns and rows of the pixels in which one primary colour stands out, above the legend."""
    pixels = np.asarray(image).astype(int)[: int(image.height * 0.88)]
    channel = colour.index(255)
    others = [k for k in range(3) if k != channel]
    rows, columns = np.nonzero((pixels[..., channel] > 90) & (pixels[..., others].max(axis=-1) < 60))
    return columns, rows


@pytest.mark.parametrize(("axis", "directions"), [(0, "RL"), (1, "AP"), (2, "SI")])
def test_right_front_and_head_come_first(axis, directions):
    """Of two blobs apart along one axis, the one farther right, front or up lies farther left or higher."""
    shape = (60, 60, 60)
    lower, upper = [30, 30, 30], [30, 30, 30]
    lower[axis], upper[axis] = 12, 48
    volume, segmentation = scene(np.maximum(blob(shape, lower, 1), blob(shape, upper, 2)))
    image = preview(volume, segmentation, colours={"LCA": RED, "RCA": GREEN}, width_px=900)
    low, high = places(image, RED), places(image, GREEN)
    for number, view in enumerate(VIEWS):
        panel = (300 * number, 300 * (number + 1))
        across, down = (
            [values[(columns >= panel[0]) & (columns < panel[1])].mean() for columns, values in pairs]
            if view.depth != axis
            else (0, 0)
            for pairs in (((high[0], high[0]), (low[0], low[0])), ((high[0], high[1]), (low[0], low[1])))
        )
        if view.column == axis:
            assert across[0] < across[1] - 50
            assert view.letters[:2] == directions
        elif view.row == axis:
            assert down[0] < down[1] - 50
            assert view.letters[2:] == directions


def test_the_nearer_label_lies_in_front():
    shape = (40, 40, 40)
    low, high = blob(shape, (20, 20, 10), 1, 5), blob(shape, (20, 20, 30), 2, 5)
    volume, segmentation = scene(low + high)
    image = preview(volume, segmentation, colours={"LCA": RED, "RCA": GREEN}, width_px=900)
    axial = image.crop((0, 0, 300, image.height))
    assert len(places(axial, RED)[0]) > 10 * len(places(axial, GREEN)[0])  # seen from the feet


def test_physical_aspect():
    """A cube of mm is square on the picture, whatever its voxels."""
    labels = np.zeros((80, 40, 20), np.uint8)
    labels[30:50, 15:25, 8:13] = 1  # 10 mm each way
    volume, segmentation = scene(labels, (0.5, 1.0, 2.0))
    image = preview(volume, segmentation, colours={"LCA": RED}, width_px=900)
    columns, rows = places(image.crop((0, 0, 300, image.height)), RED)
    assert np.ptp(columns) == pytest.approx(np.ptp(rows), rel=0.15)


def test_lines_lie_on_their_labels_and_marks_are_said(monkeypatch):
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[20:55, 20:23, 33:36] = 2  # off the middle, so that a mirrored line would miss it
    volume, segmentation = scene(labels)
    line_mm = np.stack([np.linspace(-4, 11.5, 30), np.full(30, -4.5), np.full(30, 2.0)], axis=1)
    plain = preview(volume, segmentation, width_px=900)
    said = words(
        monkeypatch,
        lambda: preview(volume, segmentation, lines=[(line_mm, "RCA")], marks=[((0, 0, 0), "63 %")], width_px=900),
    )
    assert said.count("63 %") == 3
    lined = preview(volume, segmentation, lines=[(line_mm, "RCA")], width_px=900)
    changed = np.asarray(lined).astype(int).sum(-1) - np.asarray(plain).astype(int).sum(-1)
    rows, columns = np.nonzero(changed > 30)
    vessel = np.abs(np.asarray(plain).astype(int) - PALETTE[1]).sum(-1)[rows, columns]
    assert len(rows) > 100
    assert (vessel < 300).mean() > 0.9


def test_the_legend_names_volumes_and_every_picture_its_purpose(monkeypatch):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[5:15, 5:15, 5:25] = 1
    volume, segmentation = scene(labels)
    said = words(monkeypatch, lambda: preview(volume, segmentation, title="case 7", width_px=900))
    assert {"case 7", "LCA  0.25 ml", "Research software, not a medical device", "20 mm"} <= set(said)
    assert [said.count(letter) for letter in "RLAPSI"] == [2, 2, 2, 2, 2, 2]


def test_an_empty_segmentation_shows_the_scan_and_the_finding(monkeypatch):
    finding = "no contrast-filled artery was found: " + "nothing is brighter than 180 HU " * 8
    volume, segmentation = scene(np.zeros((30, 40, 20), np.uint8), findings=(finding,))
    said = words(monkeypatch, lambda: preview(volume, segmentation, width_px=700))
    assert finding.split() == [word for text in said if "HU" in text or "artery" in text for word in text.split()]
    assert np.asarray(preview(volume, segmentation, width_px=700)).std() > 10


@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 30)] * 3), seed=st.integers(0, 2**32 - 1), turned=st.booleans())
def test_any_grid_gives_a_picture_of_the_width_asked_for(shape, seed, turned):
    rng = np.random.default_rng(seed)
    volume, segmentation = scene((rng.random(shape) < 0.01).astype(np.uint8) * 3, tuple(rng.uniform(0.2, 3, 3)))
    if turned:
        axes, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
        volume.affine[:3, :3] = axes @ volume.affine[:3, :3]
    image = preview(volume, segmentation, lines=[(rng.normal(size=(5, 3)) * 20, "LCA")], width_px=400)
    assert image.mode == "RGB"
    assert image.width == 400
    assert image.height < 700
