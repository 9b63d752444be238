"""Starting the service from the command line: uvicorn, with what a stranger may meet made safe."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

from bones.service.auth import Keys
from bones.service.confine import forbid_dumps
from bones.service.guard import is_loopback
from bones.service.settings import Settings, read_settings
from shared.errors import SetupError
from shared.ports import check_port


def serve(host: str, port: int, *, quiet: bool = False, **given: Any) -> None:
    """Serve until SIGTERM or Ctrl-C; then what runs is finished, and jobs stay queued.

    Args:
        host: address to listen on.
        port: to listen on.
        quiet: log only what is wrong.
        given: settings that come before the environment's.

    Raises:
        SetupError: a wrong setting, no model, a network that cannot be loaded, an address that cannot be listened on,
            or one that others can reach while no key is set.
    """
    import uvicorn

    from bones.service.app import create_app
    from bones.service.connections import IDLE_S, Connection

    settings = read_settings(**given)
    check_exposure(host, settings)
    check_port(host, port)
    forbid_dumps()
    app = create_app(settings)
    _set_up_logging(quiet)
    logging.getLogger("uvicorn.error").addFilter(lambda record: app.state.failure is None)  # we say it better
    config = uvicorn.Config(
        app, host, port, http=Connection, ws="none", access_log=False, log_config=None, server_header=False,
        timeout_keep_alive=int(IDLE_S), timeout_graceful_shutdown=settings.stop_seconds,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()
    if app.state.failure is not None:
        raise app.state.failure


def check_exposure(host: str, settings: Settings) -> None:
    """Refuse to be reached by others without a key, unless told.

    Raises:
        SetupError: it would be.
    """
    local = host == "localhost" or is_loopback(host)
    if not (local or settings.allow_open or Keys(settings.api_keys).needed):
        remedy = "set SKIAGRAM_API_KEYS (`bones serve --new-key` makes one), or SKIAGRAM_ALLOW_OPEN=true"
        raise SetupError(f"--host {host}: others could reach the service, and no key is set; {remedy}")


def _set_up_logging(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("bones.service", "uvicorn"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.WARNING if quiet else logging.INFO)
