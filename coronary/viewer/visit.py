"""One run of the page for one visitor: who they are, what they have open, what they said last."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw

from coronary.predict import Predictor
from coronary.viewer.models import Choice, choose, models
from coronary.viewer.results import load_result, result_folder
from coronary.viewer.routes import COOKIE, PREFIX
from coronary.viewer.settings import ViewerSettings, settings
from coronary.viewer.store import Case, Visitor, store
from shared.errors import SkiagramError
from shared.io.writers import write_json

LOCAL = ("localhost", "127.0.0.1", "::1")
CASE = "scan"  # in the page's address: a reload comes back to it; it says nothing without the visitor's cookie
STYLE = Path(__file__).with_name("page.css")
MODEL_FILE = "model.json"


@dataclass
class Visit:
    """What a run of the page knows; ``predictor`` is None where the chosen model cannot be used."""

    visitor: Visitor
    limits: ViewerSettings
    case: Case | None = None
    choice: Choice | None = None
    predictor: Predictor | None = None
    model_problem: str = ""

    @property
    def paths_allowed(self) -> bool:
        """Whether this visitor may name files on the server."""
        if self.limits.server_paths is not None:
            return self.limits.server_paths
        return st.get_option("server.address") in LOCAL

    @property
    def result_folder(self) -> Path | None:
        """Where the result of the chosen model on the open scan lies, or will lie."""
        if self.case is None or self.predictor is None:
            return None
        return result_folder(self.case, self.predictor.session.sha256)

    @property
    def result(self) -> dict[str, Any] | None:
        """What there is to tell about that result; None if there is none."""
        folder = self.result_folder
        return load_result(folder) if folder else None

    @property
    def case_url(self) -> str:
        """Under which the browser finds the scan's files."""
        return f"{PREFIX}/scan/{self.case.id}" if self.case else ""

    def open(self, opened: Callable[[], Case]) -> None:
        """Open a scan, or say why not; the page then begins anew."""
        try:
            case = opened()
        except SkiagramError as error:
            st.session_state.problem = str(error)
        else:
            st.session_state.pop("problem", None)
            st.query_params[CASE] = case.id
        st.rerun()

    def remember_model(self, **said: str) -> None:
        """Keep which model the visitor uploaded or typed, for a reload too."""
        write_json(self.model_said() | said, self.visitor.folder / MODEL_FILE)

    def model_said(self) -> dict[str, str]:
        """Which model the visitor uploaded (``file`` and its ``name``) and which path they typed."""
        try:
            return dict(json.loads((self.visitor.folder / MODEL_FILE).read_text("utf-8")))
        except (OSError, ValueError):
            return {}


def begin() -> Visit:
    """Set the page up and find out who it is for; stops the run where the browser keeps no cookie."""
    st.set_page_config("Skiagram coronary viewer", _icon(), "wide", "expanded")
    st.html(f"<style>{STYLE.read_text('utf-8')}</style>")
    visitor = store().visitor(st.context.cookies.get(COOKIE))
    if visitor is None:
        st.error("This page keeps each visitor's scans apart by a cookie, and got none back. Allow it, then reload.")
        st.stop()
    _count_page(visitor.folder.name, visitor)
    visit = Visit(visitor, settings(), visitor.case(st.query_params.get(CASE)))
    _choose_model(visit)
    return visit


@st.cache_resource(scope="session", on_release=lambda closed: closed(), show_spinner=False)
def _count_page(name: str, _visitor: Visitor) -> Callable[[], None]:
    return store().page_opened(_visitor)


@cache
def _icon() -> Image.Image:
    """Two arteries on black; Streamlit's own icons come from elsewhere."""
    icon = Image.new("RGBA", (64, 64), (11, 14, 19, 255))
    draw = ImageDraw.Draw(icon)
    draw.arc((14, 6, 74, 66), 120, 260, (255, 77, 77), 9)
    draw.arc((-10, 6, 50, 66), 280, 60, (64, 196, 255), 9)
    return icon


def _choose_model(visit: Visit) -> None:
    said = visit.model_said()
    file = visit.visitor.folder / said["file"] if said.get("file") else None
    visit.choice = choose(
        file if file and file.is_file() else None, said.get("typed", "") if visit.paths_allowed else ""
    )
    try:
        visit.predictor = models(visit.limits.device).load(visit.choice)
    except SkiagramError as error:
        visit.model_problem = str(error)
