"""Every layout is recognised and read back; what cannot be used is named with file, line and remedy."""

import json
import shutil
from pathlib import Path

import bone_sets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from bones.cases import Case, find_cases, relabel, scan_folder
from bones.formats.geometry import BadLabelError, checked_box, checked_polygon
from bones.formats.rle import decode, encode, filled, read_rle
from bones.masks import bone_mask, has_bone_mask, instances
from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.problems import DataError

WIDTH, HEIGHT = 60, 40


def spans(longest: int) -> st.SearchStrategy[tuple[float, float]]:
    """Low and high edge along a side, at least 1 px apart."""
    return st.tuples(st.floats(0, longest - 1.01), st.floats(1.01, longest)).map(
        lambda pair: (pair[0], min(pair[0] + max(pair[1] * (longest - pair[0]) / longest, 1.01), longest))
    )


BOXES = st.lists(st.tuples(spans(WIDTH), spans(HEIGHT)).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1])), max_size=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to write labels beside."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate("ab"):
        bone_sets.picture(folder / f"{name}.png", WIDTH, HEIGHT, seed)
    return folder


def only(cases: list[Case], name: str) -> Case:
    return next(case for case in cases if case.name.endswith(name))


@limits(max_examples=25)
@given(one=BOXES, other=BOXES)
@pytest.mark.parametrize("layout", ["YOLO", "COCO", "PASCAL VOC"])
def test_boxes_are_read_back(pictures, tmp_path_factory, layout, one, other) -> None:
    folder = tmp_path_factory.mktemp("set")
    both = {"a.png": one, "b.png": other}
    below = folder / "train" / "images" if layout == "YOLO" else folder / "train"
    below.mkdir(parents=True)
    for name in both:
        shutil.copy(pictures / name, below)
    if layout == "YOLO":
        for name, boxes in both.items():
            path = folder / "train" / "labels" / f"{name[0]}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(bone_sets.yolo_line(box, WIDTH, HEIGHT) for box in boxes))
        (folder / "data.yaml").write_text("names: [fracture]\n")
    elif layout == "COCO":
        bone_sets.coco(folder / "train" / "_annotations.coco.json", both, WIDTH, HEIGHT)
    else:
        for name, boxes in both.items():
            bone_sets.voc(folder / "train" / f"{name[0]}.xml", name, boxes, WIDTH, HEIGHT)
    assert scan_folder(folder).layout == layout
    cases = find_cases(folder)
    assert [case.part for case in cases] == ["training"] * 2
    for name, boxes in both.items():
        case = only(cases, name)
        np.testing.assert_allclose(case.boxes, np.reshape(boxes, (-1, 4)), atol=1e-4)
        assert case.boxes.dtype == np.float32
        assert case.labels == ("fracture",) * len(boxes)
        assert (case.width_px, case.height_px) == (WIDTH, HEIGHT)
        # VOC names no classes but those of its boxes, so a set without any says nothing.
        assert case.fractured == (None if layout == "PASCAL VOC" and not one and not other else bool(boxes))


@given(
    corners=st.tuples(*[st.floats(-30, 130)] * 4),
    size=st.tuples(st.integers(16, 100), st.integers(16, 100)),
)
def test_a_box_is_inside_its_picture_or_refused(corners, size) -> None:
    edges = np.array([*size, *size])
    x1, y1, x2, y2 = corners
    clipped = np.clip(corners, 0, edges)
    outside = min(corners) < -1 or (np.array(corners) > edges + 1).any()
    side = min(clipped[2] - clipped[0], clipped[3] - clipped[1])
    if x1 >= x2 or y1 >= y2 or outside or side < 0.99:
        with pytest.raises(BadLabelError):
            checked_box(corners, *size)
    else:
        assert checked_box(corners, *size).tolist() == clipped.tolist()


@pytest.mark.parametrize(
    ("corners", "words"),
    [
        ((5, 5, 5, 9), "is not x1 < x2"),
        ((9, 9, 5, 5), "is not x1 < x2"),
        ((5, 5, 62, 9), r"box \(5, 5, 62, 9\) reaches out of its picture of 60 x 40 px"),
        ((5, -1.5, 20, 9), "reaches out"),
        ((5, 5, 5.5, 9), "thinner than 1 px"),
        ((59.5, 5, 60.9, 9), "thinner than 1 px"),
        ((float("nan"), 5, 9, 9), "not finite"),
        ((5, 5, float("inf"), 9), "not finite"),
    ],
)
def test_bad_boxes_are_named(corners, words) -> None:
    with pytest.raises(BadLabelError, match=words):
        checked_box(corners, 60, 40)


def test_rounding_is_clipped() -> None:
    assert checked_box((-0.9, 0, 60.9, 40.4), 60, 40).tolist() == [0, 0, 60, 40]
    polygon = checked_polygon([-0.5, 0, 60.5, 3, 20, 40.9], 60, 40)
    assert polygon.tolist() == [[0, 0], [60, 3], [20, 40]]
    for corners, words in (
        ([1, 2, 3, 4], "4 numbers"),
        ([1, 2, 3, 4, 5, 6, 7], "7 numbers"),
        ([0, 0, 9, 0, 9, 50], "reaches out"),
        ([0, 0, 9, 0, 9, float("nan")], "not finite"),
    ):
        with pytest.raises(BadLabelError, match=words):
            checked_polygon(corners, 60, 40)


def test_every_bad_line_of_yolo_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    good = bone_sets.yolo_line((5, 5, 20, 20), WIDTH, HEIGHT)
    bad = {
        "train/a": f"{good}\n\n0 0.5 0.5 1.5 0.5\n",
        "train/b": "0 0.5 0.5 0.1\n",
        "train/c": "fracture 0.5 0.5 0.1 0.1\n",
        "train/d": "3 0.5 0.5 0.1 0.1\n",
        "train/e": "0 0.5 0.5 0.001 0.1\n",
        "train/f": "0 0.1 0.1 0.2 0.1 0.2\n",
        "train/g": "-1 0.5 0.5 0.1 0.1\n",
        "train/h": "0 0.5 0.5 -0.1 0.1\n",
        "train/i": "inf 0.5 0.5 0.1 0.1\n",
    }
    bone_sets.yolo(tmp_path, bad)
    with pytest.raises(DataError) as caught:
        find_cases(tmp_path)
    told = [str(problem) for problem in caught.value.problems]
    for file, line, words in (
        ("a", 3, "reaches out of its picture"), ("b", 1, "3 numbers after the class"), ("c", 1, "is not all numbers"),
        ("d", 1, "class 3 is not among the 1 of data.yaml"), ("e", 1, "thinner than 1 px"), ("f", 1, "5 numbers"),
        ("g", 1, "class -1 is no whole number"), ("h", 1, "is not x1 < x2"), ("i", 1, "class inf is no whole number"),
    ):  # fmt: skip
        assert [one for one in told if one.startswith(f"train/labels/{file}.txt line {line}: ") and words in one]
    assert len(told) == 9
    assert caught.value.exit_status == 1
    assert "9 problems" in str(caught.value)


def test_yolo_polygons_have_boxes_and_outlines(tmp_path: Path) -> None:
    line = "1 " + " ".join(f"{v:.6f}" for v in np.ravel(np.array([[6, 4], [30, 4], [18, 20]]) / (WIDTH, HEIGHT)))
    box = bone_sets.yolo_line((1, 2, 11, 12), WIDTH, HEIGHT)
    bone_sets.yolo(tmp_path, {"train/a": f"{line}\n{box}", "valid/b": ""}, ("fracture", "bone"))
    (case, empty) = find_cases(tmp_path)
    np.testing.assert_allclose(case.boxes, [[6, 4, 30, 20], [1, 2, 11, 12]], atol=1e-3)
    assert case.labels == ("bone", "fracture")
    assert case.outlines[1] is None
    np.testing.assert_allclose(case.outlines[0][0], [[6, 4], [30, 4], [18, 20]], atol=1e-3)
    assert (empty.part, empty.fractured, empty.outlines, empty.boxes.shape) == ("validation", False, None, (0, 4))
    masks, labels = instances(case, ("bone",))
    assert labels == ("bone",)
    assert masks[0].sum() == pytest.approx(24 * 16 / 2, rel=0.1)
    assert (bone_mask(case) == masks[0]).all()
    assert not has_bone_mask(empty)
    assert bone_mask(empty) is None


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\nnames: ['line', 'angle']",
        "path: .\ntrain: train/images\nval: valid/images\nnames:\n  0: line\n  1: angle",
        "train: [train/images]\nval: valid\nnames: {1: angle, 0: line}",
        "\ufefftrain: train.txt\r\nval: lists/val.txt\r\nnames: [line, angle]\r\n",
    ],
)
def test_data_yaml_in_every_spelling(tmp_path: Path, yaml: str) -> None:
    line = bone_sets.yolo_line((5, 5, 20, 20), WIDTH, HEIGHT, 1)
    bone_sets.yolo(tmp_path, {"train/a": line, "valid/b": line})
    (tmp_path / "data.yaml").write_text(yaml)
    (tmp_path / "train.txt").write_text("./train/images/a.png\r\n\r\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "val.txt").write_text("../valid/images/b.png")
    cases = find_cases(tmp_path)
    assert [(case.part, case.labels) for case in cases] == [("training", ("angle",)), ("validation", ("angle",))]


@pytest.mark.parametrize("names", ["fracture", "{a: b}", "3"])
def test_class_names_that_are_no_list_are_refused(tmp_path: Path, names: str) -> None:
    bone_sets.yolo(tmp_path, {"train/a": ""})
    (tmp_path / "data.yaml").write_text(f"train: 7\nnames: {names}")
    with pytest.raises(InputError, match=r"data\.yaml: its names are no list; write names"):
        find_cases(tmp_path)


def test_yolo_with_parts_below_images_and_names_in_classes_txt(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "val")):
        bone_sets.picture(tmp_path / "images" / part / "x.png", seed=seed)
        (tmp_path / "labels" / part).mkdir(parents=True)
        (tmp_path / "labels" / part / "x.txt").write_text(bone_sets.yolo_line((5, 5, 20, 20), WIDTH, HEIGHT))
    (tmp_path / "labels" / "classes.txt").write_text("crack\n")
    cases = find_cases(tmp_path)
    assert [(case.name, case.part, case.labels) for case in cases] == [
        ("images/train/x.png", "training", ("crack",)),
        ("images/val/x.png", "validation", ("crack",)),
    ]


def test_labels_without_pictures_and_pictures_without_labels(tmp_path: Path) -> None:
    bone_sets.yolo(tmp_path, {"train/a": "", "train/b": None})
    (tmp_path / "train" / "labels" / "gone.txt").write_text("")
    (tmp_path / "train" / "images" / "bad.png").write_bytes(b"not a picture")
    found = scan_folder(tmp_path)
    assert [case.name for case in found.cases] == ["train/images/a.png", "train/images/b.png"]
    told = {problem.where: problem for problem in found.problems}
    assert told["train/images/b.png"].note
    assert "no label file" in told["train/images/b.png"].what
    assert "picture that is not there" in told["train/labels/gone.txt"].what
    assert "is no picture" in told["train/images/bad.png"].what


def test_boxes_refer_to_the_picture_as_displayed(tmp_path: Path) -> None:
    shares = "0 0.25 0.5 0.5 0.2"
    path = bone_sets.picture(tmp_path / "images" / "a.jpg", 60, 40, orientation=6)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(shares)
    (case,) = find_cases(tmp_path)
    shown = read_radiograph(path)
    assert (case.width_px, case.height_px) == (40, 60) == (shown.width_px, shown.height_px)
    np.testing.assert_allclose(case.boxes, [[0, 24, 20, 36]], atol=1e-4)


def test_coco_for_the_picture_as_stored_is_refused_where_it_is_turned(tmp_path: Path) -> None:
    bone_sets.picture(tmp_path / "a.jpg", 60, 40, orientation=6)
    bone_sets.coco(tmp_path / "labels.json", {"a.jpg": [(1, 1, 9, 9)]}, 60, 40)
    with pytest.raises(DataError, match="for 60 x 40 px, the picture as displayed is 40 x 60; export"):
        find_cases(tmp_path)


def test_every_bad_annotation_of_coco_is_named(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        bone_sets.picture(tmp_path / f"{name}.png", seed=seed)
    path = bone_sets.coco(tmp_path / "train.json", {"a.png": [(1, 1, 9, 9)], "gone.png": [], "b.png": []}, 60, 40)
    content = json.loads(path.read_text())
    bad = (
        {"bbox": [1, 1, 70, 5]}, {"bbox": [1, 1, 0, 5]}, {"bbox": [1, 1, 5]}, {"bbox": None}, {"category_id": 7},
        {"segmentation": [[1, 1, 2, 2]]}, {"segmentation": {"size": [9, 9], "counts": [81]}}, {"bbox": ["x", 1, 2, 3]},
    )  # fmt: skip
    template = content["annotations"][0]
    content["annotations"] += [{**template, "id": 100 + k, **one} for k, one in enumerate(bad)]
    content["annotations"].append({**template, "id": 200, "image_id": 55})
    path.write_text(json.dumps(content))
    bone_sets.picture(tmp_path / "other.png", seed=9)
    found = scan_folder(tmp_path)
    told = [str(problem) for problem in found.problems]
    for number in range(len(bad)):
        assert any(one.startswith(f"train.json annotation {100 + number} (a.png): ") for one in told)
    assert any("gone.png is not there" in one for one in told)
    assert any("annotations of image 55, which is not listed" in one for one in told)
    assert [problem.where for problem in found.problems if problem.note] == ["other.png"]
    assert [len(case.boxes) for case in found.cases] == [1, 0]
    assert len(told) == len(bad) + 3


def test_bad_objects_of_voc_are_named(tmp_path: Path) -> None:
    bone_sets.picture(tmp_path / "a.png")
    path = bone_sets.voc(tmp_path / "a.xml", "a.png", [(1, 1, 9, 9), (2, 2, 8, 8), (3, 3, 7, 7)], 60, 40)
    text = path.read_text().replace("<name>fracture</name>", "", 1).replace("<xmax>8.0</xmax>", "<xmax>88</xmax>")
    path.write_text(text.replace(">60<", ">60.0<"), encoding="utf-8-sig")
    found = scan_folder(tmp_path)
    assert [problem.where for problem in found.problems] == ["a.xml object 1", "a.xml object 2"]
    assert found.cases[0].boxes.tolist() == [[3, 3, 7, 7]]


def test_coco_from_windows_is_coco(tmp_path: Path) -> None:
    bone_sets.picture(tmp_path / "images" / "ä b.PNG")
    path = bone_sets.coco(tmp_path / "instances_default.json", {"ä b.PNG": [(1, 1, 9, 9)]}, 60, 40)
    content = json.loads(path.read_text())
    content["images"][0] |= {"file_name": "C:\\data\\ä b.PNG", "width": "60", "height": 40.0}
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    (case,) = find_cases(tmp_path)
    assert case.boxes.tolist() == [[1, 1, 9, 9]]


@pytest.mark.parametrize(
    ("key", "entry"), [("images", 1), ("images", {"id": 1}), ("categories", {"id": 1}), ("annotations", "x")]
)
def test_what_is_not_of_cocos_form_is_refused(tmp_path: Path, key: str, entry: object) -> None:
    bone_sets.picture(tmp_path / "a.png")
    path = bone_sets.coco(tmp_path / "labels.json", {"a.png": []}, 60, 40)
    content = json.loads(path.read_text())
    content[key].append(entry)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"has no list of {key}"):
        find_cases(tmp_path)


@limits(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 30), width=st.integers(1, 30), share=st.floats(0, 1))
def test_run_lengths_are_those_of_coco(seed, height, width, share) -> None:
    from faster_coco_eval.core import mask as reference

    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = encode(mask)
    packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = packed["counts"] if isinstance(packed["counts"], str) else packed["counts"].decode()
    assert (decode(runs) == mask).all()
    assert read_rle([height, width], text, width, height) == runs
    assert read_rle([height, width], list(runs.counts), width, height) == runs


@pytest.mark.parametrize("counts", [[1, 2], "0", "~~~", [5, -1, 5], [9.5, "x"], None])
def test_run_lengths_of_another_picture_are_refused(counts) -> None:
    with pytest.raises(BadLabelError, match="run lengths that are not of a picture of 3 x 3 px"):
        read_rle([3, 3], counts, 3, 3)


@limits(max_examples=30)
@given(corners=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 40)), min_size=3, max_size=8))
def test_polygons_are_filled_as_coco_fills_them(corners) -> None:
    from faster_coco_eval.core import mask as reference

    drawn = np.array(corners, np.float32)
    ours = filled((drawn,), 60, 40)
    theirs = reference.decode(reference.frPyObjects([drawn.ravel().tolist()], 40, 60))[..., 0].astype(bool)
    edge = np.abs(np.diff(np.r_[drawn, drawn[:1]], axis=0)).sum()
    assert (ours != theirs).sum() <= 1.5 * edge + 4  # the two round corners differently, so along the outline only


def test_fracatlas_is_read_from_whatever_format_is_there(tmp_path: Path) -> None:
    every = ("COCO JSON", "PASCAL VOC", "YOLO")
    for k, name in enumerate(every):
        folder = tmp_path / str(k)
        bone_sets.fracatlas(folder, every if k == 0 else (name,))
        found = scan_folder(folder)
        assert (found.layout, len(found.cases), found.problems) == ("FracAtlas", 12, ())
        boxes = {case.picture.stem: case.boxes.round(3).tolist() for case in found.cases if case.fractured}
        assert boxes == {f"IMG{number:07d}": [[10 + j, 5, 30, 20]] for j, number in enumerate((19, 25, 3733, 3297))}
        parts = {case.picture.stem: case.part for case in found.cases if case.part}
        assert parts == {"IMG0000019": "training", "IMG0000025": "training", "IMG0003733": "validation",
                         "IMG0003297": "test"}  # fmt: skip
        assert all(case.bone and case.boxes is not None for case in found.cases)
        assert {label for case in find_cases(folder, ("fracture",)) for label in case.labels} == {"fracture"}


def test_fracatlas_contradictions_are_named(tmp_path: Path) -> None:
    bone_sets.fracatlas(tmp_path, ("YOLO",))
    (tmp_path / "Annotations" / "YOLO" / "IMG0000025.txt").unlink()
    table = tmp_path / "dataset.csv"
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace(",1,1,1,0,0", ",1,3,1,0,0")
    rows[5] = rows[5].replace(",0,0,1,0,0", ",1,1,1,0,0")
    table.write_text("\n".join(rows))
    told = [str(problem) for problem in scan_folder(tmp_path).problems]
    assert any("IMG0000025.jpg: is among the fractured" in one for one in told)
    assert any(one.startswith("dataset.csv line 2: counts 3 fractures on IMG0000019.jpg, 1 are drawn") for one in told)
    assert any(one.startswith("dataset.csv line 6: calls IMG0000000.jpg fractured") for one in told)
    assert len(told) == 3


def cvat(folder: Path, objects: bool = True) -> None:
    bone_sets.picture(folder / "JPEGImages" / "a.png")
    bone_sets.picture(folder / "JPEGImages" / "b.png", seed=1)
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbone:250,50,83::\nimplant:61,61,245::\n"
    )
    kinds, apart = np.zeros((2, 40, 60, 3), np.uint8)
    kinds[5:20, 5:15] = kinds[5:20, 15:30] = (250, 50, 83)
    kinds[8:10, 10:40] = (61, 61, 245)
    apart[5:20, 5:15], apart[5:20, 15:30], apart[8:10, 10:40] = (128, 0, 0), (0, 128, 0), (128, 128, 0)
    for below, colours in (("SegmentationClass", kinds), ("SegmentationObject", apart)):
        if objects or below == "SegmentationClass":
            (folder / below).mkdir()
            Image.fromarray(colours).save(folder / below / "a.png")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")


@pytest.mark.parametrize("objects", [True, False])
def test_cvat_masks_are_instances_with_boxes(tmp_path: Path, objects: bool) -> None:
    cvat(tmp_path, objects)
    found = scan_folder(tmp_path)
    (case,) = found.cases
    assert (found.layout, case.part, case.fractured, case.bone) == ("CVAT masks", "validation", None, True)
    assert [problem.where for problem in found.problems] == ["JPEGImages/b.png"]
    masks, labels = instances(case, ("bone", "implant"))
    assert labels == (("bone",) * (2 if objects else 1) + ("implant",))
    assert masks.sum(axis=(1, 2)).tolist() == ([195, 140, 60] if objects else [335, 60])
    assert masks.sum(axis=0).max() == 1
    assert case.boxes[-1].tolist() == [10, 8, 40, 10]
    assert (bone_mask(case) == masks.any(axis=0)).all()
    assert [len(one.boxes) for one in relabel(found.cases, ("implant",))] == [1]


def test_cvat_masks_that_disagree_with_their_label_map_are_named(tmp_path: Path) -> None:
    cvat(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nbone:250,50,83::\n")
    with pytest.raises(DataError, match=r"SegmentationClass/a.png: has the colour 61,61,245"):
        find_cases(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nbone;250\n")
    with pytest.raises(InputError, match="line 2 is not name:red,green,blue"):
        find_cases(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\n")
    with pytest.raises(InputError, match="no class but the background"):
        find_cases(tmp_path)


def test_images_and_masks(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("valid", 1), ("valid", 2)):
        bone_sets.picture(tmp_path / part / "images" / f"{seed}.png", seed=seed)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:20] = 255
    for place in ("train/masks/0.png", "valid/masks/1.png", "valid/masks/gone.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(mask if place[0] == "t" else mask[:30]).save(tmp_path / place)
    found = scan_folder(tmp_path)
    (case,) = found.cases
    assert (found.layout, case.name, case.part) == ("images and masks", "train/images/0.png", "training")
    assert bone_mask(case).sum() == 100
    told = [str(problem) for problem in found.problems]
    assert any(one.startswith("valid/masks/1.png: is 60 x 30 px, its picture as displayed 60 x 40") for one in told)
    assert any("valid/masks/gone.png: is the mask of a picture that is not there" in one for one in told)
    assert any("valid/images/2.png: has no mask" in one for one in told)


def test_mura_gives_weak_labels_and_patients(tmp_path: Path) -> None:
    studies = {
        "train/XR_ELBOW/patient00011/study1_negative": 2,
        "train/XR_ELBOW/patient00011/study2_positive": 1,
        "valid/XR_HAND/patient11185/study1_positive": 1,
    }
    for seed, (study, count) in enumerate(studies.items()):
        for k in range(count):
            bone_sets.picture(tmp_path / study / f"image{k + 1}.png", seed=10 * seed + k)
    (tmp_path / "train/XR_ELBOW/patient00011/study1_negative/._image1.png").write_bytes(b"rubbish")
    rows = [f"MURA-v1.1/{study}/,{int(study.endswith('positive'))}" for study in studies]
    (tmp_path / "train_labeled_studies.csv").write_text("\n".join([*rows[:1], rows[1][:-1] + "0"]))
    found = scan_folder(tmp_path)
    assert found.layout == "MURA"
    assert [(case.patient, case.part, case.bone, case.fractured) for case in found.cases] == [
        ("patient00011", "training", True, False),
        ("patient00011", "training", True, False),
        ("patient00011", "training", True, None),
        ("patient11185", "validation", True, None),
    ]
    assert [None if case.boxes is None else len(case.boxes) for case in found.cases] == [0, 0, None, None]
    (problem,) = found.problems
    assert problem.where == "train_labeled_studies.csv line 2"


def test_ph2_gives_lesions_to_pretrain_on(tmp_path: Path) -> None:
    for seed, name in enumerate(("IMD002", "IMD003")):
        base = tmp_path / "PH2 Dataset images" / name
        bone_sets.picture(base / f"{name}_Dermoscopic_Image" / f"{name}.bmp", seed=seed)
        if seed == 0:
            mask = np.zeros((40, 60), bool)
            mask[10:30, 20:40] = True
            (base / f"{name}_lesion").mkdir()
            Image.fromarray(mask).save(base / f"{name}_lesion" / f"{name}_lesion.bmp")
    found = scan_folder(tmp_path)
    (case,) = found.cases
    assert (found.layout, case.bone, case.fractured, case.boxes) == ("PH2", False, False, None)
    assert bone_mask(case).sum() == 400
    assert [problem.note for problem in found.problems] == [True]


def test_pictures_alone_and_what_is_no_data_set(tmp_path: Path) -> None:
    bone_sets.picture(tmp_path / "some" / "x.png")
    (case,) = find_cases(tmp_path)
    assert (case.name, case.boxes, case.fractured, case.bone) == ("some/x.png", None, None, None)
    assert find_cases(tmp_path, ("fracture",)) == [case]
    assert not scan_folder(tmp_path).problems
    (tmp_path / "some" / "x.txt").write_text("0 0.5 0.5 0.1 0.1")
    (note,) = scan_folder(tmp_path).problems
    assert (note.where, note.note) == ("some/x.txt", True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="holds no data set of a known layout"):
        find_cases(tmp_path / "empty")
    with pytest.raises(SetupError, match="no such folder"):
        find_cases(tmp_path / "missing")


def test_classes_are_merged_mapped_or_left_out(tmp_path: Path) -> None:
    names = ("angle", "Fracture", "bone", "messed_up_angle")
    lines = [bone_sets.yolo_line((5 + k, 5, 20, 20), WIDTH, HEIGHT, k) for k in range(4)]
    bone_sets.yolo(tmp_path, {"train/a": "\n".join(lines)}, names)
    (raw,) = find_cases(tmp_path)
    assert raw.labels == names
    (merged,) = find_cases(tmp_path, ("fracture",))
    assert merged.labels == ("fracture",) * 3
    assert merged.boxes[:, 0].tolist() == [5, 6, 8]
    assert [case.labels for case in relabel([raw], ("bone",))] == [("bone",)]
    assert relabel([raw], ("fracture", "bone"))[0].labels == ("fracture", "bone")
    mapped = relabel([raw], ("fracture",), {"angle": "", "messed_up_angle": "fracture"})[0]
    assert mapped.boxes[:, 0].tolist() == [6, 8]
    with pytest.raises(SetupError, match="class 'crack' is none of the labels fracture"):
        relabel([raw], ("fracture",), {"angle": "crack"})
    with pytest.raises(SetupError, match="no box of class 'angel'; the classes are Fracture, angle, bone, messed"):
        relabel([raw], ("fracture",), {"angel": "fracture"})
