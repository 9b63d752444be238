"""The reference project's way from scan to mask, as good as its libraries allow; one process, one JSON line.

MONAI transforms, torch float32 ``sliding_window_inference`` (96 cubed, overlap 0.25), argmax, the mask resized back
with scikit-image, nibabel save.

    python benchmarks/coronary_reference.py SCAN WEIGHTS OUT --features 32 64 128 256 512 32
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet
from monai.transforms import EnsureChannelFirst, LoadImage, NormalizeIntensity, Spacing, SpatialPad
from safetensors.torch import load_file
from skimage.transform import resize

from shared.report import Stopwatch, peak_memory_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--features", type=int, nargs=6, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    model = BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=options.features, dropout=0.1)
    model.load_state_dict(load_file(options.weights))
    model.eval()

    watch = Stopwatch()
    with watch.stage("read"):
        image = EnsureChannelFirst()(LoadImage(reader="NibabelReader", image_only=True)(options.scan))
        stored = image.shape[1:]
        affine = image.affine.numpy()
    with watch.stage("preprocess"):
        image = SpatialPad((96, 96, 96))(image)
        image = NormalizeIntensity(nonzero=True)(image)
        image = Spacing((1.0, 1.0, 1.0), mode="bilinear")(image)
    with watch.stage("network"), torch.no_grad():
        logits = sliding_window_inference(image[None].as_tensor(), (96, 96, 96), 1, model, overlap=0.25)
        mask = logits.argmax(1)[0].numpy().astype(np.uint8)
    with watch.stage("back to the input's grid"):
        mask = resize(mask, stored, order=0, preserve_range=True, anti_aliasing=False).astype(np.uint8)
    with watch.stage("write mask"):
        nib.save(nib.Nifti1Image(mask, affine), options.out)
    print(json.dumps({"seconds": watch.seconds, "peak_memory_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    main()
