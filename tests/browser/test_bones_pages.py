"""The fracture pages in a real browser: what is turned away, what gets boxes, without scripts, by keyboard alone."""

import io
import json

import numpy as np
import pytest
from bones_server import KEY, fracture_service
from PIL import Image
from radiograph_factory import dicom

from bones.demo import SAMPLES

expect = pytest.importorskip("playwright.sync_api").expect

WAIT_MS = 60_000  # a busy machine is no failure
expect.set_options(timeout=WAIT_MS)
LEG = SAMPLES / "lower-leg.png"
WIDTH_PX, HEIGHT_PX = 465, 1056


@pytest.fixture(scope="module")
def service(tmp_path_factory, chromium):
    folder = tmp_path_factory.mktemp("service")
    with fracture_service(folder, SKIAGRAM_API_KEYS=KEY, SKIAGRAM_MAX_UPLOAD_MB="2") as address:
        yield address


@pytest.fixture
def come(chromium, service):
    """Sign in as a new visitor; what the page complains of, or fetches from elsewhere, fails the test."""
    contexts, problems = [], []

    def signed_in(size=(1280, 800), **options):
        context = chromium.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.asked = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Security Policy" in said.text else None)
        page.on("request", lambda request: page.asked.append((request.method, request.url.removeprefix(service))))
        page.goto(service)
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("heading", name="Find fractures in an X-ray")).to_be_visible()
        return page

    yield signed_in
    for context in contexts:
        problems += [url for _, url in context.pages[0].asked if not url.startswith(("/", "data:", "blob:"))]
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A coloured picture: meadow, sky and a sun."""
    y, x = np.mgrid[0:1:300j, 0:1:400j]
    sky = np.stack([90 + 80 * y, 150 + 60 * y, 235 - 20 * y], -1)
    meadow = np.stack([60 + 40 * x, 140 + 30 * x, 40 + 10 * x], -1)
    picture = np.where((y < 0.6 + 0.05 * np.sin(9 * x))[..., None], sky, meadow)
    picture[(x - 0.7) ** 2 + (y - 0.2) ** 2 < 0.005] = (255, 235, 120)
    path = tmp_path_factory.mktemp("photograph") / "holiday.jpg"
    Image.fromarray(picture.astype(np.uint8)).save(path)
    return path


def view_box(page):
    return [float(number) for number in page.locator("svg.picture").get_attribute("viewBox").split()]


def boxes(page):
    return page.locator(".picture .box").filter(visible=True)


def slide(page, value):
    slider = page.get_by_label("Least score")
    slider.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')) }", value)


def saved(page, name):
    with page.expect_download() as coming:
        page.get_by_text(name).click()
    return coming.value.suggested_filename, coming.value.path().read_bytes()


def test_a_photograph_is_turned_away_and_an_xray_gets_boxes_without_a_reload(come, photograph):
    page = come()
    page.evaluate("window.same = true")
    page.set_input_files("#first", photograph)
    expect(page.get_by_role("heading", name="Probably no X-ray")).to_be_focused()
    expect(page.get_by_text("it is coloured")).to_be_visible()
    page.set_input_files("#other", LEG)
    page.locator(".steps").get_by_text("of the picture, confidence").wait_for()
    shaded = page.locator("svg.picture").screenshot()
    page.get_by_label("Bone").uncheck()
    assert 0.03 < _tinted(shaded) < 0.3  # the bone, in a picture that fills a third of the stage
    assert _tinted(page.locator("svg.picture").screenshot()) < 0.001
    page.get_by_role("button", name="Look for fractures").click()
    page.locator(".fractures").wait_for()
    assert page.evaluate("window.same")
    assert [url for method, url in page.asked if method == "POST"] == ["/login", "/segment", "/segment", "/detect"]

    every = page.locator(".picture .box").count()
    counts = {}
    for point in ("Screening", "Balanced", "Specific"):
        page.locator(".points label", has_text=point).click()
        counts[point] = boxes(page).count()
        assert page.locator(".points label", has_text=point).locator("b").inner_text() == str(counts[point])
    assert every == counts["Screening"] > counts["Balanced"] > counts["Specific"] > 0
    slide(page, 0.95)
    few = boxes(page).count()
    assert 0 < few < counts["Specific"]
    expect(page.locator(".count")).to_have_text(f"{few} boxes")
    assert page.locator(".found li").filter(visible=True).count() == few
    expect(page.locator(".points input:checked")).to_have_count(0)
    _zoom(page)
    _save(page, few)
    slide(page, 1)
    expect(page.get_by_text("does not rule a fracture out")).to_be_visible()


def _zoom(page):
    assert view_box(page) == [0, 0, WIDTH_PX, HEIGHT_PX]
    page.locator(".found a").first.click()
    _, y, width, height = view_box(page)
    assert width < WIDTH_PX / 1.5
    chosen = page.locator(".picture .chosen .line")
    middle = float(chosen.get_attribute("y")) + float(chosen.get_attribute("height")) / 2
    assert y < middle < y + height
    letters = page.locator(".picture .chosen text").bounding_box()["height"]
    picture = page.locator("svg.picture")
    stage = picture.bounding_box()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    page.mouse.wheel(0, -300)
    page.wait_for_function("width => document.querySelector('svg.picture').viewBox.baseVal.width < width", arg=width)
    assert page.locator(".picture .chosen text").bounding_box()["height"] == pytest.approx(letters, rel=0.1)
    before = view_box(page)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 2 + 60, stage["y"] + stage["height"] / 2)
    page.mouse.up()
    assert view_box(page)[0] < before[0]
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    assert view_box(page)[2] > before[2]
    page.get_by_role("button", name="Fit").click()
    assert view_box(page) == [0, 0, WIDTH_PX, HEIGHT_PX]


def _save(page, few):
    name, content = saved(page, "Save JSON")
    record = json.loads(content)
    assert name == "lower-leg.json"
    assert (record["file"], record["width_px"], record["height_px"]) == ("lower-leg.png", WIDTH_PX, HEIGHT_PX)
    assert (record["threshold"], record["operating_point"], len(record["detections"])) == (0.95, None, few)
    name, content = saved(page, "Save PNG")
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert name == "lower-leg.boxes.png"
    assert image.shape[1] == WIDTH_PX
    assert HEIGHT_PX < image.shape[0] < HEIGHT_PX + 60  # a line of words below
    best = [round(value) for value in record["detections"][0]["box_xyxy_px"]]
    edge = image[(best[1] + best[3]) // 2, max(best[0] - 2, 0) : best[0] + 3]
    assert (edge[:, 0] - edge[:, 2]).max() > 100  # the box's colour


def _tinted(png):
    """The share of a picture that is not grey."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return (np.ptp(image, axis=2) > 30).mean()


def test_a_small_picture_at_first_then_the_full_one_and_dropped_files(come, tmp_path):
    page = come()
    small = tmp_path / "small.png"
    Image.open(LEG).resize((93, 211)).save(small)
    page.set_input_files("#first", small)
    page.locator("#full").wait_for(state="attached")
    assert view_box(page) == [0, 0, 93, 211]
    page.set_input_files("#full", LEG)
    page.locator(".fractures").wait_for()
    assert view_box(page) == [0, 0, WIDTH_PX, HEIGHT_PX]
    page.route("**/segment", lambda route: route.fulfill(status=503, headers={"Retry-After": "3"}), times=1)
    page.evaluate(
        """content => {
            const files = new DataTransfer();
            files.items.add(new File([Uint8Array.from(content)], "dropped.png"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
        }""",
        list(small.read_bytes()),
    )
    expect(page.locator("#status")).to_contain_text("The service is busy; again in 3 s")
    expect(page.locator(".facts").first).to_contain_text("dropped.png")
    page.goto(page.url)
    page.get_by_role("link", name="Take the sample").click()
    expect(page.locator(".facts").first).to_contain_text("sample.png")


def test_dicom_is_shown_and_what_is_broken_or_too_large_is_said(come, tmp_path):
    page = come()
    leg = np.asarray(Image.open(LEG).convert("L").resize((232, 528))) / 255
    files = {
        "scan": dicom(leg, bits=12, photometric="MONOCHROME1"),
        "broken.png": LEG.read_bytes()[:5000],
        "notes.pdf": b"%PDF-1.7 and so on",
        "large.png": LEG.read_bytes() + bytes(2 << 20),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#first", tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_contain_text("damaged or truncated")
    page.set_input_files("#first", tmp_path / "notes.pdf")
    expect(page.get_by_role("alert")).to_contain_text("give a PNG, JPEG, TIFF or DICOM file")
    asked = len(page.asked)
    page.set_input_files("#first", tmp_path / "large.png")
    expect(page.get_by_role("alert")).to_contain_text("2.0 MB are taken")
    assert len(page.asked) == asked  # not sent for nothing
    page.set_input_files("#first", tmp_path / "scan")
    expect(page.locator(".facts").first).to_contain_text("DICOM")
    page.get_by_role("button", name="Look for fractures").click()
    page.locator(".fractures").wait_for()
    assert saved(page, "Save JSON")[0] == "scan.json"


def test_without_javascript(come, photograph):
    page = come(java_script_enabled=False)

    def give(field, path, button):
        page.set_input_files(field, path)
        page.locator(f"form:has({field})").get_by_role("button", name=button).click()

    give("#first", photograph, "Look for bone")
    expect(page.get_by_role("heading", name="Probably no X-ray")).to_be_visible()
    give("#other", LEG, "Look for bone")
    give("#full", LEG, "Look for fractures")
    counts = {}
    for point in ("Screening", "Balanced", "Specific"):
        page.locator(".points label", has_text=point).click()
        counts[point] = boxes(page).count()
        assert page.locator(".found li").filter(visible=True).count() == counts[point]
    assert counts["Screening"] > counts["Balanced"] > counts["Specific"] > 0
    expect(page.get_by_label("Least score")).to_be_hidden()
    expect(page.get_by_role("button", name="Fit")).to_be_hidden()
    record = json.loads(saved(page, "Save JSON")[1])
    assert len(record["detections"]) == counts["Screening"]
    assert Image.open(io.BytesIO(saved(page, "Save PNG")[1])).height > HEIGHT_PX
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_by_keyboard_alone(come):
    page = come()
    with page.expect_file_chooser() as chooser:  # before the first key: it takes the browser a moment
        _tab_to(page, "#first")
        page.keyboard.press("Space")
    chooser.value.set_files(LEG)
    look = page.get_by_role("button", name="Look for fractures")
    expect(look).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Balanced")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Specific")).to_be_checked()
    specific = boxes(page).count()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("PageUp")
    assert boxes(page).count() < specific
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert view_box(page)[2] < WIDTH_PX
    _tab_to(page, "[data-save=json]")
    with page.expect_download():
        page.keyboard.press("Enter")


def _tab_to(page, selector):
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached with the Tab key")


@pytest.mark.parametrize("size", [(390, 844), (1280, 800), (1920, 1080)])
def test_nothing_sticks_out(come, size):
    page = come(size)
    for step in ("#first", "#full"):
        page.set_input_files(step, LEG)
        page.locator(".fractures" if step == "#full" else "#full").first.wait_for(state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        if size[0] > 1000:
            assert page.evaluate("document.documentElement.scrollHeight") <= size[1]
        for button in page.locator("button:visible, .button:visible").all():
            edge = button.bounding_box()
            assert edge["x"] >= 0
            assert edge["x"] + edge["width"] <= size[0]
