"""What goes through the pipes between the server and its workers: a JSON object, and bytes that belong to it."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

_SIZES = struct.Struct(">II")
MAX_ANSWER_BYTES = 256 << 20
"""No answer is so long: a mask or a page of the largest picture has a few MiB."""


def pack(message: dict[str, Any], attached: bytes = b"") -> bytes:
    """Give a message's beginning; ``attached`` follows it."""
    text = json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
    return _SIZES.pack(len(text), len(attached)) + text


def write(file: BinaryIO, message: dict[str, Any], attached: bytes = b"") -> None:
    """Write a message to a pipe."""
    file.write(pack(message, attached))
    file.write(attached)
    file.flush()


def read(file: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read a message from a pipe; None at its end."""
    sizes = file.read(_SIZES.size)
    if len(sizes) < _SIZES.size:
        return None
    text_bytes, attached_bytes = _SIZES.unpack(sizes)
    text, attached = file.read(text_bytes), file.read(attached_bytes)
    if len(text) < text_bytes or len(attached) < attached_bytes:
        return None
    return json.loads(text), attached


async def receive(stream: asyncio.StreamReader) -> dict[str, Any]:
    """Read a message from a pipe that the event loop watches.

    Raises:
        asyncio.IncompleteReadError: the other end has gone.
        ValueError: it says what is no message, or none of a sensible length.
    """
    text_bytes, attached_bytes = _SIZES.unpack(await stream.readexactly(_SIZES.size))
    if text_bytes + attached_bytes > MAX_ANSWER_BYTES:
        raise ValueError(f"an answer of {text_bytes + attached_bytes} bytes")
    text = await stream.readexactly(text_bytes)
    await stream.readexactly(attached_bytes)
    message: dict[str, Any] = json.loads(text)
    return message
