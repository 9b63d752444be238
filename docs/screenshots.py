"""Make docs/images/viewer-*.png and the home page's picture: ``python docs/screenshots.py``.

Needs Chromium; takes a minute or two. Sizes run so that the home page is taken with its new picture.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
HOME_PICTURE = ROOT / "coronary" / "viewer" / "home.webp"
HOME_PX = 1400  # its width
sys.path.insert(0, str(ROOT / "tests" / "browser"))

SIZES = {"1920": (1920, 1080), "1280": (1280, 800)}


def main() -> None:
    """Walk through the viewer at two sizes and take a picture at each stop."""
    from playwright.sync_api import sync_playwright
    from viewer_server import CHROMIUM, FLAGS, viewer

    if CHROMIUM is None:
        sys.exit("no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, viewer(Path(folder)) as (address, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, (width, height) in SIZES.items():
            page = browser.new_context(viewport={"width": width, "height": height}).new_page()
            page.set_default_timeout(900_000)  # a busy machine is no failure
            page.goto(address)
            _walk(page, name)
        browser.close()


def _walk(page: Any, name: str) -> None:
    page.get_by_role("button", name="Open the sample scan").wait_for()
    page.wait_for_timeout(1500)
    small = name == "1280"  # one picture of each kind will do, and the reading room at both sizes
    if small:
        _take(page, "viewer-home")
    page.get_by_role("button", name="Open the sample scan").click()
    page.locator('.volume-view[data-state="ready"]').wait_for()
    page.get_by_role("button", name="Find the arteries").click()
    page.locator('.volume-view[data-labels^="/"]').wait_for()
    narrowed = page.locator(".panel tbody tr", has_text="%").first
    narrowed.click()
    page.wait_for_timeout(2500)
    _take(page, f"viewer-{name}")
    if not small:
        _take_home_picture(page)
        return
    page.get_by_text("Compare with a label file").click()
    page.get_by_role("button", name="Compare with the phantom's truth").click()
    page.locator(".chip", has_text="Missed").wait_for()
    page.wait_for_timeout(2000)
    _take(page, "viewer-compare")


def _take_home_picture(page: Any) -> None:
    """Save the reading room without its sidebar, as the home page shows it."""
    import io

    from PIL import Image

    left = page.get_by_test_id("stSidebar").bounding_box()["width"]
    width, height = SIZES["1920"]
    clip = {"x": left + 2, "y": 2, "width": width - left - 2, "height": height - 2}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    small = image.resize((HOME_PX, round(HOME_PX * image.height / image.width)), Image.Resampling.LANCZOS)
    small.save(HOME_PICTURE, quality=82, method=6)
    print(f"wrote {HOME_PICTURE.relative_to(ROOT)}, {HOME_PICTURE.stat().st_size / 1024:.0f} KiB")


def _take(page: Any, name: str) -> None:
    """Save what is shown, packed as well as PNG can."""
    from PIL import Image

    path = IMAGES / f"{name}.png"
    page.mouse.move(0, 0)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").save(path, optimize=True)
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
