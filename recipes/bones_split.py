"""The split of the recipes: the published validation part becomes the test part, and dev is cut from what is left.

    uv run python recipes/bones_split.py DATA --out runs/bones/split.json

Groups of one patient or of near-duplicates that cross the published split are whole in the test part. Choices such as
augmentation, length and thresholds are judged on dev (``validation`` in the file, a sixth of the training groups); the
test part is scored at the end, once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bones.cases import find_cases
from bones.splitting import has_fracture, split_cases
from shared.io.tables import write_json
from shared.splits import split_groups

DEV = 0.16


def main() -> None:
    """Split the data set and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    published = split_cases(find_cases(given.data, ("fracture",)))
    print(*published.notes, sep="\n")
    training = {case.name: published.groups[case.name] for case in published.training}
    with_box = {case.name for case in published.training if has_fracture(case)}
    parts = split_groups(training, {"training": 1 - DEV, "validation": DEV}, with_box=with_box, seed=0)
    parts["test"] = [case.name for case in published.validation]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json({part: sorted(names) for part, names in parts.items()}, given.out)
    print(given.out, {part: len(names) for part, names in parts.items()})


if __name__ == "__main__":
    main()
