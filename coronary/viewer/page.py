"""The page itself; Streamlit runs this file from top to bottom at every click that reaches the server."""

from __future__ import annotations

from coronary.viewer import parts, sidebar
from coronary.viewer.home import show_home
from coronary.viewer.visit import begin

visit = begin()
sidebar.show(visit)
if visit.case is None:
    show_home(visit)
else:
    parts.show_scan(visit)
