"""Law 12 for spine films: training keeps heads above feet, but for the preset that says it does not."""

from pathlib import Path

import numpy as np
import pytest

import spine.config
from shared.config import apply_preset
from spine.cases import find_films
from spine.config import PRESETS, Config
from spine.data import Draw, Films
from spine.phantom import PhantomConfig, write_dataset
from spine.trainer import trainer_settings

KEPT = [name for name in PRESETS if name != "reference"]
DRAWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("films") / "set"
    write_dataset(
        out, 2, config=PhantomConfig(views=("ap",), regions=("whole",), long_side_px=160, validation_fraction=0)
    )
    return out


def orders(preset: str, folder: Path, tmp_path: Path) -> list[float]:
    """How level number and height agree over many draws of augmented films: 1 where heads are up, -1 upside down."""
    from ultralytics.cfg import get_cfg

    config = apply_preset(Config(), PRESETS[preset]).model_copy(update={"size_px": 160})
    settings = {key: value for key, value in trainer_settings(config, tmp_path, "cpu").items() if key != "data"}
    films = Films(find_films(folder), config, get_cfg(overrides=settings), augment=True, batch=2, keep=True)
    found = []
    for k in range(DRAWS):
        drawn = films[Draw(k % 2, epoch=k, place=k, height_px=160, width_px=160)]
        levels, height = drawn["cls"][:, 0].numpy(), drawn["bboxes"][:, 1].numpy()
        if len(levels) >= 4:
            found.append(float(np.corrcoef(levels, height)[0, 1]))
    return found


@pytest.mark.parametrize("preset", KEPT)
def test_heads_stay_up(preset, folder, tmp_path):
    found = orders(preset, folder, tmp_path)
    assert len(found) > DRAWS / 2
    assert min(found) > 0.98


@pytest.mark.parametrize("preset", KEPT)
def test_no_preset_asks_for_what_turns_them(preset, tmp_path):
    settings = trainer_settings(apply_preset(Config(), PRESETS[preset]), tmp_path, "cpu")
    config = apply_preset(Config(), PRESETS[preset])
    assert (settings["flipud"], settings["mosaic"], config.augmentation.quarter_turns) == (0, 0, 0)
    assert settings["degrees"] <= 15


def test_a_mirrored_film_keeps_its_names_in_order(folder, tmp_path):
    """Left-right mirrors do happen: no name of a vertebra says a side."""
    assert any(apply_preset(Config(), PRESETS[preset]).augmentation.mirror for preset in KEPT)


def test_the_reference_is_the_exception_and_says_so(folder, tmp_path):
    change = apply_preset(Config(), PRESETS["reference"]).augmentation
    assert change.upside_down
    assert change.quarter_turns
    assert min(orders("reference", folder, tmp_path)) < -0.9
    text = Path(spine.config.__file__).read_text(encoding="utf-8")
    assert "exempt from law 12" in text
