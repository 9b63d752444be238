"""Starting the viewer from the command line: ``streamlit run`` with the settings that go with it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from coronary.viewer.settings import PREFIX, settings
from shared.ports import check_port
from shared.runtime import parse_device

APP = Path(__file__).with_name("app.py")


def serve(address: str, port: int, device: str, *, open_browser: bool, quiet: bool = False) -> None:
    """Serve the page until it is stopped, by Ctrl-C too.

    Raises:
        SetupError: a wrong setting or device, or the address cannot be listened on.
    """
    parse_device(device)
    os.environ[f"{PREFIX}DEVICE"] = device
    if quiet:
        os.environ[f"{PREFIX}QUIET"] = "true"
    limits = settings()
    check_port(address, port)
    # Streamlit looks beside the script that was started for its config, and finds the page's look there.
    sys.argv = [str(APP)]
    from coronary.viewer.app import app

    with suppress(KeyboardInterrupt):
        app.run(
            config={
                "server.address": address,
                "server.port": port,
                "server.headless": not open_browser,
                "server.maxUploadSize": max(limits.max_upload_mb, limits.max_model_mb),
            }
        )
