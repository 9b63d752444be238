"""YOLO exports as Roboflow writes them, of blurred rods that look alike only where they shall."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SQUARE = "0.2 0.2 0.6 0.2 0.6 0.5 0.2 0.5"


def film(seed: int, width: int = 96, height: int = 160) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = np.zeros((height, width))
    for _ in range(6):
        x0, y0, turn = rng.random(), rng.random(), rng.uniform(0, np.pi)
        across = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
        along = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
        picture += rng.random() * np.exp(-((across / 0.06) ** 2) - (along / 0.3) ** 2)
    return Image.fromarray(np.uint8(255 * picture / picture.max()))


def blurred(seed: int) -> Image.Image:
    return film(seed).filter(ImageFilter.GaussianBlur(1.5))


def export(root: Path, names: list[str] | str, films: dict[str, tuple[Image.Image, str]]) -> Path:
    """Write ``PART/NAME.png: (picture, label lines)`` with a data.yaml; ``names`` is its list, or the text of it."""
    for key, (picture, label) in films.items():
        part, name = key.split("/")
        for kind in ("images", "labels"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
        picture.save(root / part / "images" / name)
        (root / part / "labels" / Path(name).with_suffix(".txt")).write_text(label)
    parts = sorted({key.split("/")[0] for key in films})
    lines = [f"{'val' if part == 'valid' else part}: ../{part}/images" for part in parts]
    shown = names if isinstance(names, str) else str(names)
    (root / "data.yaml").write_text("\n".join([*lines, f"nc: {len(names)}", f"names: {shown}"]), encoding="utf-8")
    return root
