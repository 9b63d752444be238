"""Coronary prediction against the reference project's way: time, memory, agreement; one run, one machine.

    uv run python benchmarks/coronary_predict.py              # everything, some ten minutes on 2 cores
    uv run python benchmarks/coronary_predict.py --small      # a smaller scan, to see that it works

Both sides run the full-width network on the same weights and start with the model loaded. The weights are those of the
shipped lite model, embedded: its channels compute what they do in the lite model, all others are random and never
reach them. So the full network costs what it costs and paints a plausible tree. Agreement is measured with the
shipped lite model itself, on its own grid, with the reference's window origins, before the way back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import EnsureChannelFirst, LoadImage, Orientation, ScaleIntensityRange, Spacing
from safetensors.torch import save_file

from coronary.config import Config, HuWindow, Inference
from coronary.model import build
from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from coronary.predict import METADATA_VERSION, Predictor, as_volume
from coronary.preprocess import preprocess
from shared.export import export_onnx, quantise
from shared.io.writers import write_json
from shared.metrics.overlap import dice
from shared.registry import CHECKOUT_MODELS
from shared.runtime import read_metadata
from shared.sliding_window import plan_windows, slide

ROOT = Path(__file__).resolve().parents[1]
FULL = Config()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--small", action="store_true", help="a 256x256x103 scan, and no 800-slice one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scan = make_scan(options.out, options.small)
    weights, fp32, int8 = make_full_network(options.out, scan)

    features = [str(n) for n in FULL.features]
    reference = child(
        "benchmarks/coronary_reference.py", scan, weights, options.out / "reference.nii.gz", "--features", *features
    )
    ours = {
        name: child("benchmarks/coronary_ours.py", scan, model, options.out / f"{name}.nii.gz")
        for name, model in (("float32", fp32), ("INT8", int8))
    }
    tell_times(reference, ours)
    result: dict[str, Any] = {"reference": reference, "ours": ours, "agreement": agreement(scan)}
    tell_agreement(result["agreement"])
    if not options.small:
        result["800 slices"] = child(
            "benchmarks/coronary_ours.py", make_tall(options.out, scan), int8, options.out / "tall.nii.gz"
        )
        print(f"512x512x800, INT8: peak memory {result['800 slices']['peak_memory_bytes'] / 2**30:.2f} GiB (limit 4)")
    write_json(result, options.out / "coronary_predict.json")


def make_scan(out: Path, small: bool) -> Path:
    """A phantom of a cardiac CT's real size; made once."""
    folder = out / ("small" if small else "scan")
    shape, spacing = ((256, 256, 103), (0.7, 0.7, 1.0)) if small else ((512, 512, 206), (0.35, 0.35, 0.5))
    path = folder / "1.img.nii.gz"
    if not path.exists():
        write_phantom(
            make_phantom(PhantomConfig(shape=shape, spacing_mm=spacing, orientation="RAS"), 9_000_001), folder, 1
        )
    return path


def make_tall(out: Path, scan: Path) -> Path:
    """The same scan stacked to 800 slices."""
    path = out / "tall" / "1.img.nii.gz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        image = nib.load(scan)
        array = np.asarray(image.dataobj)
        tall = np.concatenate([array] * (-(-800 // array.shape[2])), axis=2)[:, :, :800]
        nib.save(nib.Nifti1Image(tall, image.affine, image.header), path)
    return path


def make_full_network(out: Path, scan: Path) -> tuple[Path, Path, Path]:
    """The full-width network that computes the lite model's function: torch weights, ONNX, INT8 ONNX."""
    volume = as_volume(scan)
    prepared = preprocess(volume, FULL.preprocessing)
    metadata = read_metadata(CHECKOUT_MODELS / "coronary.onnx")
    window = HuWindow.model_validate(metadata["preprocessing"]["normalisation"])
    model = widen(lite_weights(), network_of(metadata), window, prepared.scale, prepared.offset)
    weights, fp32, int8 = out / "full.safetensors", out / "full.onnx", out / "full-int8.onnx"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    notes = {
        "metadata_version": METADATA_VERSION, "task": "coronary", "precision": "fp32",
        "preprocessing": FULL.preprocessing.model_dump(mode="json"),
        "inference": Inference().model_dump(mode="json"),
    }  # fmt: skip
    starts = [(i * n // 4, i * m // 5, 0) for i, (n, m) in enumerate([prepared.array.shape[:2]] * 3)]
    samples = []
    for x, y, z in starts:
        piece = prepared.array[x : x + 64, y : y + 64, z : z + 64]
        samples.append(np.ascontiguousarray(piece)[None, None])
    export_onnx(model, samples[:2], fp32, notes, engines=("openvino",))
    quantise(fp32, int8, samples, score=lambda path: 1.0)
    return weights, fp32, int8


def network_of(metadata: dict[str, Any]) -> Config:
    """What the network of a model file looks like."""
    return Config(features=metadata["training"]["config"]["features"])


def lite_weights() -> dict[str, torch.Tensor]:
    """The shipped model's weights by their torch names."""
    proto = onnx.load(CHECKOUT_MODELS / "coronary.onnx")
    arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    # The exporter adds constants of its own to the weights.
    return {name: torch.from_numpy(array) for name, array in arrays.items() if name.endswith((".weight", ".bias"))}


def widen(
    lite: dict[str, torch.Tensor], config: Config, window: HuWindow, scale: float, offset: float
) -> torch.nn.Module:
    """Embed the lite network in the full one, its HU window folded into the first convolution."""
    torch.manual_seed(0)
    model = build(FULL)
    state = model.state_dict()
    for name, full in state.items():
        small = lite[name]
        if full.ndim == 1:
            full[: len(small)] = small
            continue
        outputs, inputs = torch.arange(small.shape[0]), torch.arange(small.shape[1])
        if "upsample" in name:  # a transposed convolution: inputs first
            full[:, : small.shape[1]] = 0
        else:
            if name.startswith("upcat") and "conv_0.conv" in name:  # skipped channels stand before upsampled ones
                level = int(name[len("upcat_")]) - 1
                inputs = inputs + (inputs >= config.features[level]) * (FULL.features[level] - config.features[level])
            full[: small.shape[0]] = 0
        full[outputs[:, None], inputs[None, :]] = small
    # HU = (z - offset) / scale, and the lite network wants HU * gain - shift.
    gain = 2 / (window.high_hu - window.low_hu)
    first, bias = state["conv_0.conv_0.conv.weight"], state["conv_0.conv_0.conv.bias"]
    used = lite["conv_0.conv_0.conv.weight"].shape[0]
    bias[:used] += first[:used].sum(dim=(1, 2, 3, 4)) * (-offset / scale * gain - 1 - window.low_hu * gain)
    first[:used] *= gain / scale
    model.load_state_dict(state)
    return model.eval()


def child(*words: Any) -> dict[str, Any]:
    """Run a script of this folder in its own process, so that peak memory is its own."""
    print("running", *[Path(str(w)).name for w in words[:3]], flush=True)
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False, env=None
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def agreement(scan: Path) -> dict[str, float]:
    """Dice of the shipped model's mask with the reference way's, on the model's grid with the same windows."""
    fp32 = Predictor(CHECKOUT_MODELS / "coronary.onnx", "cpu", engine="openvino", trained_windows=True)
    settings, inference = fp32.preprocessing, fp32.inference
    window = settings.normalisation
    assert isinstance(window, HuWindow)
    image = Orientation("RAS", labels=None)(
        EnsureChannelFirst()(LoadImage(reader="NibabelReader", image_only=True)(scan))
    )
    image = Spacing(settings.spacing_mm, mode="bilinear")(image)
    image = ScaleIntensityRange(window.low_hu, window.high_hu, -1, 1, clip=True)(image)
    model = build(network_of(fp32.session.metadata))
    model.load_state_dict(lite_weights())
    with torch.no_grad():
        logits = sliding_window_inference(
            image[None].as_tensor(), inference.window, 1, model.eval(), overlap=inference.overlap
        )[0]
    wanted = (logits[1] > logits[0]).numpy()

    prepared = preprocess(as_volume(scan), settings)
    where = prepared.brighter_than(inference.lumen_threshold_hu)
    shape = prepared.array.shape
    plan = plan_windows((shape[0], shape[1], shape[2]), inference.window, inference.overlap)
    found = {}
    for name, file in (("float32", "coronary.onnx"), ("INT8", "coronary-int8.onnx")):
        session = Predictor(CHECKOUT_MODELS / file, "cpu").session
        difference, _ = slide(
            prepared.array, session, plan, blending="constant", pad_value=prepared.pad_value, where=where
        )
        found[name] = dice(difference > 0, wanted)
        if name == "float32":
            difference, _ = slide(prepared.array, session, plan, pad_value=prepared.pad_value, where=where)
            found["float32, Gaussian weights"] = dice(difference > 0, wanted)
    return found


def tell_times(reference: dict[str, Any], ours: dict[str, dict[str, Any]]) -> None:
    columns = {"reference": reference, **ours}
    stages = list(dict.fromkeys(stage for column in columns.values() for stage in column["seconds"]))
    print(f"\n{'seconds':28}" + "".join(f"{name:>12}" for name in columns))
    for stage in stages:
        print(f"{stage:28}" + "".join(f"{column['seconds'].get(stage, 0):12.2f}" for column in columns.values()))
    totals = {name: sum(column["seconds"].values()) for name, column in columns.items()}
    print(f"{'end to end':28}" + "".join(f"{total:12.2f}" for total in totals.values()))
    print(f"{'times faster':28}" + "".join(f"{totals['reference'] / total:12.1f}" for total in totals.values()))
    peaks = {name: column["peak_memory_bytes"] for name, column in columns.items()}
    print(f"{'peak memory, GiB':28}" + "".join(f"{peak / 2**30:12.2f}" for peak in peaks.values()))
    print(f"{'of the reference':28}" + "".join(f"{peak / peaks['reference']:12.2f}" for peak in peaks.values()))
    for name, column in ours.items():
        extras = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in column["extras"].items())
        print(f"besides, {name}, what the reference does not make: {extras}")


def tell_agreement(found: dict[str, float]) -> None:
    for name, value in found.items():
        print(f"agreement with the reference, {name}: Dice {value:.4f}")


if __name__ == "__main__":
    main()
