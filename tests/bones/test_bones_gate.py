"""The gate's decision: what passes, what is turned away and why, and that thresholds alone decide."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bones.gate import GateSettings, decide
from bones.phantom import PhantomConfig, make
from bones.predict import Gate
from bones.preprocess import fit
from shared.config import apply_preset
from shared.errors import SetupError
from shared.export import update_metadata
from shared.io.radiograph import from_array
from shared.types import PictureSource, Radiograph

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


def test_a_page_of_lines_is_turned_away() -> None:
    page = np.ones((SIDE, SIDE), np.float32)
    page[::3] = 0
    assert "rough" in decide(found(), page, PictureSource(), GateSettings()).reason


def test_a_blank_picture_is_turned_away_whatever_the_network_says() -> None:
    grey = np.full((SIDE, SIDE), 0.5, np.float32)
    assert not decide(found(), grey, PictureSource(), GateSettings()).passed


def test_dark_on_bright_is_no_bone() -> None:
    inverted = 1 - radiograph()
    assert "hardly brighter" in decide(found(), inverted, PictureSource(), GateSettings()).reason


GATE = Path(__file__).resolve().parents[2] / "data" / "models" / "bones-gate.onnx"


@pytest.fixture(scope="module")
def shipped() -> Gate:
    return Gate(GATE, "cpu")


@pytest.mark.parametrize("number", range(4))
def test_the_shipped_gate_lets_limbs_pass_and_finds_their_bone(shipped: Gate, number: int) -> None:
    made = make(77, number, PhantomConfig(size_px=256))
    decision = shipped(Radiograph(made.picture))
    assert decision.passed, decision.reason
    truth = fit(made.bone_mask.astype(np.float32), shipped.file.size_px) > 0.5
    assert (decision.mask & truth).sum() / (decision.mask | truth).sum() > 0.5


def not_radiographs() -> dict[str, np.ndarray]:
    """Pictures that anyone might upload by mistake, grey, so that colour does not give them away."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:200, :240].astype(np.float32)
    page = Image.new("L", (240, 200), 255)
    for line in range(9):
        ImageDraw.Draw(page).text((10, 8 + 21 * line), "the quick brown fox jumps over it", fill=0)
    return {
        "black": np.zeros((200, 240), np.float32),
        "grey": np.full((200, 240), 0.5, np.float32),
        "gradient": x / 240,
        "noise": rng.random((200, 240), np.float32),
        "page": np.asarray(page, np.float32) / 255,
        "page on black": 1 - np.asarray(page, np.float32) / 255,
        "chessboard": ((x // 30 + y // 30) % 2).astype(np.float32),
        "stripes": (0.5 + 0.5 * np.sin(x / 3)).astype(np.float32),
    }


@pytest.mark.parametrize("name", not_radiographs())
def test_the_shipped_gate_turns_other_pictures_away(shipped: Gate, name: str) -> None:
    decision = shipped(Radiograph(not_radiographs()[name]))
    assert not decision.passed
    assert decision.reason


def test_the_shipped_gate_turns_a_colour_photograph_away(shipped: Gate) -> None:
    rng = np.random.default_rng(4)
    photograph = np.kron(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((24, 24, 1), np.uint8))
    assert "coloured" in shipped(from_array(photograph)).reason


def test_the_thresholds_are_the_files_own(shipped: Gate, tmp_path: Path) -> None:
    strict = tmp_path / "gate.onnx"
    strict.write_bytes(GATE.read_bytes())
    made = Radiograph(make(77, 0, PhantomConfig(size_px=256)).picture)
    settings = shipped.file.gate.model_dump(mode="json") | {"min_confidence": 1.0}
    update_metadata(strict, {"gate": settings})
    assert shipped(made).passed
    assert "too unsure" in Gate(strict, "cpu")(made).reason


def test_both_engines_decide_alike(shipped: Gate) -> None:
    other = Gate(GATE, "cpu", "onnxruntime")
    for number in range(2):
        made = Radiograph(make(77, number, PhantomConfig(size_px=256)).picture)
        one, two = shipped(made), other(made)
        assert one.area_fraction == pytest.approx(two.area_fraction, abs=0.002)
        assert one.confidence == pytest.approx(two.confidence, abs=0.002)
