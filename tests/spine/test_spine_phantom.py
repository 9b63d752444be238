"""Phantoms: a function of their seed, outlines that lie where the bones are, names in order, the data set's layout."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shared.errors import SetupError
from spine.cases import find_films, read_labels
from spine.config import LEVELS
from spine.phantom import PhantomConfig, make_phantom, write_dataset

SMALL = PhantomConfig(long_side_px=200)
VIEWS = pytest.mark.parametrize("view", ["ap", "lateral"])
REGIONS = pytest.mark.parametrize("region", ["cervical", "thoracic", "lumbar", "whole"])


def mask(shape, corners):
    image = Image.new("1", shape[::-1])
    ImageDraw.Draw(image).polygon([tuple(point) for point in corners], fill=1)
    return np.asarray(image)


def test_a_film_is_a_function_of_its_seed():
    one, again, other = make_phantom(3, SMALL), make_phantom(3, SMALL), make_phantom(4, SMALL)
    np.testing.assert_array_equal(one.picture, again.picture)
    assert [level for level, _ in one.outlines] == [level for level, _ in again.outlines]
    assert one.picture.shape != other.picture.shape or np.abs(one.picture - other.picture).max() > 0.1


@VIEWS
@REGIONS
def test_names_follow_the_spine_and_outlines_lie_on_the_film(view, region):
    for seed in range(3):
        found = make_phantom(seed, SMALL.model_copy(update={"views": (view,), "regions": (region,)}))
        numbers = [LEVELS.index(level) for level, _ in found.outlines]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        wanted = {"cervical": "C4", "thoracic": "T6", "lumbar": "L3", "whole": "T12"}[region]
        assert wanted in [level for level, _ in found.outlines]
        height, width = found.picture.shape
        middles = np.array([corners.mean(axis=0) for _, corners in found.outlines])
        assert (np.diff(middles[:, 1]) > 0).all()
        for _, corners in found.outlines:
            assert corners.min() >= 0
            assert (corners <= [width, height]).all()
        assert found.picture.min() >= 0
        assert found.picture.max() <= 1
        assert found.picture.std() > 0.1


@VIEWS
def test_bodies_are_brighter_than_the_discs_and_tissue_beside_them(view):
    config = PhantomConfig(views=(view,), regions=("lumbar",), long_side_px=400, noise=0.0)
    brighter = []
    for seed in range(4):
        found = make_phantom(seed, config)
        for _, corners in found.outlines:
            inside = mask(found.picture.shape, corners)
            grown = (corners - corners.mean(0)) * 1.5 + corners.mean(0)
            around = mask(found.picture.shape, grown) & ~inside
            brighter.append(found.picture[inside].mean() > found.picture[around].mean())
    assert np.mean(brighter) > 0.85


def test_spacing_is_that_of_people():
    # Heights of T12 to L4 with their discs: some 31 to 36 mm in adults (VID's 1,947 CT spines); children less.
    steps = []
    for seed in range(12):
        found = make_phantom(seed, SMALL.model_copy(update={"views": ("ap",), "regions": ("lumbar",)}))
        middles = {level: corners.mean(axis=0) for level, corners in found.outlines}
        steps.append(np.linalg.norm(middles["L3"] - middles["L2"]) * found.spacing_mm)
    assert 24 < np.mean(steps) < 38


def test_a_data_set_in_the_layout_of_merge(tmp_path):
    names = write_dataset(tmp_path / "set", 6, seed=5, config=SMALL)
    films = find_films(tmp_path / "set")
    assert sorted(film.image.stem for film in films) == sorted(names)
    assert sorted(film.part for film in films) == ["train"] * 5 + ["val"]
    assert len({film.group for film in films}) == 6
    for film in films:
        classes, polygons = read_labels(film.label)
        assert len(classes) > 3
        assert all(0 <= polygon.min() <= polygon.max() <= 1 for polygon in polygons)
        with Image.open(film.image) as image:
            assert image.mode == "L"
    assert "train: train/images" in (tmp_path / "set" / "data.yaml").read_text()
    with pytest.raises(SetupError, match="already"):
        write_dataset(tmp_path / "set", 1)
