"""Small data sets in ImageCAS's layout, for the tests."""

from pathlib import Path

import nibabel as nib
import numpy as np

from coronary.cases import IMAGE, LABEL, Case


def write_case(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray | float = 1.0, ending: str = LABEL
) -> Case:
    """Write a scan and its label; a number for ``affine`` is an isotropic spacing in mm."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = affine if isinstance(affine, np.ndarray) else np.diag([affine, affine, affine, 1.0])
    case = Case(name, folder / (name + IMAGE), folder / (name + ending))
    for array, path in ((image, case.image), (label, case.label)):
        nib.save(nib.Nifti1Image(array, matrix), path)
    return case


def noise_case(folder: Path, name: str, shape: tuple[int, int, int] = (20, 22, 18), spacing_mm: float = 1.0) -> Case:
    """Write a scan of noise, its own for each name, with a bright rod along z that is its label."""
    rng = np.random.default_rng(abs(hash_of(name)))
    image = rng.normal(0, 100, shape).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    label[shape[0] // 2 : shape[0] // 2 + 3, shape[1] // 2 : shape[1] // 2 + 3, 3:-3] = 1
    image[label > 0] += 400
    return write_case(folder, name, image, label, spacing_mm)


def hash_of(name: str) -> int:
    """Return a number for a name that is the same in every process."""
    return int.from_bytes(name.encode(), "little")
