"""Jobs: every accepted file ends in exactly one result, whatever is killed; on SQLite and on Postgres."""

import logging
import os
import random
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from job_server import OWNER, read_lines, servers
from postgres import out_of_reach, postgres

from bones.service import job_store, jobs
from bones.service.job_store import FILES, JOBS, PICTURES, Store
from bones.service.jobs import Jobs
from bones.service.problems import Problem, ReaderDied
from shared.errors import SetupError

WAIT_S = 60.0
PICTURE = b"a picture's bytes " * 1000


@pytest.fixture(scope="module")
def new_database():
    with postgres() as new:
        yield new


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    return request.getfixturevalue("new_database")()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.02)
    monkeypatch.setattr(jobs, "RETRY_S", 0.02)


def wait_until(happened, seconds=WAIT_S):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def count(url, table):
    engine, _ = job_store._open(sa.make_url(url))
    with engine.begin() as db:
        number = db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    engine.dispose()
    return number


def length(picture):
    return {"bytes": len(picture)}


def interrupted(folder):
    """How often a picture was begun again."""
    begun = [line.split()[1] for line in read_lines(folder / "begun")]
    return len(begun) - len(set(begun))


def check_results(url, *folders):
    """Each accepted file has the one result of its own bytes, and no picture is left."""
    line = Jobs(url)
    wait_until(lambda: line.queued() == 0)
    accepted = [entry.split() for folder in folders for entry in read_lines(folder / "accepted")]
    for job_id, sha256 in accepted:
        status = line.status(job_id, OWNER)
        assert status.state == "done"
        assert [(file.state, file.result) for file in status.files] == [("done", {"sha256": sha256})]
    line.stop()
    assert count(url, PICTURES) == 0
    # One more at most for each server that was killed between accepting a file and saying so.
    assert 10 < len(accepted) <= count(url, FILES) <= len(accepted) + 10


def end_accepting(folder):
    wait_until(lambda: len(read_lines(folder / "accepted")) > 10)
    (folder / "enough").touch()
    wait_until((folder / "ended").exists)


# What is killed


def test_20_kills_of_server_or_worker_lose_and_double_nothing(url, tmp_path):
    """SIGKILL at random moments, of a server in the midst of accepting and working, or of a picture's worker."""
    rng = random.Random(20)
    begun = tmp_path / "begun"
    with servers() as start:
        server = start.start(url, tmp_path, lease_s=1.0)
        for number in range(20):
            before = len(read_lines(begun))
            wait_until(lambda before=before: len(read_lines(begun)) > before + 1)
            time.sleep(rng.uniform(0.0, 0.06))
            if number % 2:
                start.kill(server)
                server = start.start(url, tmp_path, lease_s=1.0)
            else:
                kill_worker(begun)
        end_accepting(tmp_path)
        check_results(url, tmp_path)
    assert interrupted(tmp_path) >= 10  # the kills did strike


def kill_worker(begun):
    """Kill the process that looks at a picture just now."""

    def killed():
        pid = int(read_lines(begun)[-1].split()[0])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    wait_until(killed)


def test_two_servers_and_one_is_killed_for_good(new_database, tmp_path):
    """On Postgres: the other one finishes what the dead one had in hand, with nobody's help."""
    url, lasting, dying = new_database(), tmp_path / "lasting", tmp_path / "dying"
    with servers() as start:
        for folder in (lasting, dying):
            folder.mkdir()
        start.start(url, lasting, lease_s=1.0)
        pid = start.start(url, dying, lease_s=1.0)
        wait_until(lambda: len(read_lines(dying / "begun")) >= 6)
        start.kill(pid)
        end_accepting(lasting)
        check_results(url, lasting, dying)
    begun = [{line.split()[1] for line in read_lines(folder / "begun")} for folder in (lasting, dying)]
    assert begun[0] & begun[1]  # it had something in hand


def test_who_lost_a_file_cannot_write_its_result(url):
    store = Store(url, lease_s=0.2)
    job_id = store.add("me", [("a.png", PICTURE)], 3600)
    slow = store.take()
    assert store.take() is None
    time.sleep(0.3)
    second = store.take()
    assert (second.job_id, second.picture, second.tries) == (job_id, PICTURE, 2)
    assert not store.finish(slow, result={"of": "slow"})
    store.release(slow)  # neither put back
    assert store.take() is None
    assert store.finish(second, result={"of": "second"})
    assert not store.finish(second, result={"of": "again"})
    assert store.read(job_id, "me")[1][0].result == {"of": "second"}
    store.close()


def test_a_lease_is_renewed_for_as_long_as_the_work_lasts(url):
    looks = []

    def slow(picture):
        looks.append(1)
        time.sleep(1.2)
        return {}

    first, second = Jobs(url, lease_s=0.4), Jobs(url, lease_s=0.4)
    job_id = first.submit("me", [("a.png", PICTURE)])
    for line in (first, second):
        line.start(slow)
    wait_until(lambda: first.status(job_id, "me").state == "done")
    first.stop()
    second.stop()
    assert len(looks) == 1


def test_a_picture_that_kills_whoever_holds_it_is_given_up(url):
    store = Store(url, lease_s=0.05)
    job_id = store.add("me", [("bomb.dcm", PICTURE), ("film.png", PICTURE)], 3600)
    for _ in range(2):
        taken = [store.take(), store.take()]
        assert [held.position for held in taken] == [0, 1]
        time.sleep(0.1)
    store.close()
    line = Jobs(url, tries=2)
    line.start(length)
    wait_until(lambda: line.status(job_id, "me").state == "done")
    assert {file.error["status"] for file in line.status(job_id, "me").files} == {422}
    line.stop()
    assert count(url, PICTURES) == 0


def test_a_picture_whose_reader_dies_is_taken_up_again_but_not_for_ever(url):
    """It may be the machine (out of memory, a stop), so others come first, and then it is tried once more."""
    looks = []

    def work(picture):
        looks.append(picture)
        if picture == b"poison" or (picture == b"unlucky" and looks.count(picture) < 3):
            raise ReaderDied
        return length(picture)

    line = Jobs(url, tries=3, lease_s=0.1)
    job_id = line.submit("me", [("a.png", b"poison"), ("b.png", b"unlucky"), ("c.png", PICTURE)])
    line.start(work)
    wait_until(lambda: line.status(job_id, "me").state == "done")
    assert looks == [b"poison", b"unlucky", PICTURE, *[b"poison", b"unlucky"] * 2]
    poison, unlucky, whole = line.status(job_id, "me").files
    assert poison.error["status"] == 422
    assert (unlucky.result, whole.result) == (length(b"unlucky"), length(PICTURE))
    line.stop()
    assert count(url, PICTURES) == 0


def test_what_brought_a_holder_down_keeps_nobody_waiting(url):
    store = Store(url, lease_s=0.05)
    store.add("me", [("bomb.dcm", b"bomb")], 3600)
    store.add("me", [("film.png", b"film")], 3600)
    assert store.take().picture == b"bomb"
    time.sleep(0.1)
    assert [store.take().picture, store.take().picture] == [b"film", b"bomb"]
    store.close()


def test_a_small_job_need_not_wait_for_a_large_one(url):
    store = Store(url, lease_s=60)
    store.add("research", [("a.png", b"large %d" % number) for number in range(4)], 3600)
    store.add("ward", [("a.png", b"small %d" % number) for number in range(2)], 3600)
    order = [store.take().picture for _ in range(6)]
    assert order == [b"large 0", b"small 0", b"large 1", b"small 1", b"large 2", b"large 3"]
    store.close()


def test_a_database_that_is_away_for_a_while(new_database, caplog):
    """Postgres ends every connection, and lets nobody in for a while: who asks is told so, and the work goes on."""
    url = new_database()
    begun, go_on = threading.Event(), threading.Event()

    def work(picture):
        begun.set()
        go_on.wait(WAIT_S)
        return length(picture)

    line = Jobs(url, lease_s=1.0)
    job_id = line.submit("me", [("a.png", PICTURE)] * 3)
    line.start(work)
    assert begun.wait(WAIT_S)
    with out_of_reach(url):
        go_on.set()
        for ask in (line.queued, lambda: line.status(job_id, "me"), lambda: line.submit("me", [("b.png", PICTURE)])):
            with pytest.raises(Problem, match="does not answer") as away:
                ask()
            assert away.value.status_code == 503
        wait_until(lambda: "cannot go on" in caplog.text)
    wait_until(lambda: line.status(job_id, "me").state == "done")
    assert [file.result for file in line.status(job_id, "me").files] == [length(PICTURE)] * 3
    line.stop()
    assert "postgresql" not in caplog.text


# What is asked


def test_progress_results_and_errors(url, caplog):
    go_on, private = threading.Event(), "a patient"

    def work(picture):
        go_on.wait(WAIT_S)
        if picture == b"broken":
            raise Problem("unusable-picture", "the picture: is broken; export it again")
        if picture == b"fault":
            raise ValueError(private)
        return length(picture)

    line = Jobs(url)
    assert line.queued() == 0
    job_id = line.submit("me", [("a.png", PICTURE), ("b.png", b"broken"), ("b.png", b"fault"), ("c.png", b"")])
    status = line.status(job_id, "me")
    assert (status.state, status.finished, line.queued()) == ("queued", 0, 4)
    assert status.expires_s - status.created_s == pytest.approx(24 * 3600)
    assert status.created_s == pytest.approx(time.time(), abs=60)
    line.start(work)
    wait_until(lambda: line.status(job_id, "me").files[0].state == "running")
    assert line.status(job_id, "me").state == "running"
    with caplog.at_level(logging.ERROR):
        go_on.set()
        wait_until(lambda: line.status(job_id, "me").state == "done")
    files = line.status(job_id, "me").files
    assert [(file.name, file.state) for file in files] == [
        ("a.png", "done"),
        ("b.png", "failed"),
        ("b.png", "failed"),
        ("c.png", "done"),
    ]
    assert [file.result for file in files] == [{"bytes": len(PICTURE)}, None, None, {"bytes": 0}]
    assert files[1].error["detail"] == "the picture: is broken; export it again"
    assert files[2].error["status"] == 500
    line.stop()
    assert "ValueError" in caplog.text
    for text in (private, "a.png", "b.png"):
        assert text not in caplog.text


def test_a_job_is_its_owners(url):
    line = Jobs(url)
    job_id = line.submit("me", [("a.png", PICTURE)])
    for other in ("", "\x00", "\ud800", "x" * 1000, job_id + "'"):
        assert line.status(other, "me") is None
        assert not line.delete(other, "me")
    assert line.status(job_id, "you") is None
    assert not line.delete(job_id, "you")
    assert line.status(job_id, "me").id == job_id
    assert line.delete(job_id, "me")
    assert not line.delete(job_id, "me")
    assert line.status(job_id, "me") is None
    line.stop()
    assert [count(url, table) for table in (JOBS, FILES, PICTURES)] == [0, 0, 0]


def test_asking_does_not_wait_for_those_who_write(url):
    line = Jobs(url)
    job_id = line.submit("me", [("a.png", PICTURE)])
    with line.store._engine.begin() as writing:
        writing.execute(FILES.update().values(tries=3))
        started = time.monotonic()
        assert line.status(job_id, "me").state == "queued"
        assert line.queued() == 1
        assert time.monotonic() - started < job_store.BUSY_MS / 2000
    line.stop()


def test_a_job_deleted_while_it_runs_leaves_nothing(url):
    begun, go_on = threading.Event(), threading.Event()

    def work(picture):
        begun.set()
        go_on.wait(WAIT_S)
        return {}

    line = Jobs(url)
    job_id = line.submit("me", [("a.png", PICTURE)] * 3)
    line.start(work)
    assert begun.wait(WAIT_S)
    assert line.delete(job_id, "me")
    go_on.set()
    line.stop()
    assert [count(url, table) for table in (JOBS, FILES, PICTURES)] == [0, 0, 0]


def test_stopping_finishes_what_runs_and_leaves_the_rest_queued(url):
    begun, go_on = threading.Event(), threading.Event()

    def work(picture):
        begun.set()
        go_on.wait(WAIT_S)
        return {}

    line = Jobs(url)
    job_id = line.submit("me", [("a.png", PICTURE)] * 3)
    line.start(work)
    assert begun.wait(WAIT_S)
    stopping = threading.Thread(target=line.stop)
    stopping.start()
    time.sleep(0.1)
    go_on.set()
    stopping.join(WAIT_S)
    again = Jobs(url)
    assert [file.state for file in again.status(job_id, "me").files] == ["done", "queued", "queued"]
    assert count(url, PICTURES) == 2
    again.start(length)
    wait_until(lambda: again.status(job_id, "me").state == "done")
    again.stop()


def test_a_busy_pool_puts_the_file_back(url):
    answers = iter([Problem("busy", "later"), Problem("stopping", "later")])

    def work(picture):
        if problem := next(answers, None):
            raise problem
        return length(picture)

    line = Jobs(url)
    job_id = line.submit("me", [("a.png", PICTURE)])
    line.start(work)
    wait_until(lambda: line.status(job_id, "me").state == "done")
    assert line.status(job_id, "me").files[0].result == length(PICTURE)
    line.stop()


def test_the_line_has_an_end(url):
    line = Jobs(url, max_queued=3)
    line.submit("me", [("a.png", PICTURE)] * 2)
    with pytest.raises(Problem) as full:
        line.submit("you", [("a.png", PICTURE)] * 2)
    assert (full.value.status_code, line.queued()) == (503, 2)
    with pytest.raises(Problem, match="make several jobs") as never:
        line.submit("me", [("a.png", PICTURE)] * 4)
    assert never.value.status_code == 413
    line.submit("you", [("a.png", PICTURE)])
    line.stop()


def test_the_line_has_room_for_so_many_bytes(url):
    line = Jobs(url, max_queued_bytes=2 * len(PICTURE))
    first = line.submit("me", [("a.png", PICTURE)])
    with pytest.raises(Problem) as full:
        line.submit("me", [("a.png", PICTURE + b"+")])
    assert full.value.status_code == 503
    with pytest.raises(Problem) as never:
        line.submit("me", [("a.png", PICTURE)] * 2 + [("b.png", b"+")])
    assert never.value.status_code == 413
    assert line.delete(first, "me")
    line.submit("me", [("a.png", PICTURE)] * 2)
    line.stop()


def test_jobs_expire(url):
    early, late = Jobs(url, keep_hours=0.0), Jobs(url)
    gone, kept = early.submit("me", [("a.png", PICTURE)]), late.submit("me", [("a.png", PICTURE)])
    assert late.status(gone, "me") is None  # whenever it is cleared up
    assert count(url, PICTURES) == 2
    late.threads = 0
    late.start(length)  # clears up at once
    wait_until(lambda: count(url, PICTURES) == 1)
    assert late.status(kept, "me").state == "queued"
    late.stop()
    early.stop()


# Where it lies


def test_the_file_is_private_and_forgets_pictures(tmp_path):
    folder = tmp_path / "made" / "here"
    line = Jobs(f"sqlite:///{folder / 'jobs.sqlite'}")
    job_id = line.submit("me", [("a.png", PICTURE * 50), ("b.png", PICTURE)])
    assert any(PICTURE[:100] in path.read_bytes() for path in folder.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    line.start(length)
    wait_until(lambda: line.status(job_id, "me").state == "done")
    line.stop()
    assert not any(PICTURE[:100] in path.read_bytes() for path in folder.iterdir())
    assert sum(path.stat().st_size for path in folder.iterdir()) < len(PICTURE * 50)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@host/jobs",
        "sqlite://",
        "sqlite:////proc/nowhere/jobs.sqlite",
        "postgresql://user:secret@127.0.0.1:1/jobs",
        "no address; secret",
    ],
)
def test_a_database_that_cannot_be_opened(url):
    with pytest.raises(SetupError, match="SKIAGRAM_JOBS_URL") as error:
        Jobs(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_default_is_a_file_of_this_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Jobs().stop()
    assert [path.name for path in Path(tmp_path, "skiagram").iterdir()] == ["jobs.sqlite"]
