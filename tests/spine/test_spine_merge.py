"""Exports of several kinds become one data set with the levels in anatomical order."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from yolo_factory import SQUARE, blurred, export, film

from shared.errors import SetupError
from spine.cases import find_films, read_labels
from spine.config import LEVELS
from spine.merge import merge
from spine.sources import patients_from_table, read_source, shifts_from_table
from spine.training_verbs import merge as merge_verb


def merged_table(out, name="manifest.csv"):
    with (out / name).open() as file:
        return list(csv.DictReader(file))


def coco(root, entries, names=("L1", "S1")):
    """Write a COCO file: a picture each, with its annotations' segmentation or bbox."""
    root.mkdir()
    images, annotations = [], []
    for k, (name, shapes) in enumerate(entries.items()):
        film(100 + k).save(root / name)
        images.append({"id": 7 + k, "file_name": name, "width": 96, "height": 160})
        annotations += [{"id": len(annotations) + i, "image_id": 7 + k, **shape} for i, shape in enumerate(shapes)]
    categories = [{"id": 3 + k, "name": name} for k, name in enumerate(names)]
    (root / "_annotations.coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


@pytest.fixture
def two_exports(tmp_path):
    """Each with class lists of its own."""
    first = export(
        tmp_path / "a", ["L-1", "Th12", "sacrum"],
        {"train/one.png": (film(1), f"0 {SQUARE}\n1 0.3 0.1 0.7 0.1 0.7 0.18 0.3 0.18\n2 {SQUARE}"),
         "valid/two.png": (film(2), f"1 {SQUARE}\n")},
    )  # fmt: skip
    second = export(
        tmp_path / "b", "{0: \u0421\u0033, 1: L1}", {"train/one.png": (film(3), f"0 {SQUARE}\n1 0.5 0.8 0.2 0.1")}
    )
    return [first, second]


def test_class_lists_become_one_in_anatomical_order(two_exports, tmp_path):
    found = merge(two_exports, tmp_path / "out", workers=1)
    rows = {row["original"] + row["part"]: row for row in merged_table(found.out)}
    assert len(rows) == 3 or len(merged_table(found.out)) == 3
    by_levels = {row["levels"] for row in merged_table(found.out)}
    assert by_levels == {"T12 L1", "T12", "C3 L1"}
    assert found.counts["L1"].total() == 2
    assert found.counts["T12"].total() == 2
    assert found.counts["C3"].total() == 1
    assert found.boxes == 1
    classes, polygons = read_labels(found.out / rows["one.png" + "train"]["label"])
    assert list(classes) == sorted(classes)
    assert all(polygon.shape[1] == 2 for polygon in polygons)
    assert (found.out / "class_distribution.png").stat().st_size > 5000
    names = (found.out / "data.yaml").read_text().split("names:\n")[1].split("\n")[:24]
    assert [line.split(": ")[1] for line in names] == list(LEVELS)


def test_a_box_becomes_its_four_corners(two_exports, tmp_path):
    found = merge(two_exports, tmp_path / "out", workers=1)
    row = next(row for row in merged_table(found.out) if row["levels"] == "C3 L1")
    _, polygons = read_labels(found.out / row["label"])
    np.testing.assert_allclose(polygons[1], [[0.4, 0.75], [0.6, 0.75], [0.6, 0.85], [0.4, 0.85]], atol=1e-6)


def test_parts_of_a_source_are_kept(two_exports, tmp_path):
    films = find_films(merge(two_exports, tmp_path / "out", workers=1).out)
    assert {film.image.stem.split("-")[-1] + film.part for film in films} == {"onetrain", "twoval"}


def test_ultralytics_reads_what_was_written(two_exports, tmp_path):
    out = merge(two_exports, tmp_path / "out", workers=1).out
    from spine.offline import offline_ultralytics

    offline_ultralytics()
    from ultralytics.data.utils import verify_image_label

    for film_ in find_films(out):
        _, labels, _, segments, _, missing, found, _, corrupt, message = verify_image_label(
            (str(film_.image), str(film_.label), "", False, 24, 0, 0, False)
        )
        assert (missing, found, corrupt, message) == (0, 1, 0, "")
        classes, polygons = read_labels(film_.label)
        np.testing.assert_array_equal(labels[:, 0], classes)
        np.testing.assert_allclose(np.concatenate(segments), np.concatenate(polygons), atol=1e-6)


def test_coco_polygons_pieces_boxes_and_masks(tmp_path):
    square = [20, 20, 60, 20, 60, 50, 20, 50]
    source = coco(tmp_path / "train", {
        "x.png": [{"category_id": 3, "segmentation": [[5, 5, 7, 5, 7, 7], square]},
                  {"category_id": 4, "bbox": [0, 0, 9, 9]}],
        "y.png": [{"category_id": 3, "bbox": [10, 20, 30, 40]}, {"category_id": 3, "segmentation": {"counts": "x"}}],
    })  # fmt: skip
    found = merge([source], tmp_path / "out", workers=1)
    rows = {row["original"]: row for row in merged_table(found.out)}
    assert {row["part"] for row in rows.values()} == {"train"}
    _, (outline,) = read_labels(found.out / rows["x.png"]["label"])
    np.testing.assert_allclose(outline * [96, 160], np.array(square).reshape(-1, 2), atol=1e-3)
    _, (outline,) = read_labels(found.out / rows["y.png"]["label"])
    np.testing.assert_allclose(outline.min(0) * [96, 160], [10, 20], atol=1e-3)
    said = {(refusal.film, refusal.what, refusal.done) for refusal in found.refusals}
    assert ("x.png", "L1: of 2 pieces the largest is taken", "note") in said
    assert ("y.png", "L1: has neither polygon nor box; export polygons", "outline left out") in said


def test_one_bad_annotation_stops_no_merge_and_a_run_length_mask_gives_its_box(tmp_path):
    source = coco(tmp_path / "train", {
        "x.png": [{"category_id": 3, "bbox": [10, 20, 30, 40], "segmentation": {"counts": "x"}},
                  {"category_id": 99, "bbox": [0, 0, 9, 9]}],
    })  # fmt: skip
    found = merge([source], tmp_path / "out", workers=1)
    (row,) = merged_table(found.out)
    _, (outline,) = read_labels(found.out / row["label"])
    np.testing.assert_allclose(outline.min(0) * [96, 160], [10, 20], atol=1e-3)
    said = {refusal.what: refusal.done for refusal in found.refusals}
    assert said["annotation 1: no category 99 in categories"] == "outline left out"
    assert said["L1: a run-length mask is no outline, its box is taken; export polygons"] == "note"


def test_copies_of_a_film_with_other_levels_are_united_and_contradictions_told(tmp_path):
    upper = "0.3 0.1 0.7 0.1 0.7 0.18 0.3 0.18"
    neck = export(tmp_path / "neck", ["C7", "T1"], {"train/f.png": (film(1), f"0 {upper}\n1 {SQUARE}")})
    chest = export(tmp_path / "chest", ["T2", "T3"],
                   {"train/f.png": (film(1), f"0 0.3 0.7 0.7 0.7 0.7 0.8 0.3 0.8\n1 {SQUARE}")})  # fmt: skip
    found = merge([neck, chest], tmp_path / "out", workers=1)
    (row,) = merged_table(found.out)
    assert row["levels"] == "C7 T1 T2"
    (said,) = [refusal for refusal in found.refusals if refusal.done == "film left out"]
    assert said.what.startswith(str(chest))
    assert "again, pixel by pixel; its T2 joined; its T3 contradict and are left out" in said.what


def test_names_that_stand_upside_down_are_told(tmp_path):
    source = export(tmp_path / "a", ["L5", "L1"],
                    {"train/f.png": (film(1), f"0 0.3 0.1 0.7 0.1 0.7 0.18 0.3 0.18\n1 {SQUARE}")})  # fmt: skip
    found = merge([source], tmp_path / "out", workers=1)
    assert "L1 lies below L5" in [refusal.what for refusal in found.refusals]


def test_corners_by_level(tmp_path):
    film(5).save(tmp_path / "f.png")
    corners = [[10.0, 20.0], [50.0, 22.0], [50.0, 50.0], [10.0, 48.0]]
    entries = [{"level": "L2", "corners_tl_tr_br_bl": corners}, {"level": "S1", "corners_tl_tr_br_bl": corners}]
    (tmp_path / "quads.json").write_text(json.dumps({"note": "", "images": {"f.png": entries}}))
    (drawn,) = read_source(tmp_path / "quads.json")
    assert [outline.name for outline in drawn.outlines] == ["L2", "S1"]
    np.testing.assert_array_equal(drawn.outlines[0].corners, corners)


def test_aasce_landmarks_run_from_t1_to_l5_around_each_body(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    film(6).save(tmp_path / "train" / "images" / "s.jpg")
    corners = [[[300, 60 * k], [500, 60 * k], [300, 60 * k + 40], [500, 60 * k + 40]] for k in range(17)]
    entry = {"split": "train", "stem": "s", "orig_w": 960, "orig_h": 1600, "usable": True, "landmarks_orig": corners}
    (tmp_path / "landmarks.json").write_text(json.dumps([entry, entry | {"usable": False}]))
    (drawn,) = read_source(tmp_path)
    assert [outline.name for outline in drawn.outlines] == [
        *(f"T{i}" for i in range(1, 13)),
        *(f"L{i}" for i in range(1, 6)),
    ]
    np.testing.assert_allclose(drawn.outlines[1].corners * [960, 1600], [[300, 60], [500, 60], [500, 100], [300, 100]])
    assert drawn.part == "training"


def test_other_pictures_become_upright_grey_png(tmp_path):
    deep = np.linspace(0, 60000, 96 * 160).reshape(160, 96).astype(np.uint16)
    turned = film(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    source = export(tmp_path / "a", ["L1"], {"train/plain.png": (film(7), f"0 {SQUARE}")})
    Image.fromarray(deep).save(source / "train/images/deep.tif")
    turned.save(source / "train/images/turned.jpg", exif=exif)
    for name in ("deep", "turned"):
        (source / f"train/labels/{name}.txt").write_text(f"0 {SQUARE}")
    rows = {row["original"]: row for row in merged_table(merge([source], tmp_path / "out", workers=1).out)}
    assert rows["plain.png"]["image"].endswith("plain.png")
    with Image.open(tmp_path / "out" / rows["turned.jpg"]["image"]) as image:
        assert (image.size, image.mode, image.format) == ((160, 96), "L", "PNG")
    with Image.open(tmp_path / "out" / rows["deep.tif"]["image"]) as image:
        assert (image.mode, image.getextrema()) == ("L", (0, 255))


def test_unknown_classes_are_refused_in_one_go_unless_an_alias_says_what_they_are(tmp_path):
    source = export(tmp_path / "a", ["Wirbel", "Nase"], {"train/one.png": (film(1), f"0 {SQUARE}\n1 {SQUARE}")})
    with pytest.raises(SetupError, match=r"Nase.*Wirbel.*--aliases"):
        merge([source], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    found = merge([source], tmp_path / "out", workers=1, aliases={"wirbel": "L3", "Nase": "ignore"})
    assert merged_table(found.out)[0]["levels"] == "L3"


def test_what_is_wrong_is_told_and_the_rest_is_kept(tmp_path):
    label = "\n".join([f"0 {SQUARE}", "0 0.1 0.1 0.101 0.1 0.101 0.101", f"0 {SQUARE}", "0 1 2 3", "9 0.5 0.5 0.2 0.2",
                       "1 0.2 0.6 0.6 0.9 0.6 0.6 0.2 0.9"])  # fmt: skip
    source = export(tmp_path / "a", ["L1", "L2"], {"train/one.png": (film(1), label), "train/two.png": (film(2), "")})
    (source / "train/images/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (source / "train/images/bare.png").write_bytes((source / "train/images/two.png").read_bytes())
    found = merge([source], tmp_path / "out", workers=1)
    told = {(refusal.film, refusal.done): refusal.what for refusal in found.refusals}
    assert "too small" in " ".join(r.what for r in found.refusals)
    assert "drawn twice" in " ".join(r.what for r in found.refusals)
    assert "class 9" in " ".join(r.what for r in found.refusals)
    assert "neither a box nor a polygon" in " ".join(r.what for r in found.refusals)
    assert "crossed itself" in told["one.png", "outline mended"]
    assert ("broken.png", "film left out") in told
    assert "again" in told["two.png", "film left out"] + told.get(("bare.png", "film left out"), "")
    assert [row["levels"] for row in merged_table(found.out) if row["original"] == "one.png"] == ["L1 L2"]
    assert len(merged_table(found.out, "refused.csv")) == len(found.refusals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "data.yaml").unlink(), "neither"),
        (lambda root: (root / "data.yaml").write_text("names: [L1]\ntrain: nowhere\n"), "no picture"),
        (lambda root: (root / "data.yaml").write_text("train: train/images\n"), "names no classes"),
        (lambda root: (root / "data.yaml").write_text("names: [L1\n"), "cannot be read"),
        (lambda root: (root / "data.yaml").write_text("- a\n"), "is no data.yaml"),
    ],
)
def test_a_source_of_another_form_is_named(tmp_path, change, message):
    source = export(tmp_path / "a", ["L1"], {"train/one.png": (film(1), f"0 {SQUARE}")})
    change(source)
    with pytest.raises(SetupError, match=message):
        merge([source], tmp_path / "out", workers=1)


def test_nothing_is_written_over(two_exports, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SetupError, match="already"):
        merge(two_exports, tmp_path / "out", workers=1)


@pytest.mark.parametrize(("split", "told"), [("keep", True), ("new", False)])
def test_it_is_told_when_no_film_is_held_out(tmp_path, capsys, split, told):
    films = {f"train/{k}.png": (film(k), f"0 {SQUARE}") for k in range(5)}
    source = export(tmp_path / "a", ["L1"], films)
    merge_verb([source], tmp_path / "out", split=split)
    assert ("no film is held out" in capsys.readouterr().out) == told


def test_patients_from_a_table(tmp_path):
    (tmp_path / "patients.csv").write_text("file,patient\nimages/a.png,7\n")
    assert patients_from_table(tmp_path / "patients.csv") == {"a.png": "7"}
    with pytest.raises(SetupError, match="columns file and patient"):
        patients_from_table(tmp_path / "none.csv")


def test_two_files_of_one_name_stay_two_films(tmp_path):
    sources = [
        export(
            tmp_path / name, ["L1"], {"train/2-x.png": (film(k), f"0 {SQUARE}"), "train/x.png": (blurred(k + 50), "")}
        )
        for k, name in enumerate("ab", start=1)
    ]
    rows = merged_table(merge(sources, tmp_path / "out", workers=1).out)
    assert len({row["image"] for row in rows}) == 4


def test_names_off_by_a_level_are_moved(tmp_path):
    source = export(
        tmp_path / "a", ["T12", "L1", "L5"],
        {f"train/{name}.png": (film(k), f"0 {SQUARE}\n1 0.5 0.5 0.2 0.1\n2 0.5 0.8 0.2 0.1\n")
         for k, name in enumerate(("up", "down", "kept", "unknown"))},
    )  # fmt: skip
    table = tmp_path / "shifts.csv"
    table.write_text("file,levels\nup.png,-1\ndown.png,+1\nelsewhere.png,2\nunknown.png,\n")
    found = merge([source], tmp_path / "out", workers=1, shifts=shifts_from_table(table))
    levels = {row["original"]: row["levels"] for row in merged_table(found.out)}
    assert found.moved == 2
    assert levels == {"up.png": "T11 T12 L4", "down.png": "L1 L2", "kept.png": "T12 L1 L5"}
    told = {(refusal.film, refusal.what, refusal.done) for refusal in found.refusals}
    assert ("up.png", "names moved by -1", "note") in told
    assert ("elsewhere", "is to move, but there is no such film", "note") in told
    assert ("unknown.png", "nobody can tell which levels its names are", "film left out") in told
    assert ("down.png", "L5: no level lies +1 from it", "outline left out") in told


def test_films_of_one_name_are_moved_by_the_name_they_get(tmp_path):
    sources = [export(tmp_path / f"{k}", ["T12"], {"train/one.png": (film(k), f"0 {SQUARE}")}) for k in range(3)]
    again = {"2-one": -1}
    found = merge(sources, tmp_path / "out", workers=1, shifts=again)
    levels = {Path(row["image"]).stem: row["levels"] for row in merged_table(found.out)}
    assert levels == {"one": "T12", "2-one": "T11", "3-one": "T12"}
    back = merge([found.out], tmp_path / "back", workers=1, shifts={"2-one": 1})
    assert {row["levels"] for row in merged_table(back.out)} == {"T12"}


def test_a_sixth_lumbar_vertebra_is_not_moved_but_told(tmp_path):
    source = export(
        tmp_path / "a", ["L5", "L6"], {"train/six.png": (film(1), f"0 {SQUARE}\n1 0.5 0.8 0.2 0.1\n")}
    )  # fmt: skip
    found = merge([source], tmp_path / "out", workers=1, shifts={"six": -1})
    assert merged_table(found.out)[0]["levels"] == "L4"
    assert "L6: is not moved as the others" in {refusal.what for refusal in found.refusals}


def test_a_table_of_shifts_for_other_films_is_refused(two_exports, tmp_path):
    with pytest.raises(SetupError, match="no film is called elsewhere"):
        merge(two_exports, tmp_path / "out", workers=1, shifts={"elsewhere": 1})


def test_a_data_set_without_a_film_is_refused(two_exports, tmp_path):
    with pytest.raises(SetupError, match="no film is left to merge"):
        merge(two_exports, tmp_path / "out", workers=1, shifts={"one": None, "two": None, "2-one": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,levels\na.png,one\n", "line 2 has levels 'one'"),
        ("file,levels\na.png,0.5\n", "line 2 has levels '0.5'"),
        ("file,levels\na.png,40\n", "from -5 to 5"),
        ("file,levels\na.png,nan\n", "from -5 to 5"),
        ("file,levels\na.png,1\nb/a.jpg,1\n", "line 3 names b/a.jpg again"),
        ("name,levels\na.png,1\n", "columns file and levels"),
        ("levels,file\n1\n2\n", "line 3 names  again"),
        ("file;levels\n", "columns file and levels"),
        ("", "columns file and levels"),
    ],
)
def test_a_table_of_shifts_that_is_none(tmp_path, text, message):
    table = tmp_path / "shifts.csv"
    table.write_text(text)
    with pytest.raises(SetupError, match=message):
        shifts_from_table(table)


def test_numbers_of_a_table_of_shifts_as_people_write_them(tmp_path):
    table = tmp_path / "shifts.csv"
    table.write_text("file,levels,seen\na.png,-1.0,x\nb.png\nc.png, +2,\nd.png,,y\n")
    assert shifts_from_table(table) == {"a": -1, "b": None, "c": 2, "d": None}


def test_what_is_moved_of_aasce_follows_from_the_readings(capsys):
    recipe = Path(__file__).parents[2] / "recipes" / "spine_readings.py"
    runpy.run_path(str(recipe), run_name="__main__")  # stops where a film does not
    assert "124 films move" in capsys.readouterr().out
    shifts = shifts_from_table(recipe.with_name("spine_aasce_readings.csv"))
    assert (len(shifts), sum(shift not in (0, None) for shift in shifts.values())) == (584, 124)
