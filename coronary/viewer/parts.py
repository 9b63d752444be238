"""The main part of the page when a scan is open: the volume view, and the branch panel beside it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import streamlit as st

from coronary.viewer.panel import branch_panel
from coronary.viewer.results import AGREEMENT, ARTERIES, encoded_labels
from coronary.viewer.scans import encoded_of
from coronary.viewer.store import Case
from coronary.viewer.visit import Visit
from shared.niivue.component import scene, volume_view

SCORES_PX = 114  # height of the scores above the panel
NO_PANEL = '.st-key-room [data-testid="stColumn"]:last-child { display: none; }'


def show_scan(visit: Visit) -> None:
    """Draw the open scan, its arteries if they were found, and the branches."""
    assert visit.case is not None
    result, folder = visit.result, visit.result_folder
    with st.container(key="room"):  # the same with a result and without, or the browser would load the scan anew
        wide, narrow = st.columns([3, 1], gap="small")
    told = result
    with narrow:
        labels = encoded_labels(result) if result else None
        agreement = _latest_comparison(folder) if result and folder else None
        if labels is None:
            st.html(f"<style>{NO_PANEL}</style>")
        elif folder is not None:
            if agreement is not None and _scores(agreement) == "Agreement":
                told = agreement
            less_px = 0 if agreement is None else SCORES_PX
            branch_panel(visit.case_url, folder.name, labels.present, less_px=less_px, key="branches")
    with wide:
        _view(visit, visit.case, folder, result, told)


def _view(
    visit: Visit, case: Case, folder: Path | None, result: dict[str, Any] | None, told: dict[str, Any] | None
) -> None:
    """Show the scan, and over it what ``told`` tells of: the result itself, or how it agrees with a label."""
    encoded = encoded_of(case)
    note = ""
    if encoded.fine != encoded.dims:
        note = f"shown with {' x '.join(str(n) for n in encoded.fine)} voxels, measured in full"
    shown: dict[str, Any] = {}
    if folder is not None and result is not None and told is not None:
        part = folder.name if "folder" not in told else f"{folder.name}/{told['folder']}"
        legend = AGREEMENT if "scores" in told else ARTERIES
        shown = {
            "labels": encoded_labels(told),
            "labels_url": f"{visit.case_url}/{part}/labels.u8",
            "legend": legend,
            "surfaces": [
                (artery, f"{visit.case_url}/{folder.name}/surface-{artery.value}.mz3")
                for artery in ARTERIES
                if artery.value in result["surfaces"]
            ],
            "surfaces_follow": told is result,
        }
    volume_view(scene(encoded, visit.case_url, note=note, **shown), key="view")


def _latest_comparison(folder: Path) -> dict[str, Any] | None:
    found = sorted(folder.glob("compare-*/compare.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    return {**json.loads(found[-1].read_text("utf-8")), "folder": found[-1].parent.name}


def _scores(agreement: dict[str, Any]) -> str | None:
    """Draw the scores, and the choice of what lies over the scan; gives that."""
    scores = agreement["scores"]
    cells = [("Dice", f"{scores['dice']:.3f}"), ("clDice", f"{scores['cl_dice']:.3f}")]
    if scores.get("hd95_mm") is not None:
        cells.append(("HD95", f"{scores['hd95_mm']:.1f} mm"))
    if scores.get("surface_dice_1mm") is not None:
        cells.append(("Surface Dice 1 mm", f"{scores['surface_dice_1mm']:.3f}"))
    told = "".join(f"<div><span>{name}</span><b>{value}</b></div>" for name, value in cells)
    name = html.escape(agreement["name"])
    st.html(f'<div class="against" title="{name}">Against {name}</div><div class="scores">{told}</div>')
    st.session_state.setdefault("shows", "Agreement")  # a reload shows what was shown last
    return st.segmented_control(
        "Overlay", ["Arteries", "Agreement"], key="shows", required=True, label_visibility="collapsed", width="stretch"
    )
