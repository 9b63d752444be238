"""One scan after another: places in line, progress, cancelling, failures."""

import logging
import threading
import time

import pytest

from coronary.viewer.jobs import Cancelled, Job, Jobs
from shared.errors import InputError


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


class Gate:
    """Work that goes on step by step, as it is let."""

    def __init__(self):
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), []

    def __call__(self, job):
        self.begun.set()
        while not self.go.wait(0.005):
            job.advance(0.3, "network")
        self.ended.append(job.key)


def test_scans_wait_in_line_and_know_their_place():
    jobs, gate, order = Jobs(), Gate(), []
    first = jobs.submit("first", "a", gate)
    gate.begun.wait(10)
    second, third = (jobs.submit(key, "b", lambda job: order.append(job.key)) for key in ("second", "third"))
    assert (first.state, second.state) == ("running", "waiting")
    assert [jobs.ahead_of(job) for job in (first, second, third)] == [0, 1, 2]
    gate.go.set()
    wait_until(lambda: third.over)
    assert (gate.ended, order) == (["first"], ["second", "third"])
    assert {first.state, second.state, third.state} == {"done"}


def test_the_same_scan_is_not_done_twice_at_once():
    jobs, gate = Jobs(), Gate()
    first = jobs.submit("key", "a", gate)
    assert jobs.submit("key", "a", gate) is first
    gate.go.set()
    wait_until(lambda: first.over)
    assert jobs.submit("key", "a", lambda job: None) is not first


def test_cancelled_in_line_it_never_begins():
    jobs, gate, order = Jobs(), Gate(), []
    jobs.submit("first", "a", gate)
    gate.begun.wait(10)
    second, third = (jobs.submit(key, "b", lambda job: order.append(job.key)) for key in ("second", "third"))
    second.cancel()
    assert second.state == "cancelled"
    assert jobs.ahead_of(third) == 1
    gate.go.set()
    wait_until(lambda: third.over)
    assert order == ["third"]


def test_cancelled_while_it_runs_it_stops_at_its_next_step():
    jobs, gate = Jobs(), Gate()
    job = jobs.submit("key", "a", gate)
    gate.begun.wait(10)
    job.cancel()
    wait_until(lambda: job.over)
    assert (job.state, gate.ended) == ("cancelled", [])
    after = jobs.submit("key", "a", lambda own: own.advance(1.0))
    wait_until(lambda: after.over)
    assert after.state == "done"


def test_everything_of_a_visitor_who_left_is_cancelled():
    jobs, gate = Jobs(), Gate()
    mine = jobs.submit("mine", "me", gate)
    gate.begun.wait(10)
    waiting = jobs.submit("waiting", "me", lambda job: None)
    other = jobs.submit("other", "you", lambda job: None)
    jobs.cancel_of("me")
    wait_until(lambda: other.over)
    assert [job.state for job in (mine, waiting, other)] == ["cancelled", "cancelled", "done"]


def test_a_failure_says_why_and_the_line_goes_on(caplog):
    jobs = Jobs()

    def damaged(job):
        raise InputError("patient-name.nii.gz", "is truncated", "get it again")

    def unforeseen(job):
        raise RuntimeError("patient-name.nii.gz")

    with caplog.at_level(logging.DEBUG):
        found = [jobs.submit(str(n), "a", work) for n, work in enumerate([damaged, unforeseen, lambda job: None])]
        wait_until(lambda: found[-1].over)
    assert [job.state for job in found] == ["failed", "failed", "done"]
    assert found[0].error == "is truncated"
    assert "RuntimeError" in found[1].error
    assert "patient-name" not in caplog.text  # names stay out of logs


def test_time_left_follows_from_what_is_done():
    job = Job("key", "a", lambda own: None, state="running", share=0.25, started=100.0)
    assert job.seconds_left(110.0) == pytest.approx(30.0)
    assert job.seconds_left(100.5) is None  # too early to tell
    job.state = "waiting"
    assert job.seconds_left(110.0) is None


def test_progress_never_goes_back():
    job = Job("key", "a", lambda own: None)
    job.advance(0.5, "network")
    job.advance(0.4)
    assert (job.share, job.doing) == (0.5, "network")
    job.cancel()
    with pytest.raises(Cancelled):
        job.advance(0.6)
