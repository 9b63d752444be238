import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from shared.errors import SetupError
from shared.parallel import serve_parent, spread


def process_of(item):
    return item, os.getpid()


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(item):
    raise ValueError(f"item {item}")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_the_items(workers):
    heard = []
    results = spread(process_of, [3, 1, 2], workers, heard.append)
    assert [item for item, _ in results] == [3, 1, 2]
    assert heard == [1, 2, 3]
    assert (os.getpid() in {process for _, process in results}) == (workers == 1)


def test_a_worker_that_the_system_ends_is_told():
    with pytest.raises(SetupError, match="the system ended one of 2 workers, most often for want of memory"):
        spread(die, [1, 2], 2)


def test_what_a_worker_raises_is_raised():
    with pytest.raises(ValueError, match="item"):
        spread(fail, [1, 2], 2)


ORPHANS = """
import sys, time
from shared.parallel import serve_parent, spread
sys.path.insert(0, sys.argv[1])
from test_parallel import tell_and_wait
if __name__ == "__main__":
    spread(tell_and_wait, [sys.argv[2]] * 2, 2)
"""


def tell_and_wait(folder):
    with open(os.path.join(folder, str(os.getpid())), "w"):  # noqa: PTH118, PTH123
        pass
    time.sleep(60)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    told = tmp_path / "workers"
    told.mkdir()
    here = os.path.dirname(__file__)  # noqa: PTH120
    parent = subprocess.Popen([sys.executable, str(script), here, str(told)])
    deadline = time.monotonic() + 60
    while len(list(told.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name) for path in told.iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def echo(pipe):
    serve_parent()
    pipe.send(os.getpid())
    while True:
        pipe.send(pipe.recv())


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_worker_leaves_it_to_its_parent_to_stop(start):
    """A terminal and Slurm tell every process of a run, whose last step still needs its workers."""
    context = multiprocessing.get_context(start)
    here, there = context.Pipe()
    worker = context.Process(target=echo, args=(there,), daemon=True)
    worker.start()
    pid = str(here.recv())
    for name in ("-INT", "-TERM", "-TERM"):
        subprocess.run(["/bin/kill", name, pid], check=True)
        deadline = time.monotonic() + 30
        while pending(pid) and time.monotonic() < deadline:  # one more of its kind would be dropped
            time.sleep(0.01)
    here.send("still there?")
    assert here.poll(30)
    assert here.recv() == "still there?"
    worker.terminate()  # by its parent, as multiprocessing does when that ends
    worker.join(30)
    assert worker.exitcode == 0


def pending(process):
    """Whether signals wait for a process; where the system does not tell, a moment is given."""
    try:
        with open(f"/proc/{process}/status") as file:  # noqa: PTH123
            return any(int(line.split()[1], 16) for line in file if line.startswith("ShdPnd"))
    except FileNotFoundError:
        time.sleep(0.5)
        return False


def alive(process):
    """Whether a process still runs; one that ended and was not waited for does not."""
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
