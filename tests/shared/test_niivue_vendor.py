"""What is vendored is what its README says, and the page needs nothing from elsewhere."""

import hashlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "niivue"


def test_niivue_is_unmodified_and_has_its_licence():
    readme = (FOLDER / "vendor" / "README.md").read_text("utf-8")
    bundle = FOLDER / "vendor" / "niivue-0.69.0.umd.js"
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in readme
    assert "BSD 2-Clause License" in (FOLDER / "vendor" / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("name", ["slices.js", "view.js", "view.css"])
def test_our_code_loads_nothing_from_elsewhere(name):
    assert not re.search(r"https?://|url\(|@import", (FOLDER / name).read_text("utf-8"))
