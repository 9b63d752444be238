"""Spine prediction against ultralytics' own `YOLO.predict` of the same weights on the same CPU: time and agreement.

    uv run python benchmarks/spine_predict.py                              # films it makes itself, random weights
    uv run python benchmarks/spine_predict.py --run runs/spine/lite        # a run's weights
    uv run python benchmarks/spine_predict.py --films DIR                  # films of one's own
    uv run python benchmarks/spine_predict.py --small                      # a few films, to see that it works

Both sides read a film from disk and leave a JSON file with names, boxes and polygons at the film's own resolution: one
film at a time, and a folder of 100 different films (as far as there are so many) as each side goes through one, models
loaded; and what loading and the first film take. ultralytics predicts with
`agnostic_nms=True, retina_masks=True`, which is the result that ours equals; ours names the vertebrae by their order as
well. Agreement is measured before that, on the same grey values. Random weights find what they like, at a threshold low
enough that there is something to compare.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from shared.cohort import Item, Outcome, run_cohort
from shared.export import quantise
from shared.io.radiograph import is_radiograph, read_radiograph
from shared.io.tables import write_json
from shared.runtime import Session
from spine.batch import AT_ONCE, write_result
from spine.config import Config
from spine.decode import Candidates
from spine.export import FLOAT_FIRST, RawHead, export_network, inputs_of, model_metadata
from spine.model import build, read_weights
from spine.model_file import OperatingPoint
from spine.offline import offline_ultralytics
from spine.phantom import PhantomConfig, write_dataset
from spine.predict import Predictor
from spine.preprocess import as_bytes

ROOT = Path(__file__).resolve().parents[1]
TALL = (1, 3, 640, 288)
SIZE_PX = 640
FOLDER = 100
IOU = 0.55
Models: TypeAlias = dict[str, tuple[Path, OperatingPoint | str]]  # file and operating point


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks" / "spine")
    parser.add_argument("--run", type=Path, help="a run folder whose best weights are taken; random ones if left out")
    parser.add_argument("--model", type=Path, help="an exported file, timed as it is, second looks and all")
    parser.add_argument("--films", type=Path, help="a folder of films; phantoms if left out")
    parser.add_argument("--count", type=int, default=20, help="films to time and compare, one by one")
    parser.add_argument("--small", action="store_true", help="three films, a folder of six")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = find_films(options)
    films, many = found[: 3 if options.small else options.count], found[: 6 if options.small else FOLDER]
    network = load_network(options.run, films)
    point = OperatingPoint(confidence=0.1 if options.run else middling(network, films), iou=IOU)
    fp32, int8 = make_models(network, films, options.out)
    models: Models = {"fp32": (fp32, point), "INT8": (int8, point)}
    if options.model:
        models["as exported"] = (options.model, "default")
    ours = {name: Predictor(path, "cpu", operating_point=own) for name, (path, own) in models.items()}
    theirs = ultralytics_model(network)

    result: dict[str, Any] = {
        "engine": ours["fp32"].engine, "threads": torch.get_num_threads(), "confidence": point.confidence,
        "first_film_s": first_film(models, network, point, films[0]),
        "network_alone_ms": network_alone(network, fp32, int8),
        "film_ms": per_film(ours, theirs, point, films, options.out),
        "folder_s": folder(models, theirs, point, many, options.out, 6 if options.small else FOLDER),
        "agreement": agreement(ours["fp32"], theirs, point, films),
    }  # fmt: skip
    tell(result, len(films))
    write_json(result, options.out / "spine_predict.json")


def find_films(options: argparse.Namespace) -> list[Path]:
    """The films of a folder, or phantoms: whole spines from the front, 1024 px tall; made once."""
    folder = options.films
    if folder is None:
        data = options.out / "phantoms"
        if not data.exists():
            config = PhantomConfig(views=("ap",), regions=("whole",), long_side_px=1024, validation_fraction=0)
            write_dataset(data, options.count, seed=9_000_001, config=config)
        folder = data / "train" / "images"
    films = sorted(path for path in folder.iterdir() if is_radiograph(path))
    assert films, f"{folder}: no films"
    return films


def load_network(run: Path | None, films: Sequence[Path]) -> torch.nn.Module:
    """A run's network, or one of random weights whose normalisations fit a film, so that it tells places apart."""
    torch.manual_seed(0)
    network = build(Config()).eval()
    if run is not None:
        network.load_state_dict(read_weights(run / "best.ckpt"))
        return network
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.from_numpy(inputs_of(films[:1], SIZE_PX)[0]))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return network.eval()


def middling(network: torch.nn.Module, films: Sequence[Path]) -> float:
    """A confidence that some two hundred places of the first film exceed."""
    with torch.no_grad():
        logits = RawHead(network)(torch.from_numpy(inputs_of(films[:1], SIZE_PX)[0]))[1]
    best = logits.sigmoid().amax(1).flatten().sort(descending=True).values
    return float(best[min(200, len(best) - 1)])


def make_models(network: torch.nn.Module, films: Sequence[Path], out: Path) -> tuple[Path, Path]:
    fp32, int8 = out / "spine.onnx", out / "spine-int8.onnx"
    export_network(network, films[:1], fp32, model_metadata(Config(), "benchmark"))
    samples = inputs_of(films[:8], SIZE_PX)
    quantise(fp32, int8, samples, score=lambda path: 1.0, correct_bias=True, float_first=FLOAT_FIRST)
    return fp32, int8


def ultralytics_model(network: torch.nn.Module) -> Any:
    offline_ultralytics()
    from ultralytics import YOLO

    model = YOLO("yolo11n-seg.yaml", task="segment")
    model.model = network
    model.model.args = {"task": "segment"}
    return model


def predict_theirs(model: Any, source: Any, point: OperatingPoint, **more: Any) -> Any:
    return model.predict(
        source, conf=point.confidence, iou=point.iou, imgsz=SIZE_PX, agnostic_nms=True, retina_masks=True, device="cpu",
        verbose=False, save=False, **more,
    )  # fmt: skip


def network_alone(network: torch.nn.Module, fp32: Path, int8: Path) -> dict[str, float]:
    """Milliseconds of one tall film of 640 x 288."""
    image = np.random.default_rng(0).random(TALL, np.float32)
    tensor, head = torch.from_numpy(image), RawHead(network)

    def torch_once() -> None:
        with torch.inference_mode():
            head(tensor)

    sessions = {"OpenVINO fp32": Session(fp32, "cpu", "openvino"), "OpenVINO INT8": Session(int8, "cpu", "openvino")}
    found = {"torch": median_ms(torch_once)}
    return found | {name: median_ms(lambda s=session: s.outputs(image)) for name, session in sessions.items()}


def median_ms(once: Callable[[], Any], repeat: int = 15) -> float:
    times = []
    for _ in range(repeat + 2):
        started = time.perf_counter()
        once()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def first_film(models: Models, network: torch.nn.Module, point: OperatingPoint, film: Path) -> dict[str, float]:
    """Seconds to load a model and predict one film, in a process that has all it imports."""
    model = ultralytics_model(network)
    predict_theirs(model, film, point)  # imports what it needs
    found = {"ultralytics": timed(lambda: predict_theirs(ultralytics_model(network), film, point))}
    for name, (path, own) in models.items():
        found[name] = timed(lambda p=path, o=own: Predictor(p, "cpu", operating_point=o)(film))
    return found


def per_film(
    ours: dict[str, Predictor], theirs: Any, point: OperatingPoint, films: Sequence[Path], out: Path
) -> dict[str, float]:
    """Median milliseconds from the film on disk to its JSON on disk."""
    target = out / "film.json"

    def theirs_once(film: Path) -> None:
        write_text(predict_theirs(theirs, film, point)[0].to_json(), target)

    ways: dict[str, Callable[[Path], None]] = {"ultralytics": theirs_once}
    for name, predictor in ours.items():
        ways[name] = lambda film, p=predictor: write_result(film.name, p(film), p, target)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for film in films:  # turn by turn, so that a busy moment hits all alike
        for name, way in ways.items():
            way(film)
            times[name].append(min(timed(lambda w=way, f=film: w(f)) for _ in range(3)))
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def folder(
    models: Models, theirs: Any, point: OperatingPoint, films: Sequence[Path], out: Path, count: int
) -> dict[str, float]:
    """Seconds for a folder of so many films; where there are fewer, copies under names of their own."""
    source, target = out / "folder", out / "results"
    for place in (source, target):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    copies = [source / f"{k:03}{films[k % len(films)].suffix}" for k in range(count)]
    for k, copy in enumerate(copies):
        shutil.copyfile(films[k % len(films)], copy)

    def theirs_all() -> None:
        for result in predict_theirs(theirs, source, point, stream=True):
            write_text(result.to_json(), target / f"{Path(result.path).stem}.json")

    def ours_all(predictor: Predictor) -> None:
        def work(item: Item) -> Outcome:
            write_result(item.path.name, predictor(item.path), predictor, item.outputs[0])
            return Outcome()

        items = [Item(film, (target / f"{film.stem}.json",)) for film in copies]
        assert run_cohort(items, work, overwrite=True, at_once=AT_ONCE).exit_status == 0

    found = {"ultralytics": timed(theirs_all)}
    for name, (path, own) in models.items():
        predictor = Predictor(path, "cpu", operating_point=own, at_once=AT_ONCE)
        predictor(films[0])  # loaded, as theirs is
        found[name] = timed(lambda p=predictor: ours_all(p))
    return found


def timed(once: Callable[[], Any]) -> float:
    started = time.perf_counter()
    once()
    return time.perf_counter() - started


def write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def agreement(predictor: Predictor, theirs: Any, point: OperatingPoint, films: Sequence[Path]) -> dict[str, Any]:
    """The largest difference of a box and the least overlap of a mask, over all that either side finds."""
    boxes, masks, found, ours, alone = [0.0], [1.0], 0, 0, 0
    for film in films:
        radiograph = read_radiograph(film)
        grey = as_bytes(radiograph.array)
        theirs_found = predict_theirs(theirs, np.repeat(grey[..., None], 3, axis=2), point)[0]
        ours_found = predictor.candidates(radiograph)
        their_boxes = theirs_found.boxes.xyxy.numpy()
        found, ours = found + len(their_boxes), ours + len(ours_found)
        for k, away in partners(ours_found, their_boxes):
            if away is None:
                alone += 1
                continue
            boxes.append(float(np.abs(ours_found.boxes_px[k] - their_boxes[away]).max()))
            assert theirs_found.masks is not None
            masks.append(mask_iou(ours_found, k, theirs_found.masks.data[away].numpy().astype(bool)))
        alone += max(0, len(their_boxes) - len(ours_found))
    return {
        "films": len(films), "theirs": found, "ours": ours, "without_partner": alone,
        "largest_box_difference_px": max(boxes), "least_mask_iou": min(masks),
        "mask_iou_1_percent": float(np.percentile(masks, 1)),
    }  # fmt: skip


def partners(ours: Candidates, theirs: np.ndarray) -> list[tuple[int, int | None]]:
    """For each of ours the nearest of theirs, if that is within two pixels."""
    pairs: list[tuple[int, int | None]] = []
    for k, box in enumerate(ours.boxes_px):
        apart = np.abs(theirs - box).max(axis=1) if len(theirs) else np.array([np.inf])
        best = int(apart.argmin())
        pairs.append((k, best if apart[best] < 2 else None))
    return pairs


def mask_iou(ours: Candidates, k: int, theirs: np.ndarray) -> float:
    painted = np.zeros(theirs.shape, np.uint8)
    ours.masks[k].paint(painted, 1)
    return float((painted & theirs).sum() / max(1, (painted | theirs).sum()))


def tell(result: dict[str, Any], films: int) -> None:
    alone = ", ".join(f"{name} {value:.0f} ms" for name, value in result["network_alone_ms"].items())
    print(f"{result['engine']}, {result['threads']} threads; the network alone at 640 x 288: {alone}")
    for key, unit, what in (
        ("first_film_s", "s", "the first film, loading included"),
        ("film_ms", "ms", f"a film, median of {films}"),
        ("folder_s", "s", "the folder"),
    ):
        reference = result[key]["ultralytics"]
        for name, value in result[key].items():
            if name == "ultralytics":
                continue
            print(f"{what}: theirs {reference:.1f} {unit}, ours {name} {value:.1f} {unit}: {reference / value:.2f}x")
    found = result["agreement"]
    print(
        f"agreement on {found['films']} films: {found['theirs']} boxes of theirs, {found['ours']} of ours, "
        f"{found['without_partner']} without a partner; boxes within {found['largest_box_difference_px']:.4f} px, "
        f"masks' IoU at least {found['least_mask_iou']:.4f} (1st percentile {found['mask_iou_1_percent']:.4f})"
    )


if __name__ == "__main__":
    main()
