"""The viewer's server: ``coronary view``, or ``streamlit run coronary/viewer/app.py``.

Streamlit's own server, with routes beside it for what is too large for its websocket.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from coronary.viewer.routes import VisitorCookie, case_routes
from coronary.viewer.settings import settings
from coronary.viewer.store import store
from shared.niivue.component import asset_routes

settings()  # a wrong setting stops the server before it begins


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[None]:
    """Delete what visitors left when the server stops; a signal leaves no time for atexit."""
    yield
    store().close()


app = st.App(
    Path(__file__).with_name("page.py"),
    routes=[*asset_routes(), *case_routes()],
    middleware=[Middleware(VisitorCookie)],
    lifespan=lifespan,
)
