"""A viewer of its own and a browser for the tests; skipped, with the reason, where there is no Chromium."""

import pytest
from viewer_server import CHROMIUM, FLAGS, viewer

WAIT_MS = 180_000  # a busy machine is no failure


@pytest.fixture(scope="module")  # Playwright keeps an event loop until it stops
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # Playwright keeps an event loop until it stops
def server(tmp_path_factory, chromium):
    with viewer(tmp_path_factory.mktemp("viewer")) as running:
        yield running


@pytest.fixture
def visit(chromium, server):
    """Open the page as a new visitor; what the page complains of fails the test."""
    contexts, problems = [], []

    def come(path="/", size=(1280, 800)):
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(_elsewhere(request.url, server[0])))
        page.sent = []  # what the server hears
        page.on("request", lambda request: page.sent.append(request.url))
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: page.sent.append("a message")))
        page.goto(server[0] + path)
        return page

    yield come
    for context in contexts:
        problems += context.pages[0].get_by_test_id("stException").all_inner_texts()
        context.close()
    assert problems == []


def _elsewhere(url, address):
    """A request to any other place than the viewer."""
    return [] if url.startswith((address, "data:", "blob:")) else [f"fetched from elsewhere: {url}"]
