"""Small data sets of radiographs in the layouts that tools write, for the tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Box = Sequence[float]


def picture(path: Path, width: int = 60, height: int = 40, seed: int = 0, orientation: int | None = None) -> Path:
    """A picture of blurred rods, unlike that of any other seed; ``orientation`` is EXIF's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    shown = 0.02 * rng.random((height, width))
    for _ in range(6):
        x0, y0, turn = rng.random(), rng.random(), rng.uniform(0, np.pi)
        across = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
        along = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
        shown += rng.random() * np.exp(-((across / 0.06) ** 2) - (along / 0.3) ** 2)
    image = Image.fromarray(np.round(255 * shown / shown.max()).astype(np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def yolo_line(box: Box, width: int, height: int, kind: int = 0) -> str:
    """A box ``x1 y1 x2 y2`` px as a line of a label file."""
    x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(kind), *(f"{share:.10f}" for share in shares)])


def yolo(folder: Path, labels: dict[str, str | None], names: Sequence[str] = ("fracture",), **size: int) -> Path:
    """Write pictures ``part/NAME`` with the text of their label files (None: no file) as Roboflow lays them out."""
    for seed, (name, text) in enumerate(labels.items()):
        part, _, stem = name.rpartition("/")
        picture(folder / part / "images" / f"{stem}.png", seed=seed, **size)
        if text is not None:
            path = folder / part / "labels" / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (folder / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: {len(names)}\nnames: {list(names)}\n"
    )
    return folder


def coco(path: Path, boxes: dict[str, Sequence[Box]], width: int, height: int, name: str = "fracture", **extra) -> Path:
    """Write a COCO JSON file; ``extra`` goes into every annotation, in place of what stands there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": k, "file_name": file, "width": width, "height": height} for k, file in enumerate(boxes)]
    annotations = [
        {"id": 10 * k + j, "image_id": k, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, **extra}
        for k, each in enumerate(boxes.values())
        for j, (x1, y1, x2, y2) in enumerate(each)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": name}]}
    path.write_text(json.dumps(content))
    return path


def voc(path: Path, file: str, boxes: Sequence[Box], width: int, height: int, name: str = "fracture") -> Path:
    """Write a PASCAL VOC file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 1)):
        ElementTree.SubElement(size, tag).text = str(value)
    for box in boxes:
        one = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(one, "name").text = name
        drawn = ElementTree.SubElement(one, "bndbox")
        for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(drawn, tag).text = repr(float(edge))
    ElementTree.ElementTree(root).write(path)
    return path


def fracatlas(folder: Path, formats: Sequence[str] = ("COCO JSON", "PASCAL VOC", "YOLO")) -> Path:
    """Write a FracAtlas of four fractured pictures and eight without, 60 x 40 px, its tables and official split."""
    fractured = [f"IMG{k:07d}.jpg" for k in (19, 25, 3733, 3297)]
    normal = [f"IMG{k:07d}.jpg" for k in range(8)]
    for seed, name in enumerate(fractured):
        picture(folder / "images" / "Fractured" / name, seed=seed)
    for seed, name in enumerate(normal):
        picture(folder / "images" / "Non_fractured" / name, seed=100 + seed)
    boxes = {name: [(10.0 + k, 5.0, 30.0, 20.0)] for k, name in enumerate(fractured)}
    base = folder / "Annotations"
    base.mkdir()
    if "COCO JSON" in formats:
        coco(base / "COCO JSON" / "COCO_fracture_masks.json", boxes, 60, 40, "fractured")
    for name, each in boxes.items():
        stem = name.removesuffix(".jpg")
        if "PASCAL VOC" in formats:
            voc(base / "PASCAL VOC" / f"{stem}.xml", name, each, 60, 40, "fractured")
        if "YOLO" in formats:
            (base / "YOLO").mkdir(exist_ok=True)
            (base / "YOLO" / f"{stem}.txt").write_text(yolo_line(each[0], 60, 40))
    columns = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count,frontal,lateral,oblique"
    rows = [f"{name},1,0,0,0,0,0,0,1,1,1,0,0" for name in fractured]
    rows += [f"{name},1,0,0,0,0,0,0,0,0,1,0,0" for name in normal]
    (folder / "dataset.csv").write_text("\n".join([columns, *rows]) + "\n")
    official_split(folder / "Utilities" / "Fracture Split")
    return folder


def official_split(folder: Path) -> Path:
    """A few lines of FracAtlas' official lists."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"train": ("IMG0000019", "IMG0000025"), "valid": ("IMG0003733",), "test": ("IMG0003297",)}
    for part, names in lists.items():
        (folder / f"{part}.csv").write_text("\n".join(["image_id", *(f"{name}.jpg" for name in names)]) + "\n")
    return folder
