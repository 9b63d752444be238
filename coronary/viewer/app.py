"""The viewer's server: ``coronary view``, or ``streamlit run coronary/viewer/app.py``.

Streamlit's own server, with routes beside it for what is too large for its websocket.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from streamlit.web.server.server_util import get_url

from coronary.batch import DISCLAIMER
from coronary.viewer.models import choose, models
from coronary.viewer.routes import VisitorCookie, case_routes
from coronary.viewer.settings import settings
from coronary.viewer.store import store
from shared.errors import SkiagramError
from shared.niivue.component import asset_routes

settings()  # a wrong setting stops the server before it begins


@asynccontextmanager
async def lifespan(_app: st.App) -> AsyncIterator[None]:
    """Say where the page is; delete what visitors left when the server stops.

    A signal leaves no time for atexit.
    """
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    if not settings().quiet:
        print(f"Coronary viewer: {_url()} (Ctrl-C stops it). {DISCLAIMER}", flush=True)
    yield
    store().close()


def _warm_up() -> None:
    """Import what the page needs and load the model, so that the first visitor need not wait for it."""
    from coronary.viewer import home, parts, sidebar  # noqa: F401

    with suppress(SkiagramError):  # the page says what is wrong
        models(settings().device).load(choose(None, ""))


def _url() -> str:
    """The page's address for this machine; Streamlit's own greeting would ask a server elsewhere for this one's."""
    address = st.get_option("server.address")
    return get_url("localhost" if address in (None, "", "0.0.0.0", "::") else address)


app = st.App(
    Path(__file__).with_name("page.py"),
    routes=[*asset_routes(), *case_routes()],
    middleware=[Middleware(VisitorCookie)],
    lifespan=lifespan,
)
