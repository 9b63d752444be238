"""The volume view as a Streamlit component: three linked planes and a 3D view.

    from shared.niivue.component import Label, Window, scene, volume_view
    volume_view(scene(encoded, "/scans/1", windows=[...]), key="view")

Volumes do not go through Streamlit: the component is given addresses, and the browser fetches the files that
``shared.niivue.encode`` wrote. ``asset_routes`` serves niivue and the view's own code; nothing comes from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from shared.niivue.encode import EncodedLabels, EncodedVolume

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

HERE = Path(__file__).parent
ASSETS = {
    "niivue.js": HERE / "vendor" / "niivue-0.69.0.umd.js",
    "slices.js": HERE / "slices.js",
    "view.js": HERE / "view.js",
}
HTML = '<div class="volume-view"></div>'


@dataclass(frozen=True, slots=True)
class Window:
    """A preset of the grey scale: black at ``low``, white at ``high``."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Label:
    """How a label's value is named and coloured."""

    value: int
    name: str
    colour: tuple[int, int, int]


CT_WINDOWS = (Window("CTA", -100, 700), Window("Soft tissue", -160, 240), Window("Bone", -500, 1300))


@cache
def asset_hash() -> str:
    """Name the assets by what they hold, so that a browser may keep them for good."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in ASSETS.values())).hexdigest()[:12]


def asset_routes(prefix: str = "/skiagram") -> list[BaseRoute]:
    """Serve niivue and the view's code under ``prefix``."""
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    async def asset(request: Request) -> Response:
        path = ASSETS.get(request.path_params["name"])
        if path is None:
            return Response(status_code=404)
        keep = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type="text/javascript", headers=keep)

    return [Route(f"{prefix}/assets/{{hash}}/{{name}}", asset)]


def loader(module: str, assets: str) -> str:
    """JavaScript that mounts ``module``'s default export; a component's own script has no address to import from."""
    return f"""export default async (component) => {{
  const url = new URL({assets + "/" + module!r}, document.baseURI)
  return (await import(url)).default(component)
}}"""


def scene(
    volume: EncodedVolume,
    volume_url: str,
    *,
    windows: Sequence[Window] = CT_WINDOWS,
    unit: str = "HU",
    note: str = "",
    labels: EncodedLabels | None = None,
    labels_url: str = "",
    legend: Sequence[Label] = (),
    surfaces: Sequence[tuple[Label, str]] = (),
    surfaces_follow: bool = True,
) -> dict[str, Any]:
    """Put together what ``volume_view`` shows.

    Addresses are those under which the encoded files are served. ``surfaces_follow``: a surface is hidden with the
    label of its value; False where the surfaces belong to other labels than those shown.
    """
    shown: dict[str, Any] = {
        "scan": {
            "dims": volume.dims,
            "affine": volume.affine,
            "unit": unit,
            "note": note,
            "first": {"url": f"{volume_url}/{EncodedVolume.FIRST_NAME}", "dims": volume.first},
            "fine": {"url": f"{volume_url}/{EncodedVolume.FINE_NAME}", "dims": volume.fine},
        },
        "windows": [asdict(window) for window in windows],
        "labels": None,
        "surfaces": [
            {"url": url, "value": label.value if surfaces_follow else 0, "colour": label.colour}
            for label, url in surfaces
        ],
    }
    if labels is not None:
        entries = [asdict(label) for label in legend if label.value in labels.present]
        shown["labels"] = {
            "url": labels_url, "dims": labels.dims, "low": labels.low, "high": labels.high, "entries": entries,
        }  # fmt: skip
    return shown


def volume_view(shown: dict[str, Any], *, key: str, prefix: str = "/skiagram") -> None:
    """Show a ``scene``. A rerun with the same scene loads nothing and moves nothing."""
    assets = f"{prefix}/assets/{asset_hash()}"
    _component(assets)(key=key, data=packed(shown | {"assets": assets}))


def packed(data: dict[str, Any]) -> dict[str, str]:
    """Data of a component as one text, which its script parses.

    To see whether a list or dict is a table, Streamlit imports pandas: a second before the first picture.
    """
    return {"json": json.dumps(data)}


def preload(*, prefix: str = "/skiagram") -> None:
    """Have the browser make a view ready while nothing is shown yet, so that the first scan need not wait for it."""
    _preloader(f"{prefix}/assets/{asset_hash()}")(key="preload")


@cache
def _preloader(assets: str) -> Any:
    # More than one line, or Streamlit takes it for a file's name.
    script = f"""export default async () => {{
  const assets = new URL({assets!r}, document.baseURI).href
  ;(await import(`${{assets}}/view.js`)).prepare(assets)
}}"""
    return st.components.v2.component("skiagram_preload", js=script)


@cache
def _component(assets: str) -> Any:
    return st.components.v2.component(
        "skiagram_volume", html=HTML, css=(HERE / "view.css").read_text("utf-8"), js=loader("view.js", assets)
    )
