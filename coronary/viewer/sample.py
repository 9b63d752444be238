"""The sample scan: a phantom, made once and kept while the server runs, so that every visitor has one a click away."""

from __future__ import annotations

import threading
from pathlib import Path

from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from coronary.viewer.store import Case, store

SCAN = PhantomConfig(shape=(272, 272, 208), spacing_mm=(0.45, 0.45, 0.5), stenoses=5)
SEED = 7_000_002  # training never saw it
_making = threading.Lock()


def sample_scan() -> Path:
    """The sample; made at the first call, which takes a few seconds."""
    scan, _ = _files()
    with _making:
        if not scan.is_file():
            write_phantom(make_phantom(SCAN, SEED), scan.parent, 1)
    return scan


def sample_of(case: Case) -> Path | None:
    """The truth, if this case is the sample."""
    scan, label = _files()
    return label if case.scan == scan.resolve() and label.is_file() else None


def _files() -> tuple[Path, Path]:
    folder = store().root / "sample"
    return folder / "1.img.nii.gz", folder / "1.label.nii.gz"
