"""One table of several evaluations: mean and spread over seeds of one recipe, and what another one gains over it.

uv run python recipes/compare_scores.py RUN-1 RUN-2 RUN-3 --against OTHER-1 OTHER-2 OTHER-3
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional, arg

from coronary.evaluate import METRICS
from shared.errors import SetupError
from shared.io.writers import write_json


def main(
    runs: Positional[tuple[Path, ...]],
    /,
    against: Annotated[tuple[Path, ...], arg(help="folders of the other recipe's runs")] = (),
    out: Path | None = None,
) -> None:
    """Print the table, and write it as JSON where ``--out`` says so; a run is scored in RUN/scores/scores.json."""
    table = compare(runs, against)
    print(f"mean over cases, mean ± sd over {len(runs)} and {len(against)} seeds\n")
    print("| metric | baseline | other | difference |\n|---|---|---|---|")
    for metric, row in table.items():
        print(f"| {metric} | {_cell(row['baseline'])} | {_cell(row['other'])} | {_number(row['difference'], '+')} |")
    if out is not None:
        write_json({"runs": [str(run) for run in runs], "against": [str(run) for run in against], "table": table}, out)


def compare(runs: tuple[Path, ...], against: tuple[Path, ...]) -> dict[str, dict[str, object]]:
    """Each metric's mean and standard deviation over the runs of either recipe, and the difference of the means."""
    both = [[_means(run) for run in group] for group in (runs, against)]
    table: dict[str, dict[str, object]] = {}
    for metric in METRICS:
        spread = [_spread([means[metric] for means in group]) for group in both]
        means = [part["mean"] for part in spread]
        table[metric] = {
            "baseline": spread[0],
            "other": spread[1],
            "difference": None if None in means else means[1] - means[0],  # type: ignore[operator]
        }
    return table


def _means(run: Path) -> dict[str, float | None]:
    path = run / "scores" / "scores.json"
    try:
        scores = json.loads(path.read_text())["scores"]
        return {metric: scores[metric]["mean"] for metric in METRICS}
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{path}: no scores there ({error}); evaluate the run first") from error


def _spread(values: list[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _number(value: object, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if isinstance(value, float) else "-"


def _cell(part: object) -> str:
    assert isinstance(part, dict)
    return f"{_number(part['mean'])} ± {_number(part['sd'])}"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SetupError as error:
        sys.exit(f"error: {error}")
