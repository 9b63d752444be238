"""Batches: the same whatever number of processes shares them, and from whatever step on."""

import itertools
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from shared.training_data import batches, order_of_pass
from shared.training_settings import TrainingSettings


class Numbers(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return index


def taken(count, workers=0, batch=3, **where):
    settings = TrainingSettings(batch=batch, workers=workers, device="cpu")
    return [one.tolist() for one in itertools.islice(batches(Numbers(), settings, **where), count)]


def test_batches_are_consecutive_from_any_step_on():
    assert taken(3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert taken(2, step=1) == taken(3)[1:]


@pytest.mark.parametrize("workers", [0, 1])
def test_several_ranks_see_what_one_with_the_larger_batch_sees(workers):
    shares = [taken(4, workers, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == taken(4, batch=6)


def test_drawing_batches_takes_none_of_the_networks_random_numbers():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    taken(2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_samples_are_collated_as_asked():
    settings = TrainingSettings(batch=2, workers=0, device="cpu")
    assert next(iter(batches(Numbers(), settings, collate=lambda samples: {"n": samples}))) == {"n": [0, 1]}


def test_each_pass_has_an_order_of_its_own():
    orders = [order_of_pass(seed, number, 20).tolist() for seed in range(2) for number in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert order_of_pass(0, 1, 20).tolist() == orders[1]


class Pids(Dataset[int]):
    """Each sample is the process that made it."""

    def __len__(self) -> int:
        return 2**20

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def _train_until_killed(pipe: Connection) -> None:
    stream = batches(Pids(), TrainingSettings(batch=1, workers=2))
    pipe.send({int(next(stream)) for _ in range(4)})
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])  # what starts a run starts its workers as well
def test_workers_of_a_killed_run_end_with_it(start: str) -> None:
    context = multiprocessing.get_context(start)
    here, there = context.Pipe()
    process = context.Process(target=_train_until_killed, args=(there,))
    process.start()
    workers = here.recv()
    process.join(60)
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while alive := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, f"{alive} outlive their run"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
