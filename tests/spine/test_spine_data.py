"""Films as the trainer draws them: shapes, weights, turns, and nothing random but by seed, epoch and place."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from shared.config import apply_preset
from shared.io.radiograph import read_radiograph
from spine.cases import find_films, load_films, read_labels, save_films
from spine.config import LEVELS, PRESETS, Config
from spine.data import (
    FEWEST,
    WHOLE,
    Draw,
    EpochSampler,
    Films,
    cut_off,
    film_weights,
    quarter_turned,
    random_span,
    training_loader,
)
from spine.phantom import PhantomConfig, write_dataset
from spine.trainer import trainer_settings

SIZES = [(640, 240), (640, 250), (600, 300), (500, 500), (300, 600), (200, 700), (640, 288)]
CONFIG = apply_preset(Config(), PRESETS["smoke"]).model_copy(update={"size_px": 96})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("films") / "set"
    write_dataset(out, 5, seed=1, config=PhantomConfig(long_side_px=128, validation_fraction=0.2))
    return out


def hyp(config, tmp_path):
    from ultralytics.cfg import get_cfg

    return get_cfg(overrides={k: v for k, v in trainer_settings(config, tmp_path, "cpu").items() if k != "data"})


def films_of(folder, config, tmp_path, augment=True):
    films = [film for film in find_films(folder) if film.part == "train"]
    return Films(films, config, hyp(config, tmp_path), augment=augment, batch=2, keep=True)


def sampler(sizes=SIZES, weights=None, batch=2, rectangular=True, seed=0, **share):
    return EpochSampler(
        sizes, np.ones(len(sizes)) if weights is None else weights, batch, 640, rectangular, seed, **share
    )


@limits(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(100, 900), st.integers(100, 900)), min_size=1, max_size=30),
    st.integers(1, 5), st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_every_film_comes_once_and_fits_its_batch(sizes, batch, rectangular, epoch):
    drawn = sampler(sizes, batch=batch, rectangular=rectangular)
    drawn.epoch = epoch
    draws = list(drawn)
    assert len(draws) == len(drawn) == -(-len(sizes) // batch) * batch
    counts = Counter(draw.film for draw in draws)
    assert set(counts) == set(range(len(sizes)))
    assert max(counts.values()) <= -(-len(draws) // len(sizes))
    for start in range(0, len(draws), batch):
        group = draws[start : start + batch]
        assert len({(draw.height_px, draw.width_px) for draw in group}) == 1
        for draw in group:
            height, width = sizes[draw.film]
            assert draw.height_px % 32 == draw.width_px % 32 == 0
            assert draw.height_px >= 640 * height / max(height, width) - 1e-6
            assert draw.width_px >= 640 * width / max(height, width) - 1e-6
            assert max(draw.height_px, draw.width_px) == 640


def test_epochs_differ_and_repeat_by_their_number():
    first, again = sampler(), sampler()
    epochs = [list(first) for _ in range(3)]
    assert epochs[0] != epochs[1]
    again.epoch = 2
    assert list(again) == epochs[2]
    assert list(sampler(seed=1)) != epochs[0]


def test_processes_share_an_epoch_without_overlap():
    whole = list(sampler(batch=1))
    shares = [list(sampler(batch=1, rank=rank, world=2)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1])
    places = [draw.place for share in shares for draw in share]
    assert len(set(places)) == len(places)
    assert {draw.film for share in shares for draw in share} == {draw.film for draw in whole}


def test_a_weight_is_how_often_a_film_comes():
    drawn = sampler([(640, 240)] * 8, np.array([3.0, *[1.0] * 7]), batch=2)
    counts = Counter(draw.film for _ in range(50) for draw in drawn)
    assert counts[0] / 400 == pytest.approx(0.3, abs=0.03)


def test_rare_levels_weigh_more():
    common, rare = LEVELS.index("L3"), LEVELS.index("C2")
    classes = [np.array([common])] * 99 + [np.array([common, rare])]
    np.testing.assert_allclose(film_weights(classes, 0.0), 1.0)
    weights = film_weights(classes, 0.25)
    np.testing.assert_allclose(weights[:-1], 1.0)
    assert weights[-1] == pytest.approx(5.0)  # sqrt(0.25 / 0.01)


def test_training_sees_what_prediction_reads(folder, tmp_path):
    films = films_of(folder, CONFIG, tmp_path)
    k = 1
    picture, size, _ = films.load_image(k)
    grey = read_radiograph(films.im_files[k]).array
    assert size == grey.shape
    assert max(picture.shape) == 96
    assert (picture == picture[..., :1]).all()
    small = Image.fromarray(grey).resize(picture.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(small) * 255 - picture[..., 0]).mean() < 12


def test_a_draw_is_a_function_of_seed_epoch_and_place(folder, tmp_path):
    films = films_of(folder, CONFIG, tmp_path)
    draw = Draw(2, epoch=3, place=1, height_px=96, width_px=64)
    one, again = films[draw], films[draw]
    other = films[draw._replace(epoch=4)]
    assert (one["img"] == again["img"]).all()
    assert (one["bboxes"] == again["bboxes"]).all()
    assert (one["masks"] == again["masks"]).all()
    assert one["img"].shape == other["img"].shape == (3, 96, 64)
    assert (one["img"] != other["img"]).any()


def test_masks_and_boxes_lie_on_the_same_vertebrae(folder, tmp_path):
    films = films_of(folder, CONFIG, tmp_path)
    found = films[Draw(1, 0, 0, 96, 64)]
    mask = found["masks"][0].numpy()
    height, width = mask.shape
    # The lower of overlapping vertebrae is drawn last; each box is the extent of its number in the mask.
    assert set(np.unique(mask)) <= set(range(len(found["cls"]) + 1))
    for k, (x, y) in enumerate(found["bboxes"].numpy()[:, :2] * [width, height], start=1):
        rows, columns = np.nonzero(mask == k)
        if len(rows) > 6:
            assert rows.mean() + 0.5 == pytest.approx(y, abs=2)
            assert columns.mean() + 0.5 == pytest.approx(x, abs=2)


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_a_quarter_turn_takes_labels_along(turns):
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[4:8, 2:6] = 255
    outline = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.2], [0.1, 0.2]], np.float32)
    label = {"img": picture, "ori_shape": (40, 20), "resized_shape": (40, 20), "segments": [outline],
             "bboxes": np.array([[0.2, 0.15, 0.2, 0.1]], np.float32)}  # fmt: skip
    found = quarter_turned(label, turns)
    rows, columns = np.nonzero(found["img"][..., 0])
    height, width = found["img"].shape[:2]
    low, high = found["segments"][0].min(0) * [width, height], found["segments"][0].max(0) * [width, height]
    np.testing.assert_allclose(
        [low, high], [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], atol=1e-4
    )
    np.testing.assert_allclose(found["bboxes"][0, :2] * [width, height], (low + high) / 2, atol=1e-4)
    np.testing.assert_allclose(found["bboxes"][0, 2:] * [width, height], high - low, atol=1e-4)
    assert found["resized_shape"] == found["img"].shape[:2]


def column(count, top=0.1, bottom=0.8):
    """So many vertebrae down a film, each seven tenths of the space it has."""
    edges = np.linspace(top, bottom, count + 1)
    return np.stack([edges[:-1], edges[:-1] + 0.7 * np.diff(edges)], axis=1)


@limits(max_examples=60)
@given(st.integers(0, 24), st.integers(0, 10**6))
def test_a_cut_goes_through_no_vertebra_and_leaves_some(count, seed):
    extents = column(count)
    top, bottom = random_span(extents, np.random.default_rng(seed))
    assert 0 <= top < bottom <= 1
    inside = (extents[:, 0] >= top) & (extents[:, 1] <= bottom)
    outside = (extents[:, 1] <= top) | (extents[:, 0] >= bottom)
    assert (inside ^ outside).all()
    assert inside.sum() >= min(count, FEWEST)


def test_cuts_are_of_every_kind():
    rng, extents = np.random.default_rng(0), column(17)
    spans = np.array([random_span(extents, rng) for _ in range(300)])
    margins = [(spans[:, 0] < extents[0, 0]).mean(), (spans[:, 1] > extents[-1, 1]).mean()]
    assert all(0.4 < share < 0.7 for share in margins)
    assert len(np.unique(spans.round(6), axis=0)) > 250


def test_a_cut_takes_labels_along():
    outlines = [np.array([[0.2, y], [0.6, y], [0.6, y + 0.1], [0.2, y + 0.1]], np.float32) for y in (0.1, 0.45, 0.7)]
    label = {"cls": np.array([[7.0], [8.0], [9.0]]), "segments": outlines, "bboxes": np.zeros((3, 4), np.float32)}
    found = cut_off(label, 0.4, 0.76)  # the last one's centre, 0.75, is just inside
    assert found["cls"].ravel().tolist() == [8.0, 9.0]
    back = [s * [1, 0.36] + [0, 0.4] for s in found["segments"]]
    np.testing.assert_allclose(back[0], outlines[1], atol=1e-6)
    np.testing.assert_allclose(back[1], np.minimum(outlines[2], [1, 0.76]), atol=1e-6)
    np.testing.assert_allclose(found["bboxes"][0], [0.4, 0.1 / 0.36, 0.4, 0.1 / 0.36], atol=1e-5)
    assert cut_off(label, 0.85, 1.0)["bboxes"].shape == (0, 4)


def test_of_a_cut_film_the_network_sees_that_part(folder, tmp_path):
    config = CONFIG.model_copy(update={"augmentation": CONFIG.augmentation.model_copy(update={
        "mirror": 0.0, "scale": 0.0, "translate": 0.0, "degrees": 0.0, "brightness": 0.0})})  # fmt: skip
    films = films_of(folder, config, tmp_path)
    for film in range(len(films)):
        classes, polygons = read_labels(films.films[films.im_files[film]].label)
        middles = np.array([(p[:, 1].min() + p[:, 1].max()) / 2 for p in polygons])
        found = films[Draw(film, 0, 0, 96, 96, (0.25, 0.75))]
        assert sorted(found["cls"][:, 0].tolist()) == sorted(classes[(middles > 0.25) & (middles < 0.75)].tolist())
        assert found["img"].shape == (3, 96, 96)
        height = films.load_image(film)[1][0]
        part = read_radiograph(films.im_files[film]).array[round(0.25 * height) : round(0.75 * height)]
        scale = 96 / max(part.shape)
        x1, y1 = (96 - np.array(part.shape[::-1]) * scale) / 2
        seen = found["img"][0].numpy()[round(y1) : round(96 - y1), round(x1) : round(96 - x1)] / 255
        same = np.asarray(Image.fromarray(part).resize(seen.shape[::-1], Image.Resampling.BILINEAR))
        assert np.abs(seen - same).mean() < 0.06
    assert films.span == WHOLE


def test_cut_films_fit_their_batch_and_repeat_by_epoch():
    extents = [column(12)] * len(SIZES)
    first, again = (sampler(cut=0.7, extents=extents) for _ in range(2))
    draws = list(first)
    assert draws == list(again)
    spans = {draw.span for draw in draws}
    assert len(spans - {WHOLE}) >= 3
    for draw in draws:
        height, width = SIZES[draw.film]
        height *= draw.span[1] - draw.span[0]
        assert draw.height_px >= 640 * height / max(height, width) - 1e-6
        assert draw.width_px >= 640 * width / max(height, width) - 1e-6
    assert {draw.span for draw in sampler(cut=0.0, extents=extents)} == {WHOLE}


def test_batches_come_whole_and_epoch_after_epoch(folder, tmp_path):
    films = films_of(folder, CONFIG, tmp_path)
    loader = training_loader(films, CONFIG, batch=2, workers=0, rank=0, world=1)
    seen = [[batch["img"].shape for batch in loader] for _ in range(2)]
    assert [len(epoch) for epoch in seen] == [2, 2]
    assert all(shape[0] == 2 and shape[2] % 32 == 0 for epoch in seen for shape in epoch)
    assert loader.sampler.epoch == 2


def test_looking_at_films_changes_nothing_of_them(folder, tmp_path):
    films = films_of(folder, CONFIG, tmp_path, augment=False)
    found = films[0]
    classes, polygons = read_labels(films.films[films.im_files[0]].label)
    assert sorted(found["cls"][:, 0].tolist()) == sorted(classes.tolist())
    assert len(polygons) == len(found["bboxes"])


def test_reference_settings_are_numbers_for_numbers(tmp_path):
    reference = apply_preset(Config(), PRESETS["reference"])
    given_ = SimpleNamespace(**trainer_settings(reference, tmp_path, "cpu"))
    assert (given_.model, given_.imgsz, given_.batch, given_.epochs) == ("yolo11n-seg.yaml", 640, 16, 250)
    from ultralytics.utils import DEFAULT_CFG_DICT

    theirs = ("nbs", "optimizer", "lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "cos_lr", "patience",
              "mosaic", "close_mosaic", "degrees", "translate", "scale", "shear", "fliplr", "hsv_v")  # fmt: skip
    assert {name: getattr(given_, name) for name in theirs} == {name: DEFAULT_CFG_DICT[name] for name in theirs}


def test_a_run_finds_its_films_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    save_films(tmp_path / "films.json", {"training": find_films(Path(folder.name))})
    monkeypatch.chdir(tmp_path)
    assert all(film.image.exists() and film.label.exists() for film in load_films(tmp_path / "films.json")["training"])
