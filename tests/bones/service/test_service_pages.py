"""The pages without a browser: forms, cookie, token, what is escaped and what is never there."""

import base64
import io
import json
import re

import pytest
from bones_models import broken, limb
from fastapi.testclient import TestClient
from PIL import Image
from radiograph_factory import PATIENT, dicom, film
from service_factory import client_of, photograph, png, settings_in

from bones.service import create_app
from bones.service.session import COOKIE, Sessions

KEY = "a key that is long enough"


@pytest.fixture
def visitor(client):
    client.cookies.clear()
    yield client
    client.cookies.clear()


def token_of(html):
    return re.search(r'name="csrf" value="([\w-]+)"', html)[1]


def give(client, path, picture, name="wrist.png", **fields):
    """Open the page as a browser does, and send its form."""
    token = token_of(client.get("/").text)
    return client.post(path, files={"file": (name, picture)}, data={"csrf": token} | fields)


def shown(html):
    """The picture that a page shows."""
    coded = re.search(r'class="film"[^>]*href="data:image/jpeg;base64,([^"]+)"', html)[1]
    return Image.open(io.BytesIO(base64.b64decode(coded)))


def record_of(html):
    coded = re.search(r'href="data:application/json;base64,([^"]+)"', html)[1]
    return json.loads(base64.b64decode(coded))


def test_the_way_from_a_small_picture_to_the_boxes(visitor):
    start = visitor.get("/")
    assert "Research software, not a medical device." in start.text
    assert "script-src 'self'" in start.headers["content-security-policy"]
    assert start.headers["cache-control"] == "no-store"
    bone = give(visitor, "/segment", png(limb(64, 128)))
    assert bone.status_code == 200
    assert re.search(r"<b>25 %</b> of the picture", bone.text)
    assert 'action="/detect"' in bone.text
    assert "<mask" in bone.text
    boxes = give(visitor, "/detect", png(broken(256, 512)))
    assert boxes.status_code == 200
    assert len(re.findall(r'<g class="box', boxes.text)) == 1
    assert re.search(r'class="line" x="64.0" y="192.0" width="32.0" height="64.0"', boxes.text)
    record = record_of(boxes.text)
    assert (record["file"], record["operating_point"], record["threshold"]) == ("wrist.png", "screening", 0.2)
    api = visitor.post("/v1/detect", files={"file": ("wrist.png", png(broken(256, 512)))}).json()
    assert record == api | {"operating_point": "screening", "threshold": 0.2}
    assert 'href="data:image/png;base64,' in boxes.text
    assert (
        'href="data:image/png;base64,'
        not in give(visitor, "/detect", png(broken()), scripted="true").text.split("<ol")[1]
    )


def test_what_is_no_xray_is_turned_away_on_both_pages_unless_forced(visitor):
    for path in ("/segment", "/detect"):
        page = give(visitor, path, photograph())
        assert page.status_code == 200
        assert "Probably no X-ray" in page.text
        assert '<g class="box' not in page.text
    forced = give(visitor, "/detect", png(limb()), force="true")
    assert "Not asked" in forced.text
    assert "does not rule a fracture out" in forced.text


def test_dicom_is_shown_as_it_is_displayed_and_says_nothing_of_the_patient(visitor):
    page = give(visitor, "/detect", dicom(film(480, 320), bits=12), name="scan", force="true")
    assert page.status_code == 200
    image = shown(page.text)
    assert image.size == (320, 480)
    assert not image.getexif()
    assert PATIENT not in page.text
    assert "4711" not in re.sub('base64,[^"]*', "", page.text)
    assert "DICOM" in page.text


def test_large_pictures_are_shown_smaller_and_boxes_stay_in_their_pixels(visitor):
    page = give(visitor, "/detect", png(broken(1500, 3000)))
    assert shown(page.text).size == (1200, 2400)
    assert 'viewBox="0 0 1500 3000"' in page.text
    assert 'image class="film" width="1500" height="3000"' in page.text


@pytest.mark.parametrize(
    ("picture", "status", "said"),
    [
        (png(limb())[:120], 422, "truncated"),
        (b"%PDF-1.7", 415, "give a PNG, JPEG, TIFF or DICOM file"),
        (b"", 422, "empty"),
        (b"\x89PNG\r\n\x1a\n" * 10_000_000, 413, "64"),
    ],
)
def test_a_problem_is_a_page_with_its_status(visitor, picture, status, said):
    page = give(visitor, "/segment", picture)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert 'role="alert"' in page.text
    assert said in page.text
    assert 'type="file"' in page.text  # and one may go on


def test_no_picture_is_said_too(visitor):
    page = visitor.post("/segment", data={"csrf": token_of(visitor.get("/").text)})
    assert page.status_code == 422
    assert "choose one first" in page.text


def test_names_are_escaped(visitor):
    page = give(visitor, "/detect", png(broken()), name="<img src=x onerror=alert(1)>'.png")
    assert "<img src=x" not in page.text
    assert "&lt;img src=x" in page.text


def test_pages_hold_no_script_and_no_style_of_their_own(visitor):
    for page in (visitor.get("/"), give(visitor, "/segment", png(limb())), give(visitor, "/detect", png(broken()))):
        assert re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", page.text) == []
        for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
            assert visitor.get(link).status_code == 200


def test_a_form_needs_its_token_and_its_cookie(visitor):
    token = token_of(visitor.get("/").text)
    files = {"file": ("a.png", png(limb()))}
    assert visitor.post("/segment", files=files, data={"csrf": token}).status_code == 200
    for sent in ({}, {"csrf": ""}, {"csrf": token[:-1]}, {"csrf": "é"}):
        assert visitor.post("/segment", files=files, data=sent).status_code == 403
    visitor.cookies.clear()
    assert visitor.post("/segment", files=files, data={"csrf": token}).status_code == 403
    other = visitor.post("/segment", files=files, data={"csrf": token}, headers={"Origin": "http://elsewhere"})
    assert other.status_code == 403


def test_the_key_is_given_once(tmp_path):
    with client_of(settings_in(tmp_path, api_keys=(KEY,), session_hours=3)) as client:
        page = client.get("/")
        assert page.url.path == "/login"
        assert client.post("/segment", files={"file": ("a.png", png(limb()))}).url.path == "/login"
        wrong = client.post("/login", data={"csrf": token_of(page.text), "key": "a key that is not good"})
        assert wrong.status_code == 401
        assert "not good here" in wrong.text
        old = client.post("/login", data={"key": KEY})  # no token
        assert old.status_code == 403
        assert "This page is too old" in old.text
        assert token_of(old.text) == token_of(page.text)  # so the next try succeeds
        signed_in = client.post("/login", data={"csrf": token_of(page.text), "key": KEY})
        assert signed_in.url.path == "/"
        cookie = signed_in.history[0].headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Max-Age=10800" in cookie
        assert KEY not in cookie
        assert token_of(signed_in.text) != token_of(page.text)  # another session, not the stranger's
        assert give(client, "/segment", png(limb())).status_code == 200
        # The cookie is for pages: no other site's form can make the browser call the routes for programs.
        assert client.post("/v1/detect", files={"file": ("a.png", png(limb()))}).status_code == 401
        kept = client.cookies[COOKIE]
        assert client.post("/logout", data={"csrf": token_of(client.get("/").text)}).url.path == "/login"
        client.cookies.set(COOKIE, kept[:-2] + "xx")
        assert client.get("/").url.path == "/login"


def test_nobody_can_lock_the_door_by_guessing(tmp_path):
    client = client_of(settings_in(tmp_path, api_keys=(KEY,), rate_per_minute=1))
    for key, status in [("a key that is a guess", 401)] * 5 + [(KEY, 303)]:
        client.cookies.clear()
        token = token_of(client.get("/login").text)
        answer = client.post("/login", data={"csrf": token, "key": key}, follow_redirects=False)
        assert answer.status_code == status


def test_a_cookie_is_good_for_its_time_its_secret_and_its_key(monkeypatch):
    sessions = Sessions("a secret", hours=1)
    session = sessions.new("0123456789abcdef")
    cookie = sessions.cookie(session)
    assert sessions.read(cookie) == session
    assert Sessions("a secret", 1).read(cookie) == session  # another machine's
    assert Sessions("another", 1).read(cookie) is None
    assert Sessions(None, 1).read(Sessions(None, 1).cookie(session)) is None
    for bad in (None, "", "x", cookie + "x", cookie.partition(".")[2]):
        assert sessions.read(bad) is None
    import itsdangerous.timed

    now = itsdangerous.timed.time.time()
    monkeypatch.setattr(itsdangerous.timed.time, "time", lambda: now + 3700)
    assert sessions.read(cookie) is None


def test_static_files_are_named_by_their_content(visitor):
    link = re.search(r'src="(/static/(\w+)/page\.js)"', visitor.get("/").text)
    found = visitor.get(link[1])
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["content-type"].startswith("text/javascript")
    assert visitor.get(link[1].replace(link[2], "00000000")).status_code == 404
    for wrong in ("../pages.py", "..%2fpages.py", "look.html"):
        assert visitor.get(f"/static/{link[2]}/{wrong}").status_code == 404


def test_a_page_behind_a_proxy_keeps_to_its_path(settings):
    behind = TestClient(
        create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50_000), root_path="/bones"
    )
    page = behind.get("/")
    assert 'action="/bones/segment"' in page.text
    assert "Path=/bones/" in page.headers["set-cookie"]
    assert re.findall(r'(?:src|href|action)="(?!/bones/)[^"]*"', page.text) == []
