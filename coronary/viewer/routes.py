"""What the browser fetches beside Streamlit: a visitor's own files, and straightened views of their branches."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coronary.straighten import straighten
from coronary.viewer.scans import encoded_of, name_of
from coronary.viewer.store import Case, new_token, store
from shared.niivue.encode import EncodedVolume

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

COOKIE = "skiagram_visitor"
PREFIX = "/skiagram"
HOME_PICTURE = f"{PREFIX}/home.webp"
RESULT = r"result-[0-9a-f]{16}"
SHOWN = re.compile(rf"(first|fine)\.f16|{RESULT}/((compare-[0-9a-f]{{16}}/)?labels\.u8|surface-\d\.mz3|tree\.json)")
# What may be downloaded, and what its name ends in.
DOWNLOADS = {
    "mask.nii.gz": ".mask.nii.gz",
    "mask.seg.dcm": ".seg.dcm",
    "arteries.stl": ".stl",
    "tree.json": ".tree.json",
    "tree.csv": ".tree.csv",
    "preview.png": ".png",
    "report.json": ".report.json",
}
PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class VisitorCookie:
    """ASGI middleware: whoever comes without a token gets one, in a cookie that no script can read."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, with a cookie added to the answer where one is wanted."""
        from starlette.requests import cookie_parser

        cookies = next((value for name, value in scope.get("headers", ()) if name == b"cookie"), b"").decode("latin-1")
        if scope["type"] != "http" or COOKIE in cookie_parser(cookies):
            await self.app(scope, receive, send)
            return
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={new_token()}; Path=/; HttpOnly; SameSite=Strict{secure}".encode()
        page = scope["path"].endswith("/")

        async def answer(message: Any) -> None:
            if page and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie)]
            await send(message)

        await self.app(scope, receive, answer)


def case_routes() -> list[BaseRoute]:
    """The routes under which a visitor, and nobody else, finds what belongs to their scans."""
    from starlette.routing import Route

    base = f"{PREFIX}/scan/{{case}}"
    return [
        Route(f"{base}/straight/{{result}}/{{branch:int}}.png", _own(_straight)),
        Route(f"{base}/download/{{result}}/{{name}}", _own(_download)),
        Route(f"{base}/{{file:path}}", _own(_shown)),
        Route(HOME_PICTURE, _home_picture),
    ]


def _home_picture(_request: Request) -> Response:
    """Serve the home page's picture, which docs/screenshots.py makes."""
    from starlette.responses import FileResponse

    return FileResponse(Path(__file__).with_name("home.webp"), headers={"Cache-Control": "public, max-age=3600"})


def _own(serve: Callable[[Request, Case], Response]) -> Callable[[Request], Response]:
    """Serve only what belongs to the visitor whose cookie came along; all else is not there."""

    def route(request: Request) -> Response:  # not async: Starlette runs it in a thread
        from starlette.responses import Response

        visitor = store().visitor(request.cookies.get(COOKIE))
        case = visitor.case(request.path_params["case"]) if visitor else None
        return serve(request, case) if case else Response(status_code=404, headers=PRIVATE)

    return route


def _shown(request: Request, case: Case) -> Response:
    from starlette.responses import FileResponse, Response

    name = request.path_params["file"]
    path = case.folder / name
    if not SHOWN.fullmatch(name) or not path.is_file():
        return Response(status_code=404, headers=PRIVATE)
    headers = PRIVATE
    if name.endswith(".f16"):
        # Noise does not compress: Starlette would spend seconds on it. A stated encoding keeps it from trying.
        headers = PRIVATE | {"Content-Encoding": "identity"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


def _download(request: Request, case: Case) -> Response:
    from starlette.responses import FileResponse, Response

    name, result = request.path_params["name"], request.path_params["result"]
    path = case.folder / result / name
    if name not in DOWNLOADS or not re.fullmatch(RESULT, result) or not path.is_file():
        return Response(status_code=404, headers=PRIVATE)
    return FileResponse(path, filename=name_of(case) + DOWNLOADS[name], headers=PRIVATE)


def _straight(request: Request, case: Case) -> Response:
    """Draw a branch laid out straight, as a grey PNG of one pixel for each step."""
    from PIL import Image
    from starlette.responses import Response

    result, wanted = request.path_params["result"], request.path_params["branch"]
    asked = request.query_params
    try:
        angle, low, high = (
            float(asked.get(name, default)) for name, default in (("angle", 0), ("low", -100), ("high", 700))
        )
        tree = (
            json.loads((case.folder / result / "tree.json").read_text("utf-8")) if re.fullmatch(RESULT, result) else {}
        )
        branch = next(branch for branch in tree.get("branches", ()) if branch["id"] == wanted)
        found = straighten(*fine_scan(case), np.array(branch["points_mm"]), angle_deg=angle)
    except (OSError, StopIteration, ValueError):
        return Response(status_code=404, headers=PRIVATE)
    grey = np.clip((found.image - low) / max(high - low, 1.0), 0, 1)
    png = io.BytesIO()
    Image.fromarray((255 * grey.T).astype(np.uint8)).save(png, "PNG", compress_level=1)  # the vessel runs down
    return Response(png.getvalue(), media_type="image/png", headers=PRIVATE)


def fine_scan(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The scan as the browser has it, mapped from disk, and its affine."""
    encoded = encoded_of(case)
    array = np.memmap(_file(case, EncodedVolume.FINE_NAME), "<f2", "r", shape=encoded.fine, order="F")
    affine = np.array(encoded.affine)
    scale = np.array(encoded.dims) / np.array(encoded.fine)
    fine = affine.copy()
    fine[:3, :3] = affine[:3, :3] * scale
    fine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (scale / 2 - 0.5)
    return array, fine


def _file(case: Case, name: str) -> Path:
    return case.folder / name
