"""Write the pages of docs/reference that the code itself can say: ``python docs/generate.py``.

``command-line.md`` is what ``--help`` prints, ``service-settings.md`` the fields of the fracture service's settings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from shared.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "command-line.md"
SETTINGS_PAGE = ROOT / "docs" / "reference" / "service-settings.md"
HEAD = """\
# Command line

Written by `docs/generate.py` from `--help`; do not edit.

Every verb takes `--quiet`, `--json` and `--debug`. [Exit codes](exit-codes.md) are the same for all verbs.
"""

SETTINGS_HEAD = """\
# Settings of the fracture service

Written by `docs/generate.py` from `bones/service/settings.py`; do not edit.

Each is an environment variable of [`bones serve`](../how-to/bones-service.md).

| variable | default | |
|---|---|---|
"""


@cache
def help_of(task: str, verb: str | None = None) -> str:
    """Return the ``--help`` of a task or of one of its verbs, 100 columns wide and without colour."""
    words = [word for word in (verb, "--help") if word]
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    # A test run may force colour on everything it starts.
    env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")} | plain
    done = subprocess.run(
        [sys.executable, "-m", task, *words], cwd=ROOT, env=env, capture_output=True, encoding="utf-8", check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for task, entry in TASKS.items():
        parts.append(f"## {task}\n\n```text\n{help_of(task)}\n```\n")
        parts += [f"### {task} {verb}\n\n```text\n{help_of(task, verb)}\n```\n" for verb in entry.verbs]
    return "\n".join(parts)


def settings_page() -> str:
    """Return the page of the service's settings."""
    from bones.service.settings import PREFIX, Settings

    rows = []
    for name, field in Settings.model_fields.items():
        text = " ".join((field.description or "").replace("``", "`").split())
        default = field.get_default()
        default = str(default).lower() if isinstance(default, bool) else default
        shown = "" if default in (None, ()) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {text.replace('|', '&#124;')} |\n")
    return SETTINGS_HEAD + "".join(rows)


if __name__ == "__main__":
    for path, text in ((PAGE, page()), (SETTINGS_PAGE, settings_page())):
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
