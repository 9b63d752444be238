"""``.ci/run`` runs every check and hides no failure. A stand-in for uv records what it is asked and fails on demand."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "run"
STEPS = ["sync", "ruff check", "ruff format", "mypy", "lint-imports", "pytest"]
STAND_IN = """#!/bin/sh
[ "$1" = --version ] && exit 0
echo "$*" >> "$UV_LOG"
case "$*" in *"$UV_FAILS"*) exit 7 ;; esac
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a bash script")


def ci_run(tmp_path, fails):
    uv = tmp_path / "uv"
    uv.write_text(STAND_IN)
    uv.chmod(0o755)
    for program in ("chromium", "initdb"):  # or they would be installed
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    log = tmp_path / "log"
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "UV_LOG": str(log), "UV_FAILS": fails}
    done = subprocess.run([SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done, log.read_text().splitlines()


def test_every_check_runs_in_turn(tmp_path):
    done, asked = ci_run(tmp_path, "nothing fails")
    assert done.returncode == 0, done.stderr
    assert len(asked) == len(STEPS)
    assert all(step in line for step, line in zip(STEPS, asked, strict=True))


@pytest.mark.parametrize("step", STEPS)
def test_a_failing_check_ends_the_run_with_its_code(tmp_path, step):
    done, asked = ci_run(tmp_path, step)
    assert done.returncode == 7
    assert step in asked[-1]
    assert len(asked) == STEPS.index(step) + 1
