"""The viewer in a real browser: from upload to download, and what it does with wrong files and two visitors."""

import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_factory import write_series
from PIL import Image

from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from shared.registry import CHECKOUT_MODELS

expect = pytest.importorskip("playwright.sync_api").expect

SCAN = PhantomConfig(shape=(150, 150, 110), spacing_mm=(0.8, 0.8, 0.9), difficulty=0.2)
READY = '.volume-view[data-state="ready"]'
LABELLED = '.volume-view[data-labels^="/"]'


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A scan and its truth."""
    return write_phantom(make_phantom(SCAN, 4242), tmp_path_factory.mktemp("phantom"), 1)


@pytest.fixture(scope="session")
def long_scan(phantom, tmp_path_factory):
    """The same voxels a half larger: three times the work, so that there is time to cancel it."""
    image = nib.load(phantom[0])
    path = tmp_path_factory.mktemp("long") / "1.img.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([1.5, 1.5, 1.5, 1])), path)
    return path


def upload(page, label, path):
    uploader = page.get_by_test_id("stFileUploader").filter(has_text=label)
    expect(uploader).to_have_count(1, timeout=60_000)  # one that took a file may still be there beside its successor
    uploader.locator("input").set_input_files(path)


def open_scan(page, path):
    page.get_by_text("Upload a scan").first.wait_for()
    upload(page, "Upload a scan", path)
    page.locator(READY).wait_for()


def find_arteries(page):
    page.get_by_role("button", name="Find the arteries").click()
    page.locator(LABELLED).wait_for()
    page.locator(".panel tbody tr").first.wait_for()


def pixels(page, plane=None):
    """What the canvas shows, of one plane's tile or all; RGB."""
    page.wait_for_timeout(150)
    image = np.asarray(Image.open(io.BytesIO(page.locator(".stage canvas").screenshot())).convert("RGB")).astype(int)
    if plane is None:
        return image
    height, width = image.shape[:2]
    row, column = divmod(["Axial", "Coronal", "Sagittal", "3D"].index(plane), 2)
    part = image[row * height // 2 :, column * width // 2 :][: height // 2, : width // 2]
    return part[30:-12, 12:-12]  # without names, sliders and letters


def red(image):
    """How much of a picture is redder than grey, in sum."""
    return np.clip(image[..., 0] - image[..., 1:].max(axis=-1), 0, None).sum()


def slide(page, slider, value):
    """Set a range input as a hand would."""
    slider.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })) }", value
    )


def test_from_upload_to_download(visit, phantom, tmp_path):
    page = visit()
    open_scan(page, phantom[0])
    assert page.locator('.tile[data-plane="Axial"] .name').inner_text().split("/")[-1].strip() == "110"
    find_arteries(page)
    assert {"LCA", "RCA"} <= set(page.locator(".panel .artery b").all_inner_texts())
    for name, suffix in {
        "mask.nii.gz": ".mask.nii.gz", "arteries.stl": ".stl", "tree.json": ".tree.json", "preview.png": ".png",
        "report.json": ".report.json",
    }.items():  # fmt: skip
        with page.expect_download() as coming:
            page.locator(f'.links a[data-file="{name}"]').click()
        assert coming.value.suggested_filename == f"1.img{suffix}"
        coming.value.save_as(tmp_path / name)
    mask, scan = nib.load(tmp_path / "mask.nii.gz"), nib.load(phantom[0])
    assert mask.shape == scan.shape
    assert (mask.affine == scan.affine).all()
    tree = json.loads((tmp_path / "tree.json").read_text())
    assert page.locator(".panel tbody tr").count() == len(tree["branches"])
    assert json.loads((tmp_path / "report.json").read_text())["exit_status"] == 0

    _opacity_and_slices_stay_in_the_browser(page)
    _a_branch_is_chosen(page, tree)
    _a_surface_is_clicked(page, tree)
    _a_reload_repeats_nothing(page)
    _comparison(page, phantom)


def _opacity_and_slices_stay_in_the_browser(page):
    page.wait_for_timeout(500)
    page.sent.clear()
    page.locator('[data-part="reset"]').click()
    canvas = page.locator(".stage canvas")
    opacity = page.get_by_label("Opacity")
    tones = {}
    for percent in (0, 50, 100):
        slide(page, opacity, percent)
        tones[percent] = red(pixels(page, "Axial"))
    assert tones[0] == 0
    assert 0 < tones[50] < tones[100]
    slider = page.get_by_label("Axial slice")
    before, coronal = pixels(page, "Axial"), pixels(page, "Coronal")
    slide(page, slider, 40)
    moved = pixels(page, "Axial")
    assert np.abs(moved - before).mean() > 3  # another slice
    assert page.locator('.tile[data-plane="Axial"] .name i').inner_text() == "40 / 110"
    assert np.abs(pixels(page, "Coronal") - coronal).mean() < 2  # where only the crosshair's line moved
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(150)
    assert page.locator('.tile[data-plane="Axial"] .name i').inner_text() in ("39 / 110", "41 / 110")
    grey = pixels(page, "Sagittal").mean()
    page.get_by_role("button", name="Bone").click()
    assert pixels(page, "Sagittal").mean() != pytest.approx(grey, abs=2)
    page.get_by_role("button", name="CTA").click()
    # All that the server heard is a straightened view asked for in the new window.
    assert [sent for sent in page.sent if "/straight/" not in sent] == []


def _a_branch_is_chosen(page, tree):
    row = page.locator(".panel tbody tr").nth(1)
    place = page.locator('[data-part="place"]')
    row.click()
    shown = place.inner_text()
    branch = tree["branches"][1]
    values = [float(word) for word in shown.replace("mm", "").split()[1::2]]
    signs = [1 if letter in "RAS" else -1 for letter in shown.split()[:6:2]]
    at = np.array(values) * signs
    assert np.linalg.norm(np.array(branch["points_mm"]) - at, axis=1).min() < 0.3
    page.locator('[data-part="straight"][data-branch="{}"]'.format(branch["id"])).wait_for()
    assert page.locator('[data-part="straight"]').evaluate("image => image.naturalHeight") > 20
    assert page.locator("svg .curve").count() == 1
    # A click on an artery in a slice chooses its branch: the crosshair is on the chosen one's centreline.
    page.locator(".panel tbody tr").nth(0).click()
    row.click()
    page.locator(".panel tbody tr").nth(0).evaluate("row => row.ariaSelected = 'false'")
    box = page.locator(".stage canvas").bounding_box()
    x, y = _crosshair(page)
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_timeout(300)
    assert page.locator('.panel tbody tr[aria-selected="true"]').get_attribute("data-branch") == str(branch["id"])


def _a_surface_is_clicked(page, tree):
    """A click on the left artery in 3D chooses one of its branches."""
    right = next(branch["id"] for branch in tree["branches"] if branch["side"] == "RCA")
    page.locator(f'.panel tbody tr[data-branch="{right}"]').click()
    page.wait_for_timeout(500)
    image = pixels(page)
    top, left = image.shape[0] // 2, image.shape[1] // 2
    part = image[top:, left:]
    redness = part[..., 0] - part[..., 1:].max(axis=-1)
    rows, columns = np.nonzero(redness > 0.8 * redness.max())
    middle = len(rows) // 2
    box = page.locator(".stage canvas").bounding_box()
    page.mouse.click(box["x"] + left + int(columns[middle]), box["y"] + top + int(rows[middle]))
    page.wait_for_timeout(500)
    chosen = int(page.locator('.panel tbody tr[aria-selected="true"]').get_attribute("data-branch"))
    assert next(branch["side"] for branch in tree["branches"] if branch["id"] == chosen) == "LCA"


def _crosshair(page):
    """Where the crosshair is in the axial tile, in pixels of the canvas: its lines are green."""
    image = pixels(page)
    height, width = image.shape[:2]
    part = image[: height // 2, : width // 2]
    green = np.clip(part[..., 1] - part[..., [0, 2]].max(axis=-1), 0, None)
    return int(green.sum(axis=0).argmax()), int(green.sum(axis=1).argmax())


def _a_reload_repeats_nothing(page):
    page.reload()
    page.locator(LABELLED).wait_for()
    assert page.get_by_role("button", name="Find the arteries").count() == 0


def _comparison(page, phantom):
    page.get_by_text("Compare with a label file").click()
    upload(page, "Upload a label", phantom[1])
    page.locator(".scores").wait_for()
    assert page.locator(".against").inner_text() == f"Against {phantom[1].name}"
    assert float(page.locator(".scores b").first.inner_text()) > 0.5
    page.locator(".chip", has_text="Missed").wait_for()
    assert page.locator(".chip").all_inner_texts() == ["Hit", "Missed", "Extra"]


def test_a_corrupt_file_is_refused_and_the_next_one_opens(visit, phantom, tmp_path):
    page = visit()
    corrupt = tmp_path / "corrupt.nii.gz"
    corrupt.write_bytes(phantom[0].read_bytes()[:5000])
    page.get_by_text("Upload a scan").first.wait_for()
    upload(page, "Upload a scan", corrupt)
    told = page.get_by_test_id("stAlert")
    told.wait_for()
    assert told.inner_text().startswith("corrupt.nii.gz: ")
    other = tmp_path / "notes.txt"
    other.write_text("no scan")
    upload(page, "Upload a scan", other)
    page.get_by_text("notes.txt: is of a kind that is not read").wait_for()
    open_scan(page, phantom[0])
    assert page.get_by_test_id("stAlert").count() == 0


def test_model_precedence_and_a_wrong_model(visit, phantom, tmp_path):
    page = visit()
    used = page.locator("[data-model]")
    used.wait_for()
    assert used.get_attribute("data-model") == "shipped"
    page.get_by_text("Use another model").click()
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"this is no model")
    upload(page, "Upload a model", wrong)
    page.get_by_text("wrong.onnx: not an ONNX file").wait_for()
    assert used.get_attribute("data-model") == "shipped"  # a wrong one replaces nothing

    typed = page.get_by_label("Model path on this server")
    typed.fill(str(CHECKOUT_MODELS / "coronary.onnx"))
    typed.press("Enter")
    page.locator('[data-model="path"]').wait_for()
    assert "float32" in used.inner_text()
    own = tmp_path / "own.onnx"
    shutil.copy(CHECKOUT_MODELS / "coronary-int8.onnx", own)
    upload(page, "Upload a model", own)
    page.locator('[data-model="uploaded"]').wait_for()
    assert used.inner_text().startswith("own.onnx")
    page.reload()
    page.locator('[data-model="uploaded"]').wait_for()  # the visitor's choice outlives a reload
    page.get_by_text("Use another model").click()
    page.get_by_role("button", name="Forget the uploaded model").click()
    page.locator('[data-model="path"]').wait_for()
    page.get_by_text("Model card").click()
    card = page.locator("dl.card")
    for term in ("Labels", "Spacing", "Provenance", "Scores", "Licence"):
        assert term in card.inner_text()


def test_a_dicom_zip_gives_a_dicom_seg_of_its_series(visit, tmp_path):
    hu = np.random.default_rng(0).normal(30, 20, (48, 40, 32)).astype(np.int16)  # no contrast: done in a moment
    write_series(tmp_path / "series", hu, np.diag([-1.0, -1.0, 1.0, 1.0]))
    shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "series")
    page = visit()
    open_scan(page, tmp_path / "scan.zip")
    page.get_by_role("button", name="Find the arteries").click()
    link = page.locator('.links a[data-file="mask.seg.dcm"]')
    link.wait_for()
    with page.expect_download() as coming:
        link.click()
    assert coming.value.suggested_filename == "scan.seg.dcm"
    coming.value.save_as(tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    one = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    assert seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == one.SeriesInstanceUID
    assert page.get_by_text("no contrast-filled artery found").first.is_visible()


def test_two_visitors_at_once(visit, phantom, long_scan):
    one, other = visit(), visit()
    open_scan(one, long_scan)
    case = one.url.partition("?scan=")[2]
    fine = f"/skiagram/scan/{case}/fine.f16"
    fetch = "url => fetch(url).then(answer => answer.status)"
    assert one.evaluate(fetch, fine) == 200
    assert other.evaluate(fetch, fine) == 404
    other.goto(one.url)  # the address alone opens nothing
    other.get_by_role("button", name="Open the sample scan").wait_for()
    assert other.locator(".volume-view").count() == 0
    other.get_by_text("Upload a scan").first.wait_for()
    open_scan(other, phantom[0])
    # One runs, the other waits in line and says so, then is cancelled.
    one.get_by_role("button", name="Find the arteries").click()
    one.get_by_role("button", name="Cancel").wait_for()
    other.get_by_role("button", name="Find the arteries").click()
    other.get_by_text("Waits in line: 1 scan before this one").wait_for()
    other.get_by_role("button", name="Cancel").click()
    other.get_by_role("button", name="Find the arteries").wait_for()
    one.locator(LABELLED).wait_for()
    assert other.locator(LABELLED).count() == 0


def test_cancel_stops_a_running_segmentation(visit, long_scan):
    page = visit()
    open_scan(page, long_scan)
    page.get_by_role("button", name="Find the arteries").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Find the arteries").wait_for()
    assert page.locator(LABELLED).count() == 0


def test_uploads_leave_no_buffer_behind(visit, server, tmp_path):
    """Ten scans of 27 MB, and their files' names stay out of the log."""
    _, process = server
    page = visit()
    found_kb = []
    noise = np.random.default_rng(0).normal(0, 100, (240, 240, 240)).astype(np.int16)
    for n in range(10):
        path = tmp_path / f"Patient-{n}.nii"
        nib.save(nib.Nifti1Image(noise + np.int16(n), np.diag([0.5, 0.5, 0.5, 1])), path)
        if n:
            page.get_by_text("Open another scan").click()
        upload(page, "Upload a scan", path)
        page.locator(f'.facts b[title="{path.name}"]').wait_for()
        page.locator(READY).wait_for()
        found_kb.append(_memory_kb(process.pid))
        path.unlink()
    assert found_kb[-1] < 1.5 * found_kb[0], found_kb
    assert "/pandas/" not in Path(f"/proc/{process.pid}/maps").read_text()  # a second of every first picture, and 80 MB
    log = next((path for path in tmp_path.parent.glob("viewer*/server.log")), None)
    assert log is not None
    assert "Patient" not in log.read_text()


def _memory_kb(pid):
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_window_zoom_and_pan_by_mouse(visit, phantom):
    page = visit()
    open_scan(page, phantom[0])
    box = page.locator(".stage canvas").bounding_box()
    x, y = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3
    width, level = (page.get_by_label(name) for name in ("Window width", "Window level"))

    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 40, y - 20, steps=3)
    page.mouse.up(button="right")
    assert (width.input_value(), level.input_value()) == ("880", "340")
    page.get_by_role("button", name="Soft tissue").click()
    assert (width.input_value(), level.input_value()) == ("400", "40")

    page.mouse.click(x, y)
    page.wait_for_timeout(200)
    before, place = _crosshair(page), page.locator('[data-part="place"]').inner_text()
    whole = pixels(page, "Axial")
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    zoomed = pixels(page, "Axial")
    assert np.abs(zoomed - whole).mean() > 5
    assert _crosshair(page) == pytest.approx(before, abs=2)  # zoomed about the crosshair, the slice unchanged
    page.keyboard.down("Shift")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_timeout(200)
    assert _crosshair(page) == pytest.approx((before[0] + 30, before[1] + 20), abs=3)
    assert page.locator('[data-part="place"]').inner_text() == place

    page.mouse.dblclick(x, y)
    assert page.locator(".tile:visible").count() == 1
    page.get_by_role("button", name="Reset").click()
    assert page.locator(".tile:visible").count() == 4
