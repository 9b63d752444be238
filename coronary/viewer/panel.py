"""The side panel as a Streamlit component: arteries, branches, diameter and straightened view of the chosen one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from coronary.viewer.results import ARTERIES
from shared.niivue.component import packed

HERE = Path(__file__).parent
SIDES = {1: "LCA", 2: "RCA", 3: "unknown"}
WIDTH_MM = 16.0  # that a straightened view shows across, twice straighten's half width


def branch_panel(case_url: str, result: str, present: tuple[int, ...], *, less_px: int, key: str) -> None:
    """Show the tree of a result.

    ``present`` are the labels of the arteries that are there; ``less_px`` is kept free of the page's height.
    """
    arteries = [
        {"side": SIDES[artery.value], "name": artery.name, "colour": artery.colour}
        for artery in ARTERIES
        if artery.value in present
    ]
    data = {"url": case_url, "result": result, "arteries": arteries, "width_mm": WIDTH_MM, "less_px": less_px}
    _component()(key=key, data=packed(data))


@cache
def _component() -> Any:
    return st.components.v2.component(
        "skiagram_branches",
        html='<div class="panel"></div>',
        css=(HERE / "panel.css").read_text("utf-8"),
        js=(HERE / "panel.js").read_text("utf-8"),
    )
