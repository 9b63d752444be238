"""The fracture service under load against the reference project's app: throughput, waiting, and whether it stays alive.

    uv run python benchmarks/bones_service.py               # some ten minutes on 2 cores
    uv run python benchmarks/bones_service.py --small       # a small detector for seconds, to see that it works

16 clients ask for detections without a pause, while somebody else asks for /health. The reference app is what its
project describes, in FastAPI: a SegNet at 224 px, then torchvision's SSD at 640 px, torch, eager, float32, on the event
loop; but its models are loaded once, not on each request. The detector has the same weights on both sides: the shipped
one's, or random ones where none is shipped. Pictures are such as pass our gate, so both sides run both networks.
At the end: whether the gate is faster on several pictures at once than on one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from bones_predict import ROOT, Reference, our_files, pictures, shipped_model, torch_detector
from fastapi import FastAPI, UploadFile

from bones.cases import Case
from bones.config import Config
from bones.predict import Gate
from bones.segnet import SegNet, exported
from shared.io.radiograph import read_radiograph
from shared.io.tables import write_json
from shared.report import sha256_of
from shared.runtime import read_metadata

PROBES_PER_S = 20
GOAL_RATIO, GOAL_HEALTH_S = 3.0, 0.05
SERVICE = [sys.executable, "-m", "bones", "serve", "--quiet", "--preload", "--device", "cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmarks" / "bones-service")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long either side is asked")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--small", action="store_true", help="untrained, 300 px, for a few seconds")
    parser.add_argument("--reference-app", type=int, metavar="PORT", help="be the reference app on that port")
    options = parser.parse_args()
    shipped = None if options.small else shipped_model()
    config = Config.model_validate(read_metadata(shipped)["training"]["config"]) if shipped else Config()
    if options.small:
        config = config.model_copy(update={"detector": config.detector.model_copy(update={"size_px": 300})})
        options.seconds = min(options.seconds, 5.0)
    if options.reference_app:
        serve_reference(config, shipped, options.reference_app)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    cases = pictures(None, options.out, 8)
    files = model_files(config, shipped, options.out, cases)
    gate = Gate(files["gate"], "cpu")
    passing = [case.picture.read_bytes() for case in cases if gate(read_radiograph(case.picture)).passed]
    print(f"detector: {'the shipped weights' if shipped else 'random weights'}, {config.detector.size_px} px; "
          f"{len(passing)} pictures; {options.clients} clients for {options.seconds:g} s")  # fmt: skip
    small = ["--small"] if options.small else []
    environment = {
        **os.environ,
        "SKIAGRAM_RATE_PER_MINUTE": "1e6",
        "SKIAGRAM_JOBS_URL": f"sqlite:///{options.out}/jobs.sqlite",
    }
    result: dict[str, Any] = {"seconds": options.seconds, "clients": options.clients, "shipped": bool(shipped)}
    port = free_port()
    with server([sys.executable, __file__, *small, "--reference-app", str(port)], port, environment):
        result["reference"] = asyncio.run(load(port, passing, options))
    for name in ("float32", "INT8"):
        port = free_port()
        words = [*SERVICE, "--port", str(port), "--model", str(files[name]), "--gate", str(files["gate"])]
        with server(words, port, environment):
            result[name] = asyncio.run(load(port, passing, options))
    tell(result)
    result["gate batches"] = batches(options.out)
    write_json(result, options.out / "bones_service.json")


def model_files(config: Config, shipped: Path | None, out: Path, cases: Sequence[Case]) -> dict[str, Path]:
    """Our model files, which are made once and kept in ``out``."""
    folder = out / f"models-{config.detector.size_px}-{sha256_of(shipped)[:12] if shipped else 'random'}"
    kept = folder / "files.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = our_files(torch_detector(config, shipped), config, shipped, folder, cases)
        write_json({name: str(path) for name, path in made.items()}, kept)
    return {name: Path(path) for name, path in json.loads(kept.read_text()).items()}


def serve_reference(config: Config, shipped: Path | None, port: int) -> None:
    """Be the reference app, with its models loaded once."""
    reference = Reference(torch_detector(config, shipped), SegNet(64).eval())
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.post("/v1/detect")
    async def detect(file: UploadFile) -> dict[str, Any]:
        found = reference(io.BytesIO(await file.read()))  # type: ignore[arg-type]
        kept = found.scores >= 0.5
        return {"boxes": found.boxes_px[kept].tolist(), "scores": found.scores[kept].tolist()}

    uvicorn.run(app, port=port, log_level="warning")


async def load(port: int, files: Sequence[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Keep a server busy, and see how it answers."""
    address = f"http://127.0.0.1:{port}"
    waits: list[float] = []
    statuses: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=options.clients)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:

        async def ask(number: int, until: float) -> None:
            turn = number
            while time.perf_counter() < until:
                turn += 1
                begin = time.perf_counter()
                try:
                    answer = await client.post("/v1/detect", files={"file": ("a.png", files[turn % len(files)])})
                except httpx.TransportError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    waits.append(time.perf_counter() - begin)
                else:
                    await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), 1.0))

        await ask(0, time.perf_counter())  # nothing: the connection
        await client.post("/v1/detect", files={"file": ("a.png", files[0])})
        with probed(port) as health:
            begin = time.perf_counter()
            await asyncio.gather(*(ask(number, begin + options.seconds) for number in range(options.clients)))
            seconds = time.perf_counter() - begin
    return {
        "pictures_per_s": len(waits) / seconds,
        "statuses": dict(statuses),
        "wait_s": spread(waits),
        "health_s": spread(health),
    }


@contextmanager
def probed(port: int) -> Iterator[list[float]]:
    """Ask for /health meanwhile; gives the seconds that it took each time."""
    took: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            while not over.wait(1 / PROBES_PER_S):
                begin = time.perf_counter()
                client.get("/health").raise_for_status()
                took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


@contextmanager
def server(words: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    """Run a server until it has been asked enough."""
    with subprocess.Popen(words, env=environment) as process:
        try:
            for _ in range(600):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise SystemExit(f"the server ended with {process.returncode}: {words}") from None
                    time.sleep(0.2)
            yield
        finally:
            process.terminate()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    if not values:
        return {}
    return {
        "p50": statistics.median(values),
        "p99": float(np.percentile(values, 99)),
        "max": max(values),
        "n": len(values),
    }


def tell(result: dict[str, Any]) -> None:
    reference = result["reference"]["pictures_per_s"]
    for name in ("reference", "float32", "INT8"):
        found = result[name]
        wait, health = found["wait_s"], found["health_s"]
        print(
            f"{name:10} {found['pictures_per_s']:6.2f} pictures/s, {found['pictures_per_s'] / reference:5.1f} x; "
            f"wait p50 {wait['p50']:6.2f} s, p99 {wait['p99']:6.2f} s; /health p50 {health['p50'] * 1000:7.1f} ms, "
            f"p99 {health['p99'] * 1000:7.1f} ms; {found['statuses']}"
        )
    best = result["INT8"]
    print(f"goals: {GOAL_RATIO:g} x, reached {best['pictures_per_s'] / reference:.1f} x; /health p99 "
          f"{GOAL_HEALTH_S * 1000:g} ms, reached {best['health_s']['p99'] * 1000:.1f} ms")  # fmt: skip


def batches(out: Path) -> dict[str, float]:
    """Milliseconds a picture of the gate's network, by how many run at once, on two threads.

    The service looks at one picture in each of two processes of one thread, which is the last line here.
    """
    import openvino
    import torch

    core = openvino.Core()
    network = exported(SegNet(16).eval())
    found: dict[str, float] = {}

    def compiled(size: int, threads: int) -> Any:
        path = out / f"gate-{size}.onnx"
        torch.onnx.export(network, (torch.zeros(size, 1, 224, 224),), path, dynamo=True, verbose=False)
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
                   "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}  # fmt: skip
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        picture = np.random.default_rng(0).random((size, 1, 224, 224), np.float32)
        return lambda: request.infer([picture], share_inputs=True)

    for size in (1, 2, 4, 8):
        found[f"{size} at once, 2 threads"] = paced(compiled(size, 2)) * 1000 / size
    pair = [compiled(1, 1) for _ in range(2)]
    found["1 at once, 2 streams of 1 thread"] = paced(*pair) * 1000 / 2
    for name, milliseconds in found.items():
        print(f"gate, {name:34} {milliseconds:6.1f} ms a picture")
    return found


def paced(*works: Any, seconds: float = 3.0) -> float:
    """Seconds of one round of works that run side by side, the median of several."""
    rounds: list[float] = []

    def repeat(work: Any) -> None:
        work()
        until = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < until:
            work()
            rounds.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(rounds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
