"""Pages for people: upload, the bone that was seen, the fractures that were found. Plain forms; a script adds ease.

``/`` takes a picture, ``/segment`` shows the bone and asks for the full-size picture or says that this is probably no
X-ray, ``/detect`` shows the boxes. The key is given once, at ``/login``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bones.service.auth import LOCAL, STRANGER, Keys
from bones.service.guard import Handler, KeyedRoute, PictureRoute, while_there
from bones.service.inference import Pool
from bones.service.problems import Problem
from bones.service.session import COOKIE, Session, Sessions
from bones.service.uploads import read_picture
from bones.service.views import View

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "data" / "samples" / "bones" / "lower-leg.png"
STATIC = {
    path.name: kind
    for suffix, kind in {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}.items()
    for path in (HERE / "static").glob(f"*{suffix}")
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # With none at all, browsers send plain forms with the origin "null", which the guard takes for another site's.
    "Referrer-Policy": "same-origin",
}
FORMAT_NAMES = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "bmp": "BMP", "dicom": "DICOM"}


class PageRoute(PictureRoute):
    """A form with a picture: whoever has the cookie may send it, and what goes wrong is answered as a page."""

    def owner(self, request: Request) -> str | None:
        """Name who asks by the cookie."""
        return owner_of(request)

    def get_route_handler(self) -> Handler:
        """Put pages around the checks."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError:
                problem = Problem("invalid", "no picture was sent; choose one first")
            except Problem as error:
                problem = error
            return to_login(request) if problem.slug == "no-key" else look_page(request, problem=problem)

        return answered


class LoginRoute(KeyedRoute):
    """The form that takes the key. Nobody is known yet, and a rate for all would let anyone lock the door: none then.

    Keys are too long to be guessed, however fast.
    """

    def owner(self, request: Request) -> str | None:
        """Let everybody try."""
        return STRANGER

    def get_route_handler(self) -> Handler:
        """Answer with the form again what goes wrong; its token is a good one."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except Problem as problem:
                return page(request, "login.html", problem=problem)

        return answered


forms = APIRouter(route_class=PageRoute)
login = APIRouter(route_class=LoginRoute)
router = APIRouter(include_in_schema=False)
Csrf = Annotated[str, Form()]


@router.get("/")
async def start(request: Request) -> Response:
    """Ask for a picture, or first for the key."""
    return to_login(request) if owner_of(request) is None else look_page(request)


@router.get("/segment")
@router.get("/detect")
async def again(request: Request) -> Response:
    """Lead back to the beginning: no picture is kept that could be shown once more."""
    return RedirectResponse(f"{root_of(request)}/", 303)


@forms.post("/segment")
async def segment(request: Request, file: Annotated[UploadFile, File()], csrf: Csrf = "") -> Response:
    """Show where bone was seen, and ask for the full-size picture; or turn the picture away."""
    check_csrf(request, csrf)
    name, picture = await read_picture(file, request.app.state.settings)
    return look_page(request, name, await look(request, "page_segment", picture))


@forms.post("/detect")
async def detect(
    request: Request,
    file: Annotated[UploadFile, File()],
    csrf: Csrf = "",
    force: Annotated[bool, Form()] = False,
    scripted: Annotated[bool, Form()] = False,
) -> Response:
    """Show the boxes. A browser with scripts draws what is saved itself."""
    check_csrf(request, csrf)
    name, picture = await read_picture(file, request.app.state.settings)
    view = await look(request, "page_detect", picture, name=name, force=force, overlay=not scripted)
    return look_page(request, name, view)


@router.get("/login")
async def ask_for_key(request: Request) -> Response:
    """Ask for the key."""
    return page(request, "login.html")


@login.post("/login")
async def sign_in(request: Request, key: Annotated[str, Form()] = "", csrf: Csrf = "") -> Response:
    """Take the key once and give the cookie in its place."""
    check_csrf(request, csrf)
    keys: Keys = request.app.state.keys
    owner = keys.owner_of(key)
    if owner is None:
        return page(request, "login.html", problem=Problem("no-key", "This key is not good here."))
    answer = RedirectResponse(f"{root_of(request)}/", 303)
    return with_cookie(request, answer, request.app.state.sessions.new(owner))


@login.post("/logout")
async def sign_out(request: Request, csrf: Csrf = "") -> Response:
    """Forget who it was."""
    check_csrf(request, csrf)
    return with_cookie(request, to_login(request), request.app.state.sessions.new())


@router.get("/sample.png")
async def sample(request: Request) -> Response:
    """Give the X-ray that ships with Skiagram."""
    if not SAMPLE.is_file():
        raise Problem("not-found", "the sample is in a checkout of the repository only")
    return FileResponse(SAMPLE, media_type="image/png", filename="sample.png")


@router.get("/static/{version}/{name}")
async def static(version: str, name: str) -> Response:
    """Give what the pages are made of; the version is in the path, so that scripts import their own kind."""
    if name not in STATIC or version != static_version():
        raise Problem("not-found", "there is no such file")
    cached = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(HERE / "static" / name, media_type=STATIC[name], headers=cached)


async def look(request: Request, what: str, picture: bytes, **arguments: Any) -> View:
    """Let a worker look at a picture, and count what came of it.

    Raises:
        Problem: it cannot be done.
    """
    pool: Pool = request.app.state.pool
    try:
        view = View.model_validate(await while_there(request, pool.run(what, picture, **arguments)))
    except Problem as problem:
        pool.metrics.pictures.labels(what, problem.slug).inc()
        raise
    boxes = view.fractures and view.fractures.count(view.fractures.point)
    outcome = "turned away" if not view.passed else "bone" if boxes is None else "boxes" if boxes else "no boxes"
    pool.metrics.pictures.labels(what, outcome).inc()
    return view


def owner_of(request: Request) -> str | None:
    """Name whose key the cookie stands for; None where one is needed and is not, or no more, good."""
    keys: Keys = request.app.state.keys
    if not keys.needed:
        return LOCAL
    session = session_of(request)
    return session.owner if session and session.owner and keys.knows(session.owner) else None


def session_of(request: Request) -> Session | None:
    """Read the cookie."""
    sessions: Sessions = request.app.state.sessions
    return sessions.read(request.cookies.get(COOKIE))


def check_csrf(request: Request, token: str) -> None:
    """Refuse a form that was not made for this browser.

    Raises:
        Problem: it was not.
    """
    session = session_of(request)
    if session is None or not session.sent(token):
        raise Problem("forbidden", "this page is too old, or its cookie was not kept; open it again")


def look_page(
    request: Request, name: str | None = None, view: View | None = None, problem: Problem | None = None
) -> Response:
    """Make the page with a picture and what was said of it, or the one that asks for a picture."""
    stem = PurePath(name or "picture").stem
    return page(request, "look.html", problem, name=name, stem=stem, view=view)


def page(request: Request, template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Make a page; a problem is said on it, and is its status. Begins a session where there is none."""
    sessions: Sessions = request.app.state.sessions
    known = session_of(request)
    session = known or sessions.new()
    said = problem and {"title": problem.details()["title"], "detail": _sentence(str(problem.detail))}
    html = (
        templates()
        .get_template(template)
        .render(
            root=root_of(request),
            session=session,
            hours=sessions.seconds // 3600,
            max_bytes=request.app.state.settings.max_upload_bytes,
            sample=SAMPLE.is_file(),
            problem=said,
            **context,
        )
    )
    status, more = (problem.status_code, problem.headers) if problem else (200, None)
    answer = HTMLResponse(html, status, HEADERS | dict(more or {}))
    return answer if known else with_cookie(request, answer, session)


def with_cookie(request: Request, answer: Response, session: Session) -> Response:
    """Let the browser keep a session, out of reach of scripts and of other sites' forms."""
    sessions: Sessions = request.app.state.sessions
    answer.set_cookie(
        COOKIE,
        sessions.cookie(session),
        max_age=sessions.seconds,
        path=f"{root_of(request)}/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",  # strict would sign out whoever follows a link to here; every form needs its token anyway
    )
    return answer


def to_login(request: Request) -> Response:
    """Lead to the form that takes the key."""
    return RedirectResponse(f"{root_of(request)}/login", 303)


def root_of(request: Request) -> str:
    """Give the path under which a proxy serves the app, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@cache
def templates() -> Environment:
    """Load the templates; what is put in is always escaped."""
    loaded = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    loaded.filters["json_uri"] = _json_uri
    loaded.globals |= {"formats": FORMAT_NAMES, "version": static_version()}
    return loaded


@cache
def static_version() -> str:
    """Name what the static files are now, so that a browser never shows an old one."""
    content = b"".join((HERE / "static" / name).read_bytes() for name in sorted(STATIC))
    return hashlib.sha256(content).hexdigest()[:8]


def _json_uri(content: Any) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return f"data:application/json;base64,{base64.b64encode(text.encode()).decode()}"


def _sentence(detail: str) -> str:
    """Make a sentence of a problem's detail."""
    detail = detail.replace("the picture: ", "the picture ", 1).rstrip(".")
    return f"{detail[:1].upper()}{detail[1:]}."


router.include_router(forms)
router.include_router(login)
