"""Law 6 for spine films: patients, Roboflow's versions and near-duplicates never cross a merged split."""

from pathlib import Path

import pytest
from PIL import Image
from yolo_factory import SQUARE, export, film

from spine.cases import find_films
from spine.config import PRESETS, Config
from spine.merge import merge

LABEL = f"0 {SQUARE}\n"


def sides(out: Path) -> dict[str, set[str]]:
    """In which parts the films of each name's first word are."""
    found: dict[str, set[str]] = {}
    for one in find_films(out):
        found.setdefault(one.image.stem.removeprefix("2-").split("_")[0], set()).add(one.part)
    return found


@pytest.fixture
def folder(tmp_path):
    """Ten films; three versions of two of them as Roboflow names them, and others resaved, turned or mirrored."""
    films = {f"train/film{k}_png.rf.{k:032x}.png": (film(k), LABEL) for k in range(10)}
    for k in (1, 2):
        for version in (100, 200):
            films[f"train/film{k}_png.rf.{version + k:032x}.png"] = (film(500 + version + k), LABEL)
    changes = {
        "smaller": lambda picture: picture.resize((72, 120)),
        "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "turned": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    }
    for k, change in enumerate(changes.values(), start=5):
        films[f"train/film{k}_again.png"] = (change(film(k)), LABEL)
    return export(tmp_path / "a", ["L1"], films)


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_split_parts_no_versions_and_no_copies(folder, tmp_path, seed):
    out = merge([folder], tmp_path / "out", split="new", fractions={"training": 0.5, "validation": 0.5}, seed=seed,
                workers=1).out  # fmt: skip
    found = sides(out)
    assert len(find_films(out)) == 17
    assert all(len(parts) == 1 for parts in found.values()), found
    assert {part for parts in found.values() for part in parts} == {"train", "val"}


def test_patients_stay_together(tmp_path):
    films = {f"train/p{k}_{side}.png": (film(10 * k + s), LABEL) for k in range(6) for s, side in enumerate("abc")}
    source = export(tmp_path / "a", ["L1"], films)
    patients = {key.split("/")[1]: key.split("/")[1].split("_")[0] for key in films}
    for seed in range(4):
        out = merge([source], tmp_path / f"out{seed}", split="new", patients=patients, seed=seed, workers=1).out
        assert all(len(parts) == 1 for parts in sides(out).values())


def test_copies_of_published_validation_films_leave_training(tmp_path):
    films = {f"train/t{k}_x.png": (film(k), LABEL) for k in range(5)}
    films |= {f"valid/v{k}_x.png": (film(20 + k), LABEL) for k in range(3)}
    films["train/copy_x.png"] = (film(21).resize((72, 120)), LABEL)
    films["train/same_x.png"] = (film(22), LABEL)
    found = merge([export(tmp_path / "a", ["L1"], films)], tmp_path / "out", workers=1)
    assert found.films == {"training": 5, "validation": 3}
    told = {refusal.film: refusal.what for refusal in found.refusals}
    assert "one patient or picture with v1_x.png" in told["copy_x.png"]
    assert "v2_x.png again" in told["same_x.png"]


def test_films_without_a_part_join_those_they_look_like(tmp_path):
    known = export(tmp_path / "a", ["L1"], {f"valid/v{k}_x.png": (film(k), LABEL) for k in range(3)})
    loose = tmp_path / "b"
    loose.mkdir()
    for k in range(8):
        film(k).resize((72, 120)).save(loose / f"w{k}.png")
    entries = {
        f"w{k}.png": [{"level": "L1", "corners_tl_tr_br_bl": [[9, 9], [50, 9], [50, 40], [9, 40]]}] for k in range(8)
    }
    import json

    (loose / "quads.json").write_text(json.dumps({"images": entries}))
    films = find_films(merge([known, loose], tmp_path / "out", workers=1).out)
    part = {one.image.stem: one.part for one in films}
    assert {part[f"v{k}_x"] for k in range(3)} == {"val"}
    assert {part[f"w{k}"] for k in range(3)} == {"val"}
    assert "train" in {part[f"w{k}"] for k in range(3, 8)}


def test_the_part_that_training_looks_at_is_cut_by_group(tmp_path):
    from shared.config import apply_preset
    from spine.train import choose_films

    films = {f"train/p{k}_{side}.png": (film(10 * k + s), LABEL) for k in range(6) for s, side in enumerate("ab")}
    films |= {f"valid/v{k}_x.png": (film(70 + k), LABEL) for k in range(2)}
    patients = {key.split("/")[1]: key.split("/")[1].split("_")[0] for key in films}
    out = merge([export(tmp_path / "a", ["L1"], films)], tmp_path / "out", patients=patients, workers=1).out
    config = apply_preset(Config(), PRESETS["lite"]).model_copy(update={"validation_fraction": 0.4})
    chosen = choose_films(config, tmp_path / "run", out)
    groups = {part: {one.group for one in held} for part, held in chosen.items()}
    assert groups["training"]
    assert groups["validation"]
    assert not groups["training"] & groups["validation"]
    assert all(one.part == "train" for held in chosen.values() for one in held)  # the published part is untouched
    assert choose_films(config, tmp_path / "run", None) == chosen
