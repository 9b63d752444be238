"""The default operating point: what it is chosen by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from spine_factory import HEIGHT_PX, SPINE_BOXES, SPINE_LEVELS, WIDTH_PX, finds, tiny_model, write_film

from spine.cases import Film
from spine.config import LEVELS
from spine.decode import Candidates
from spine.masks import mask_of
from spine.model_file import OperatingPoint
from spine.predict import Predictor, named, tempered
from spine.scoring import Named
from spine.tuning import (
    CONFIDENCES,
    USUAL,
    Tried,
    Trust,
    best,
    choose,
    likeliest_temperature,
    log_loss,
    shares_right,
)


def candidates(boxes, levels, sure):
    scores = np.full((len(boxes), len(LEVELS)), 1e-4, np.float32)
    scores[np.arange(len(boxes)), levels] = sure
    corners = [np.array([[a, b], [c, b], [c, d], [a, d]], np.float32) for a, b, c, d in boxes]
    masks = tuple(mask_of(corner, WIDTH_PX, HEIGHT_PX) for corner in corners)
    return Candidates(np.asarray(boxes, np.float32), scores, masks, corners.__getitem__)


def test_a_faint_vertebra_counts_until_its_confidence_is_asked_for():
    sure = np.array([0.9, 0.9, 0.12, 0.9, 0.9, 0.9])
    film = Tried(
        candidates(SPINE_BOXES, SPINE_LEVELS, sure), Named(SPINE_BOXES, np.array(SPINE_LEVELS)), WIDTH_PX, HEIGHT_PX
    )
    shares = shares_right([film], USUAL)
    assert [shares[confidence] for confidence in (0.02, 0.1, 0.14, 0.5)] == pytest.approx([1, 1, 5 / 6, 5 / 6])
    assert best(shares) == 0.05  # the middle of 0.02 to 0.1


def test_the_best_one_wins_and_of_equals_the_middle_one():
    assert best({0.02: 0.5, 0.1: 0.9, 0.2: 0.8995, 0.5: 0.7}) == 0.2
    assert best({0.02: 0.5, 0.1: 0.96, 0.2: 0.9, 0.5: 0.7}) == 0.1


def test_films_are_read_once_and_the_overlap_is_the_models_own(tmp_path):
    image = write_film(tmp_path / "film.png")
    lines = [
        f"{level} " + " ".join(f"{x / WIDTH_PX} {y / HEIGHT_PX}" for x, y in ((a, b), (c, b), (c, d), (a, d)))
        for level, (a, b, c, d) in zip(SPINE_LEVELS, SPINE_BOXES, strict=True)
    ]
    (tmp_path / "film.txt").write_text("\n".join(lines))
    predictor = finds(Predictor(tiny_model(), "cpu", operating_point=OperatingPoint(confidence=0.3, iou=0.4)))
    chosen = choose(predictor, [Film(image, tmp_path / "film.txt", "val", "one")])
    assert chosen.point.iou == 0.4
    assert chosen.point.confidence in CONFIDENCES
    assert chosen.shares == pytest.approx(dict.fromkeys(CONFIDENCES, 1.0))
    assert chosen.temperature == 1  # never surer than the order is


@pytest.mark.parametrize(("trusting", "doubting"), [((0.01, 1.0), (0.45, 1.0)), ((0.12, 1.0), (0.12, 0.2))])
def test_how_far_names_are_trusted_is_the_models_own(trusting, doubting):
    """The same candidates with the right names: surer where a neighbour's is rare, and where scores count whole."""
    given = candidates(SPINE_BOXES, SPINE_LEVELS, np.full(6, 0.6))
    sure, unsure = (named(given, WIDTH_PX, HEIGHT_PX, *how) for how in (trusting, doubting))
    assert sure.labels.tolist() == SPINE_LEVELS
    assert sure.scores.min() > unsure.scores.min() + 0.01


def test_scores_that_are_a_neighbours_are_trusted_less():
    """On every other film all scores are those of the level below."""
    wrong = [level + 1 for level in SPINE_LEVELS]
    right, shifted = (candidates(SPINE_BOXES, levels, np.full(6, 0.95)) for levels in (SPINE_LEVELS, wrong))
    truth = Named(SPINE_BOXES, np.array(SPINE_LEVELS))
    sound, unsound = (
        [Tried(given, truth, WIDTH_PX, HEIGHT_PX) for given in films] for films in ((right, right), (right, shifted))
    )
    doubting, trusting = Trust(0.4, 0.35), Trust(0.03, 1.0)
    assert log_loss(sound, trusting, 0.1) < log_loss(sound, doubting, 0.1) < log_loss(unsound, doubting, 0.1)
    assert log_loss([], USUAL, 0.1) == 0
    nothing = Tried(right.above(0.99), truth, WIDTH_PX, HEIGHT_PX)
    assert log_loss([nothing], USUAL, 0.1) == 0


@given(arrays(np.float64, (3, 24), elements=st.floats(0, 1 / 24)), st.floats(1, 20))
def test_tempered_probabilities_keep_their_order_and_the_likeliest_becomes_less_so(posteriors, temperature):
    posteriors[0, 5] += 1 - posteriors[0].sum()  # a candidate that is a vertebra for certain
    found = tempered(posteriors, temperature)
    assert ((found >= 0) & (found.sum(axis=1, keepdims=True) <= 1 + 1e-9)).all()
    for before, after in zip(posteriors, found, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= -1e-12).all()
        if before.max() >= 1 - before.sum():
            assert after.max() <= before.max() + 1e-9
    np.testing.assert_allclose(tempered(posteriors, 1.0), posteriors, atol=1e-12)


def test_names_are_as_sure_as_they_are_right():
    """Every other film's names are off by one, and no candidate is less sure than on the rest."""
    wrong = [level + 1 for level in SPINE_LEVELS]
    film = candidates(SPINE_BOXES, SPINE_LEVELS, np.full(6, 0.95))
    films = [
        Tried(film, Named(SPINE_BOXES, np.array(levels)), WIDTH_PX, HEIGHT_PX) for levels in (SPINE_LEVELS, wrong) * 4
    ]
    temperature = likeliest_temperature(films, USUAL, 0.1)
    before, after = (named(film, WIDTH_PX, HEIGHT_PX, *USUAL, one) for one in (1.0, temperature))
    assert after.labels.tolist() == before.labels.tolist() == SPINE_LEVELS
    assert before.scores.min() > 0.85
    assert after.scores.mean() == pytest.approx(0.5, abs=0.05)
