"""Who is at the pages: a signed cookie that says which key was given once, and the token that forms must bring back.

Nothing is kept on the server, so the pages work alike on one machine and on several that share the secret. The cookie
never holds the key, nor anything from which it could be had.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hmac import compare_digest

from itsdangerous import BadData, URLSafeTimedSerializer

COOKIE = "skiagram_session"
TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Session:
    """One visitor: ``owner`` names the key that was given (None: none was), ``csrf`` is the token of the forms."""

    owner: str | None
    csrf: str

    def sent(self, token: str | None) -> bool:
        """Say whether a form brought the token that its visitor was given, in constant time."""
        return token is not None and compare_digest(self.csrf.encode(), token.encode())


class Sessions:
    """Makes and reads the cookie.

    Args:
        secret: signs the cookie; None takes a random one, so that a restart signs everybody out.
        hours: how long a cookie is good for.
    """

    def __init__(self, secret: str | None, hours: int) -> None:
        self.seconds = hours * 3600
        self._signer = URLSafeTimedSerializer(secret or secrets.token_hex(32), salt="skiagram pages")

    def new(self, owner: str | None = None) -> Session:
        """Begin a session, with a token of its own."""
        return Session(owner, secrets.token_urlsafe(TOKEN_BYTES))

    def cookie(self, session: Session) -> str:
        """Give a session as the cookie's value."""
        return str(self._signer.dumps([session.owner, session.csrf]))

    def read(self, cookie: str | None) -> Session | None:
        """Give the cookie's session; None where there is none, or it is too old, or was not made here."""
        try:
            owner, csrf = self._signer.loads(cookie or "", max_age=self.seconds)
        except BadData:
            return None
        return Session(owner, csrf)
