"""The gate's thresholds into its model file, and how it does: on radiographs that it never saw, and on other pictures.

    python recipes/bones_gate_thresholds.py --model gate.onnx --data FOLDER --parts parts.json --others FOLDER

Thresholds are chosen on the ``tuning`` part and the other pictures; sensitivity is measured on the ``validation`` part,
specificity on each other picture with thresholds chosen without its fold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bones.gate import Features, GateSettings, refusal
from bones.gate_tuning import Rates, choose, cross_validated, features_of, rates
from bones.predict import Gate
from shared.export import update_metadata
from shared.io.radiograph import is_radiograph


def main() -> None:
    """Choose, write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="leave the model file as it is")
    given = parser.parse_args()
    gate = Gate(given.model, "cpu")

    def network(picture: np.ndarray) -> np.ndarray:
        return gate.session(picture[None, None])[0, 0]

    def features(paths: Sequence[Path]) -> list[Features]:
        return features_of(paths, network, gate.file.size_px)

    parts = json.loads(given.parts.read_text())
    tuning = features([given.data / name for name in parts["tuning"]])
    validation = features([given.data / name for name in parts["validation"]])
    files = sorted(path for path in given.others.rglob("*") if is_radiograph(path))
    others = features(files)
    settings = choose(tuning, others)
    turned_away = cross_validated(tuning, others)
    found = rates([refusal(one, settings) is None for one in validation], turned_away)
    print(settings.model_dump_json(indent=2))
    tell("tuning", [given.data / name for name in parts["tuning"]], tuning, settings, bone=True)
    tell("validation", [given.data / name for name in parts["validation"]], validation, settings, bone=True)
    tell("others", files, others, settings, bone=False)
    print("passed in cross-validation:", [path.name for path, away in zip(files, turned_away, strict=True) if not away])
    # The same pictures without their colours, for the network alone is to find them out too.
    grey = [Features(one.area_fraction, one.confidence, 0.0, one.roughness, one.contrast)
            for one in others]  # fmt: skip
    print("others in grey:", rates([], [refusal(one, settings) is not None for one in grey]).specificity)
    print(found)
    if not given.dry_run:
        update_metadata(given.model, {"gate": settings.model_dump(mode="json"), "scores": scores(found, parts, others)})


def scores(found: Rates, parts: dict[str, list[str]], others: Sequence[Features]) -> dict[str, object]:
    """Return what the model file says of how well it does."""
    return {
        "sensitivity": {"mean": found.sensitivity[0], "low": found.sensitivity[1], "high": found.sensitivity[2],
                        "radiographs": len(parts["validation"])},
        "specificity": {"mean": found.specificity[0], "low": found.specificity[1], "high": found.specificity[2],
                        "other_pictures": len(others), "folds": 5},
    }  # fmt: skip


def tell(part: str, files: Sequence[Path], features: Sequence[Features], settings: GateSettings, *, bone: bool) -> None:
    """Print how many are decided rightly, and each that is not."""
    wrong = [(path, one, refusal(one, settings)) for path, one in zip(files, features, strict=True)
             if (refusal(one, settings) is None) != bone]  # fmt: skip
    print(f"{part}: {len(files) - len(wrong)} of {len(files)} right")
    for path, one, reason in wrong:
        print(f"  {path.name}: {reason or 'passes'}; {one}")


if __name__ == "__main__":
    main()
