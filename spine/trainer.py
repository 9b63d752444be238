"""ultralytics' segmentation trainer, made to go on exactly where it stopped and to leave the run folder of every task.

Its own resume takes the averaged weights, rounded to 16 bits, for the trained ones, and reads a pickle. Here a run's
``last.ckpt`` holds both at full precision with the optimiser, as plain tensors.
"""

from __future__ import annotations

import itertools
import math
import time
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from shared.config import load_config
from shared.errors import SetupError
from shared.training_devices import warn_of_emulation
from shared.training_folder import RunFolder
from shared.training_optimiser import rising
from spine.cases import Film, load_films
from spine.config import LEVELS, Config, Training
from spine.data import CHANNELS, Films, training_loader
from spine.model import build, load_matching, read_weights, settle, settled
from spine.offline import offline_ultralytics

offline_ultralytics()

from ultralytics.data.build import build_dataloader  # noqa: E402
from ultralytics.engine import trainer as ultralytics_trainer  # noqa: E402
from ultralytics.models.yolo.segment import SegmentationTrainer  # noqa: E402
from ultralytics.utils import DEFAULT_CFG, RANK  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

METRIC = "map50_95"
"""What says which weights are best: the mean of box and mask mAP50-95."""
SCORES = {
    "box_precision": "metrics/precision(B)", "box_recall": "metrics/recall(B)",
    "box_map50": "metrics/mAP50(B)", "box_map50_95": "metrics/mAP50-95(B)",
    "mask_precision": "metrics/precision(M)", "mask_recall": "metrics/recall(M)",
    "mask_map50": "metrics/mAP50(M)", "mask_map50_95": "metrics/mAP50-95(M)",
}  # fmt: skip
OPTIMISERS = {"auto": "auto", "sgd": "SGD", "adamw": "AdamW"}
PRECISIONS: dict[str, bool | str] = {"32-true": False, "bf16-mixed": "bf16", "16-mixed": True}
NEVER = 10**6
SETTLING = 16  # batches

engine: Any = ultralytics_trainer
_autocast = engine.autocast


def _autocast_anywhere(enabled: Any, device: str = "cuda") -> Any:
    """Let the CPU compute in bfloat16 too, which ultralytics refuses: with AVX512-BF16 a third less time."""
    if device == "cpu" and enabled is torch.bfloat16:
        return torch.autocast("cpu", torch.bfloat16)
    return _autocast(enabled, device)


engine.autocast = _autocast_anywhere


def trainer_settings(config: Config, run: Path, device: str) -> dict[str, Any]:
    """Return the run's settings as ultralytics names them; its own files go to ``run/ultralytics``."""
    training, change = config.training, config.augmentation
    return {
        "model": f"{config.network}.yaml", "data": str(run), "imgsz": config.size_px, "device": device,
        "project": str(run.resolve()), "name": "ultralytics", "exist_ok": True, "plots": False, "verbose": False,
        "pretrained": False, "save": True, "workers": training.workers,
        "epochs": training.epochs, "batch": training.batch, "nbs": training.nominal_batch,
        "optimizer": OPTIMISERS[training.optimiser], "lr0": training.learning_rate, "lrf": training.final_share,
        "momentum": training.momentum, "weight_decay": training.weight_decay, "warmup_epochs": training.warmup_epochs,
        # Weights warm up from 0, but ultralytics lets biases begin at 0.1, too much for AdamW's step.
        **({"warmup_bias_lr": 0.0} if training.optimiser == "adamw" else {}),
        "cos_lr": training.schedule == "cosine", "patience": training.early_stop_epochs or NEVER,
        "seed": training.seed, "amp": PRECISIONS[training.precision], "deterministic": True,
        "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": change.brightness,  # films are grey
        "degrees": change.degrees, "translate": change.translate, "scale": change.scale, "shear": change.shear_degrees,
        "fliplr": change.mirror, "flipud": change.upside_down,
        "mosaic": 0.0 if config.rectangular else change.mosaic, "close_mosaic": change.mosaic_off_epochs,
    }  # fmt: skip


def device_string(training: Training) -> str:
    """Return the device or devices as ultralytics names them: ``cpu``, ``0``, or a list such as ``0,1``.

    Raises:
        SetupError: a device that is not there, or is no device; nothing is replaced by something else (law 8).
    """
    device, there = training.device, torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        if training.devices > 1:
            raise SetupError(f"devices is {training.devices}, but ultralytics trains in one process on the CPU; give 1")
        if training.precision == "16-mixed":
            raise SetupError("precision 16-mixed needs CUDA; give bf16-mixed or 32-true")
        warn_of_emulation(training.precision, on_cuda=False)
        return "cpu"
    kind, _, numbers = device.partition(":")
    try:
        wanted = [int(number) for number in numbers.split(",")] if numbers else list(range(training.devices))
    except ValueError:
        wanted = []
    if kind not in ("cuda", "auto") or not wanted:
        raise SetupError(f"{device}: is no device; give auto, cpu, cuda, cuda:N, or a list such as cuda:0,1")
    if max(wanted) >= there or not torch.cuda.is_available():
        raise SetupError(f"device {device} x {len(wanted)} asked for, but torch sees {there} CUDA devices; give others")
    warn_of_emulation(training.precision, on_cuda=True)
    return ",".join(map(str, wanted))


class SpineTrainer(SegmentationTrainer):
    """Trains from a run folder that holds ``config.json`` and ``films.json``; each process reads them itself."""

    history: list[dict[str, Any]]
    model: Any
    ema: Any
    optimizer: Any
    scaler: Any
    stopper: Any
    tloss: Any
    loss: Any

    def __init__(self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: Any = None) -> None:
        threads = torch.get_num_threads()
        super().__init__(cfg, overrides, _callbacks)
        torch.set_num_threads(threads)  # on the CPU ultralytics leaves a core idle, which is half of two
        self.history = []
        self.began = time.monotonic()
        self.open_files, self.folder_open = ExitStack(), False

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.save_dir).parent

    @cached_property
    def config(self) -> Config:
        """The run's settings."""
        return load_config(Config, self.run / "config.json")

    @cached_property
    def films(self) -> dict[str, list[Film]]:
        """The run's films by part."""
        return load_films(self.run / "films.json")

    @cached_property
    def folder(self) -> RunFolder:
        """Where checkpoints and curves go, in the first process."""
        return RunFolder(self.run, METRIC, active=RANK in (-1, 0))

    def get_dataset(self) -> dict[str, Any]:
        """Return what ultralytics wants to know of a data set; its own check would fetch fonts."""
        return {
            "names": dict(enumerate(LEVELS)), "nc": len(LEVELS), "channels": CHANNELS,
            "train": "training", "val": "validation",
        }  # fmt: skip

    def setup_model(self) -> None:
        """Build the network; a run's first weights may come from a file."""
        self.model = build(self.config)
        if (self.run / "first.ckpt").exists():
            load_matching(self.model, read_weights(self.run / "first.ckpt"))
            if not settled(self.model) and not self.folder.last.exists():
                self.model.to(self.device)
                batches = self.get_dataloader("training", self.args.batch)
                settle(self.model, (self.preprocess_batch(b)["img"] for b in itertools.islice(batches, SETTLING)))
        if self.device.type == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)  # an eighth less time; ultralytics: CUDA only

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Return the batches to train on, or those to look at."""
        training, workers = mode == "train", self.args.workers
        films = Films(
            self.films[dataset_path], self.config, self.args, augment=training, batch=batch_size, keep=workers == 0
        )
        if training:
            return training_loader(films, self.config, batch_size, workers, max(rank, 0), max(self.world_size, 1))
        return build_dataloader(films, batch_size, 2 * workers, shuffle=False, rank=rank, device=self.device)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device as 0..1."""
        batch = super().preprocess_batch(batch)
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def resume_training(self, ckpt: Any) -> None:
        """Go on from the run's own checkpoint, if there is one."""
        if self.config.training.ema:
            self.ema.decay = partial(rising, self.config.training.ema)
        last = self.folder.last
        if not last.exists():
            return
        state = read_checkpoint(last)
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best_fitness = state["best_fitness"]
        self.stopper.__dict__.update(state["stopper"])
        self.history = state["history"]
        self.start_epoch = self.train_loader.sampler.epoch = len(self.history)

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Add an epoch to the history."""
        losses = {name: float(value) for name, value in self.tloss.items()}
        scores = {ours: float(metrics[theirs]) for ours, theirs in SCORES.items()}
        epoch = self.epoch + 1
        self.history.append({
            "epoch": epoch, "step": epoch * len(self.train_loader), "loss": math.fsum(losses.values()), **losses,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]), **scores,
            METRIC: (scores["box_map50_95"] + scores["mask_map50_95"]) / 2,
            "seconds": round(time.time() - self.epoch_time_start, 2),
        })  # fmt: skip

    def save_model(self) -> bool:
        """Write the run's files; the last checkpoint after the best, which it counts on."""
        if not self.folder_open:  # not before the loader's workers are forked, for it starts a thread
            self.open_files.enter_context(self.folder.open(self.history[-1]["step"] - 1))
            self.folder_open = True
        self.folder.save_best(self.ema.ema.state_dict(), self.history)
        stopper = {
            name: _plain(getattr(self.stopper, name)) for name in ("best_fitness", "best_epoch", "possible_stop")
        }
        self.folder.save_last({
            "model": unwrap_model(self.model).state_dict(), "ema": self.ema.ema.state_dict(),
            "updates": self.ema.updates, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "best_fitness": _plain(self.best_fitness), "stopper": stopper, "history": self.history,
            "stopped_early": bool(self.stop) and len(self.history) < self.epochs,
        })  # fmt: skip
        self.folder.write(self.history)
        limit = self.config.training.time_limit_minutes
        if limit is not None and time.monotonic() - self.began > 60 * limit:
            self.stop = True
        return True

    def final_eval(self) -> None:
        """Close files; scores of the best weights are the business of ``spine evaluate``."""
        self.open_files.close()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """End a run whose loss is no number: going on from the last checkpoint would only repeat it."""
        if self.loss is not None and not bool(self.loss.isfinite()):
            raise SetupError(
                f"{self.run}: the loss became {float(self.loss.detach())} in epoch {epoch + 1}; give a smaller "
                "--learning-rate or --precision 32-true, and a new --out"
            )
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's ``last.ckpt``.

    Raises:
        SetupError: it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SetupError(f"{path}: the checkpoint cannot be read ({type(error).__name__}); train anew") from error
    return state


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int) else float(value)
