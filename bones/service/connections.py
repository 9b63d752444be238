"""What a connection must not do: stay open without asking anything.

uvicorn ends a connection that is silent after an answer. It waits for ever for the first request, for headers that
come byte by byte, and for the rest of a body that nobody reads any more, since each byte puts its timer off.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 30.0
"""A connection is ended when no request was under way for so long; at most twice that passes until it is seen."""


class Connection(H11Protocol):
    """A connection that is ended when nothing has been asked for `IDLE_S`, whatever bytes arrive."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Look from time to time from now on."""
        super().connection_made(transport)
        self.loop.call_later(IDLE_S, self._end_if_idle, None)

    def _end_if_idle(self, seen: object) -> None:
        """End the connection if it is idle, and its last request is the one that was ``seen`` when it was so before."""
        if self.transport.is_closing():
            return
        asking = self.cycle is not None and not self.cycle.response_complete
        if not asking and self.cycle is seen:
            self.transport.abort()  # close() would wait for who does not read
        else:
            self.loop.call_later(IDLE_S, self._end_if_idle, self if asking else self.cycle)
