"""Preprocessing: the reference chain is MONAI's, and a HU window may be cropped first."""

import nibabel as nib
import numpy as np
import pytest

from coronary.config import HuWindow, Preprocessing, ZScore
from coronary.preprocess import preprocess
from shared.geometry import crop
from shared.io.volume import read_volume
from shared.types import Volume


def scan(path, shape=(120, 101, 110), spacing=(0.7, 0.6, 0.9)):
    rng = np.random.default_rng(0)
    array = rng.normal(40, 300, shape).round().astype(np.int16)
    array[:10] = 0  # zeros stay zeros under the reference chain
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -30, 12, 7
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for every reader it knows
@pytest.mark.parametrize("shape", [(120, 101, 110), (60, 101, 90)])
def test_the_reference_chain_is_that_of_monai(tmp_path, shape):
    from monai.transforms import EnsureChannelFirst, LoadImage, NormalizeIntensity, Spacing, SpatialPad

    path = scan(tmp_path / "1.img.nii.gz", shape)
    image = EnsureChannelFirst()(LoadImage(reader="NibabelReader", image_only=True)(path))
    for step in (SpatialPad((96, 96, 96)), NormalizeIntensity(nonzero=True), Spacing((1.0, 1.0, 1.0), mode="bilinear")):
        image = step(image)
    got = preprocess(read_volume(path), Preprocessing(normalisation=ZScore()))
    assert got.array.shape == image.shape[1:]
    np.testing.assert_allclose(got.array, image[0].numpy(), atol=1e-3)
    np.testing.assert_allclose(got.affine, image.affine.numpy(), atol=1e-6)


def test_thresholds_in_hu_hold_after_either_normalisation(tmp_path):
    volume = read_volume(scan(tmp_path / "1.img.nii.gz"))
    for normalisation in (HuWindow(), ZScore()):
        prepared = preprocess(volume, Preprocessing(spacing_mm=volume.spacing_mm, normalisation=normalisation))
        nonzero = volume.array != 0
        np.testing.assert_array_equal(prepared.brighter_than(99.5)[nonzero], volume.array[nonzero] > 99.5)


def test_the_hu_window_clips_and_scales(tmp_path):
    volume = read_volume(scan(tmp_path / "1.img.nii.gz"))
    settings = Preprocessing(spacing_mm=volume.spacing_mm, normalisation=HuWindow(low_hu=-200, high_hu=800))
    got = preprocess(volume, settings)
    np.testing.assert_allclose(got.array, np.clip((volume.array + 200) / 500 - 1, -1, 1), atol=1e-5)
    assert got.pad_value == -1


def test_cropping_first_changes_nothing_under_a_hu_window(tmp_path):
    volume = read_volume(scan(tmp_path / "1.img.nii.gz", spacing=(0.5, 0.5, 0.5)))
    settings = Preprocessing(spacing_mm=(1.0, 1.0, 1.0), normalisation=HuWindow())
    whole = preprocess(volume, settings)
    array, affine = crop(volume.array, volume.affine, (slice(20, 81), slice(10, 91), slice(30, 101)))
    part = preprocess(Volume(array, affine, volume.source), settings)
    np.testing.assert_allclose(part.array, whole.array[10 : 10 + part.array.shape[0], 5:46, 15:51], atol=1e-5)


def test_a_constant_scan_is_no_division_by_zero(tmp_path):
    volume = read_volume(scan(tmp_path / "1.img.nii.gz"))
    flat = Volume(np.full_like(volume.array, 7), volume.affine, volume.source)
    assert np.isfinite(preprocess(flat, Preprocessing(normalisation=ZScore())).array).all()
