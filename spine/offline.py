"""ultralytics without network, telemetry, or files in the home folder. Ask here before importing it."""

from __future__ import annotations

import logging
import os
import tempfile
from types import ModuleType
from typing import Any


def offline_ultralytics() -> ModuleType:
    """Import ultralytics such that it asks nothing of the network, and return it.

    On import it would look for a connection and write its settings into the home folder; in use it would fetch a
    network to try mixed precision, fetch fonts, send events, and install what it misses. Environment variables stop
    the former (a folder named by YOLO_CONFIG_DIR is kept); the latter are taken out of the modules, for this process.
    """
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ.setdefault("YOLO_VERBOSE", "false")
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="skiagram-ultralytics-")
    # Its settings file is written with a line of advice; training speaks for itself.
    logging.getLogger("ultralytics").setLevel(logging.WARNING)
    import ultralytics
    from PIL import Image
    from ultralytics.engine import trainer as engine
    from ultralytics.utils import LOGGER, callbacks, events, patches

    # Its own asks for a missing package at each file that is no picture, and hides what is wrong with that.
    Image.open = patches._image_open
    LOGGER.setLevel(logging.WARNING)
    events.events.enabled = False
    callbacks.add_integration_callbacks = lambda instance: None
    callbacks.base.add_integration_callbacks = callbacks.add_integration_callbacks
    trainer: Any = engine
    trainer.check_amp = lambda model: next(model.parameters()).device.type == "cuda"
    module: ModuleType = ultralytics
    return module
