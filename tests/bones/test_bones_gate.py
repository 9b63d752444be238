"""The gate's decision: what passes, what is turned away and why, and that thresholds alone decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bones.gate import GateSettings, decide
from shared.config import apply_preset
from shared.errors import SetupError
from shared.types import PictureSource

SIDE = 56
LIMB = np.s_[:, 16:40]
BONE = np.s_[:, 23:33]


def radiograph() -> np.ndarray:
    """A bone in a limb on black, with a little noise."""
    picture = np.zeros((SIDE, SIDE), np.float32)
    picture[LIMB], picture[BONE] = 0.4, 0.8
    return np.clip(picture + np.random.default_rng(0).normal(0, 0.01, picture.shape), 0, 1).astype(np.float32)


def found(where: tuple[slice, ...] = BONE, probability: float = 0.95) -> np.ndarray:
    """What a network would say of it."""
    result = np.full((SIDE, SIDE), 0.02, np.float32)
    result[where] = probability
    return result


def test_a_radiograph_with_bone_passes() -> None:
    decision = decide(found(), radiograph(), PictureSource(), GateSettings())
    assert decision.passed
    assert decision.area_fraction == pytest.approx(10 / SIDE)
    assert decision.confidence == pytest.approx(0.95)
    assert decision.mask.sum() == 10 * SIDE
    assert "18%" in decision.reason


any_settings = st.builds(
    GateSettings,
    mask_probability=st.floats(0.01, 0.99),
    min_area_fraction=st.floats(1e-6, 0.4),
    max_area_fraction=st.floats(0.5, 1, exclude_max=True),
    min_confidence=st.floats(0, 1),
    max_chroma=st.floats(0, 1),
    max_white_fraction=st.floats(0, 1),
    max_roughness=st.floats(0.01, 1e6),
    min_contrast=st.floats(1e-6, 0.99),
)


@given(any_settings, st.sampled_from([0.0, 1.0]), st.integers(0, 2**32 - 1))
def test_no_setting_lets_an_empty_or_a_full_mask_pass(settings: GateSettings, everywhere: float, seed: int) -> None:
    probability = np.full((SIDE, SIDE), everywhere, np.float32)
    noise = np.random.default_rng(seed).random((SIDE, SIDE), np.float32)
    for picture in (radiograph(), noise, np.zeros_like(noise), np.ones_like(noise)):
        decision = decide(probability, picture, PictureSource(), settings)
        assert not decision.passed
        assert decision.area_fraction == everywhere


@pytest.mark.parametrize("field", ["min_area_fraction", "max_area_fraction"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.1])
def test_bounds_of_the_area_cannot_be_opened(field: str, value: float) -> None:
    with pytest.raises(SetupError, match=field):
        apply_preset(GateSettings(), {field: value})


def test_bounds_of_the_area_stand_in_order() -> None:
    with pytest.raises(SetupError, match="must be below"):
        apply_preset(GateSettings(), {"min_area_fraction": 0.6, "max_area_fraction": 0.5})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_area_fraction": 0.2}, "bone on 17.9% of the picture only"),
        ({"max_area_fraction": 0.1}, "more than a radiograph has"),
        ({"min_confidence": 0.96}, "too unsure"),
        ({"mask_probability": 0.96}, "no bone was found"),
        ({"max_roughness": 0.01}, "rough"),
        ({"min_contrast": 0.6}, "hardly brighter"),
    ],
)
def test_each_threshold_decides(change: dict[str, float], reason: str) -> None:
    decision = decide(found(), radiograph(), PictureSource(), apply_preset(GateSettings(), change))
    assert not decision.passed
    assert reason in decision.reason


def test_colours_are_turned_away_and_a_faint_tint_is_not() -> None:
    for chroma, passed in ((0.02, True), (0.2, False)):
        decision = decide(found(), radiograph(), PictureSource(chroma=chroma), GateSettings())
        assert decision.passed is passed
    assert "coloured (chroma 0.20" in decision.reason


def test_paper_is_turned_away() -> None:
    page = np.ones((SIDE, SIDE), np.float32)
    page[::6] = 0
    assert "white" in decide(found(), page, PictureSource(), GateSettings()).reason


def test_a_blank_picture_is_turned_away_whatever_the_network_says() -> None:
    grey = np.full((SIDE, SIDE), 0.5, np.float32)
    assert not decide(found(), grey, PictureSource(), GateSettings()).passed


def test_dark_on_bright_is_no_bone() -> None:
    inverted = 1 - radiograph()
    settings = GateSettings(max_white_fraction=1.0)
    assert "hardly brighter" in decide(found(), inverted, PictureSource(), settings).reason
