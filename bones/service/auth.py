"""API keys: kept only as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from hmac import compare_digest

from pydantic import SecretStr

from shared.errors import SetupError

HASHED = "sha256:"
LOCAL = "local"
"""Who owns what is asked for where no key is set."""
STRANGER = "-"
"""Who is about to say who it is."""
MIN_KEY_LENGTH = 16
OWNER_LENGTH = 16  # hex digits: 64 bits tell the keys of one service apart


class Keys:
    """The keys that are good here.

    A key is long and random, so one SHA-256 is enough: there is nothing to be guessed that a slow hash would protect.

    Args:
        keys: each as it is, or as ``sha256:`` and 64 hex digits.

    Raises:
        SetupError: one is too short, or no such hash.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._hashes = tuple(_hash_of(key.get_secret_value()) for key in keys)

    @property
    def needed(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self._hashes)

    def owner_of(self, key: str) -> str | None:
        """Name whom a key stands for, without giving the key away; None for a key that is not good."""
        given = _digest(key)
        owner = None
        for known in self._hashes:  # all of them, or the time would tell which it was
            if compare_digest(given, known):
                owner = known[:OWNER_LENGTH]
        return owner

    def knows(self, owner: str) -> bool:
        """Say whether the key that ``owner`` is named after is still good."""
        return any(known[:OWNER_LENGTH] == owner for known in self._hashes)


def new_key() -> tuple[str, str]:
    """Make a key: itself, and as the settings may hold it."""
    key = secrets.token_urlsafe(32)
    return key, HASHED + _digest(key)


def bearer(authorization: str | None) -> str | None:
    """Give the key of an ``Authorization: Bearer KEY`` header."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _hash_of(given: str) -> str:
    if given.startswith(HASHED):
        found = given.removeprefix(HASHED).lower()
        if not re.fullmatch(r"[0-9a-f]{64}", found):
            raise SetupError("SKIAGRAM_API_KEYS: a hash is not 64 hex digits; take what `bones serve --new-key` prints")
        return found
    if len(given) < MIN_KEY_LENGTH:
        problem = f"a key is shorter than {MIN_KEY_LENGTH} characters"
        raise SetupError(f"SKIAGRAM_API_KEYS: {problem}; make one with `bones serve --new-key`")
    return _digest(given)
