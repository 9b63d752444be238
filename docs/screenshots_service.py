"""Make docs/images/service-*.png: ``python docs/screenshots_service.py``. Needs Chromium; takes a minute.

Boxes are the shipped detector's; where there is none yet, the pictures with boxes are left as they are.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests"), str(ROOT)]

SIZES = {"1280": (1280, 800), "1920": (1920, 1080), "phone": (390, 844)}
PHANTOM_SEED = 7_000_001  # the demo's


def main() -> None:
    """Walk through the pages and take a picture at each stop."""
    from bones_server import fracture_service
    from playwright.sync_api import sync_playwright
    from viewer_server import CHROMIUM, FLAGS

    from bones.demo import SAMPLES, broken_phantom, write_picture
    from shared.errors import SetupError
    from shared.registry import choose_model

    if CHROMIUM is None:
        sys.exit("no Chromium here: apt-get install chromium")
    try:
        shipped = str(choose_model("bones", "auto", "cpu"))
    except SetupError:
        shipped = None
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        sample = SAMPLES / "lower-leg.png"
        broken = write_picture(broken_phantom(PHANTOM_SEED), folder / "phantom.png")
        with fracture_service(folder, **({"SKIAGRAM_MODEL": shipped} if shipped else {})) as address:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            pages = {name: _opened(browser, address, size) for name, size in SIZES.items()}
            _take(pages["1280"], "service-start")
            _find_bone(pages["1280"], sample)
            _take(pages["1280"], "service-bone")
            if shipped:
                for name in ("1920", "phone"):
                    _find_bone(pages[name], broken)
                    pages[name].get_by_role("button", name="Look for fractures").click()
                    pages[name].locator(".fractures").wait_for()
                    _take(pages[name], f"service-{name}")
            browser.close()


def _opened(browser: Any, address: str, size: tuple[int, int]) -> Any:
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(180_000)
    page.goto(address)
    return page


def _find_bone(page: Any, picture: Path) -> None:
    page.set_input_files("#first", picture)
    page.locator("#full").wait_for(state="attached")


def _take(page: Any, name: str) -> None:
    """Save what is shown, packed as well as PNG can."""
    from PIL import Image

    path = ROOT / "docs" / "images" / f"{name}.png"
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").save(path, optimize=True)
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
