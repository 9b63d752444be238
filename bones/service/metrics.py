"""What Prometheus is told: requests, what became of pictures, and how the workers do. Nothing of any one picture."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pictures = Counter(
            "skiagram_pictures", "Pictures, by what was asked and what came of it", ("what", "outcome"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "skiagram_worker_seconds", "Time of a worker for a picture", ("what",), buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.restarts = Counter(
            "skiagram_worker_restarts", "Workers that were replaced, by reason", ("reason",), registry=self.registry
        )
        self.waiting = Gauge("skiagram_waiting", "Pictures that wait for their turn", registry=self.registry)
        self.workers = Gauge("skiagram_workers", "Workers that are there", registry=self.registry)
        self.jobs = Gauge("skiagram_jobs_queued", "Pictures of jobs that wait", registry=self.registry)
