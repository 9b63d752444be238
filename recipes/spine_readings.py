"""What the readings of AASCE's films say: films by what they move, and how far readings agree.

    uv run python recipes/spine_readings.py

`spine_aasce_readings.csv` has two readings of both ends of each film: by how many levels the name of its topmost (T1)
and lowest (L5) label ought to move, and how sure the reader was, 1 to 3. Names move by what has `CLEAR` of the weight.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

TABLE = Path(__file__).with_name("spine_aasce_readings.csv")
ENDS, TIMES = ("top", "bottom"), (1, 2)
WEIGHTS = {"1": 0.5, "2": 1.0, "3": 1.5}
CLEAR = 0.65


def main() -> None:
    """Print it, and stop where the table does not follow from its readings."""
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        clear = moved_by(row)
        assert (row["by"] == "readings") == (clear is not None), row
        assert clear is None or row["levels"] == clear, row
    for part in dict.fromkeys(row["part"] for row in rows):
        print(part, dict(Counter(row["levels"] or "nobody can tell" for row in rows if row["part"] == part)))
    for end in ENDS:
        tell(f"two readings of the {end}", [[row[f"{end}_{time}"] for time in TIMES] for row in rows])
    tell("both ends, in the first reading", [[row[f"{end}_1"] for end in ENDS] for row in rows])
    moving = [row for row in rows if row["levels"] not in ("", "0")]
    alone = sum(set(readings(row)) == {row["levels"]} for row in moving)
    print(f"{len(moving)} films move; of {alone} all readings agree")


def readings(row: dict[str, str]) -> list[str]:
    """Return what the readings of a film say."""
    return [row[f"{end}_{time}"] for end in ENDS for time in TIMES if row[f"{end}_{time}"]]


def moved_by(row: dict[str, str]) -> str | None:
    """Return by how many levels most of the readings' weight moves a film; None where that is not clear."""
    weights = dict.fromkeys(readings(row), 0.0)
    for end in ENDS:
        for time in TIMES:
            if said := row[f"{end}_{time}"]:
                weights[said] += WEIGHTS[row[f"{end}_{time}_sure"]]
    if not weights:
        return None
    most = max(weights, key=weights.__getitem__)
    return most if weights[most] >= CLEAR * sum(weights.values()) else None


def tell(what: str, pairs: list[list[str]]) -> None:
    """Print how many of those that were read twice agree."""
    both = [pair for pair in pairs if all(pair)]
    same = sum(a == b for a, b in both)
    print(f"{what}: {same} of {len(both)} agree ({same / len(both):.2f})")


if __name__ == "__main__":
    main()
