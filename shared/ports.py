"""Whether an address can be listened on, said before anything is loaded."""

from __future__ import annotations

import socket

from shared.errors import SetupError


def check_port(address: str, port: int) -> None:
    """Try to listen on an address for a moment.

    Raises:
        SetupError: it is taken, or is not this machine's.
    """
    try:
        places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, place = places[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SetupError(f"{address}:{port}: cannot be listened on ({reason}); give another --port") from error
