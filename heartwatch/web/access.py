"""Who may run and stop: sign-ins with the secret, their sessions, and tokens that stand for people in addresses."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote

from cachetools import TTLCache

from heartwatch.errors import HeartWatchError

COOKIE = "heartwatch_session"
_MOST_SESSIONS = 1_000
_MOST_PEOPLE = 50_000
_TRIES, _TRY_SECONDS = 5, 60.0
_ALL_TRIES = 30
_TOKEN_BYTES = 18


class AccessError(HeartWatchError):
    """Somebody is not allowed to do what they asked for; the message says what would help."""


class TooManyTriesError(AccessError):
    """Too many wrong secrets were sent; the message says how long to wait."""


@dataclass(frozen=True)
class Session:
    """A browser's session: its id, the token that its forms carry, and whether it is signed in."""

    session_id: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    signed_in: bool = False


class Gate:
    """Compares secrets, counts wrong ones and keeps sessions; all of it in memory, gone when the process ends."""

    def __init__(self, secret: str, session_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without sessions.

        Args:
            secret: what a person must know to sign in; empty: nobody can.
            session_seconds: how long a session is valid, s.
            clock: monotonic seconds.
        """
        self._secret = secret.encode()
        # Kept apart, so a crowd of visitors cannot push out those who are signed in.
        self._visits: TTLCache[str, Session] = TTLCache(_MOST_SESSIONS, session_seconds, timer=clock)
        self._signed_in: TTLCache[str, Session] = TTLCache(_MOST_SESSIONS, session_seconds, timer=clock)
        self._wrong: TTLCache[str, int] = TTLCache(_MOST_SESSIONS, _TRY_SECONDS, timer=clock)

    @property
    def is_open(self) -> bool:
        """Whether signing in is possible: there is a secret."""
        return bool(self._secret)

    def session(self, session_id: str | None) -> Session | None:
        """Return a session if it is still valid."""
        return (self._signed_in.get(session_id) or self._visits.get(session_id)) if session_id else None

    def visit(self, session_id: str | None) -> Session:
        """Return the browser's session, a new one if it has no valid session."""
        found = self.session(session_id)
        if found is None:
            found = Session()
            self._visits[found.session_id] = found
        return found

    def sign_in(self, session_id: str | None, form_token: str, secret: str, address: str) -> Session:
        """Sign a browser in under a new session id, so a session id that was planted before is worthless.

        Args:
            session_id: from the cookie.
            form_token: from the form.
            secret: what was typed.
            address: the browser's network address, whose wrong secrets are counted.

        Returns:
            the new session.

        Raises:
            TooManyTriesError: too many wrong secrets were sent recently.
            AccessError: the form belongs to another session, or the secret is wrong.
        """
        before = self._checked(session_id, form_token)
        if self._wrong.get(address, 0) >= _TRIES or sum(self._wrong.values()) >= _ALL_TRIES:
            raise TooManyTriesError(f"Too many wrong secrets. Wait {_TRY_SECONDS:.0f} seconds and try again.")
        if not self.is_open or not hmac.compare_digest(secret.encode(), self._secret):
            self._wrong[address] = self._wrong.get(address, 0) + 1
            raise AccessError("Wrong secret. It is in secrets.toml under [web], or in HEARTWATCH_WEB__SECRET.")
        self._forget(before)
        found = Session(signed_in=True)
        self._signed_in[found.session_id] = found
        return found

    def sign_out(self, session_id: str | None, form_token: str) -> None:
        """End a session.

        Raises:
            AccessError: the form belongs to another session.
        """
        self._forget(self._checked(session_id, form_token))

    def require(self, session_id: str | None) -> None:
        """Check that a browser is signed in.

        Raises:
            AccessError: it is not, or its session has expired.
        """
        found = self.session(session_id)
        if found is None or not found.signed_in:
            raise AccessError(
                "You are not signed in, or your session has expired. Sign in with the secret and try again."
            )

    def _forget(self, session: Session) -> None:
        self._visits.pop(session.session_id, None)
        self._signed_in.pop(session.session_id, None)

    def _checked(self, session_id: str | None, form_token: str) -> Session:
        found = self.session(session_id)
        if found is None or not hmac.compare_digest(form_token.encode(), found.form_token.encode()):
            raise AccessError("This form has expired. Reload the page and try again.")
        return found


def require(gate: Gate, session: Session, environ: dict[str, Any]) -> None:
    """Check that a page's web socket belongs to the browser session that the page was made for, and that it is signed in.

    Args:
        gate: keeps the sessions.
        session: the session that the page was made for.
        environ: of the web socket's request, as WSGI names its entries; its cookie counts.

    Raises:
        AccessError: it belongs to another session, or is not signed in.
    """
    try:
        morsel = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    except CookieError:
        morsel = None
    given = unquote(morsel.value) if morsel else ""
    gate.require(given if given == session.session_id else None)


class PersonTokens:
    """Tokens that stand for people in addresses: random, short-lived, and known to this process alone."""

    def __init__(self, seconds: float = 1_800, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without tokens.

        Args:
            seconds: how long a token is valid, s; a person gets a new token after half of that time.
            clock: monotonic seconds.
        """
        self._tokens: TTLCache[str, str] = TTLCache(_MOST_PEOPLE, seconds / 2, timer=clock)
        self._subjects: TTLCache[str, str] = TTLCache(2 * _MOST_PEOPLE, seconds, timer=clock)

    def token(self, subject: str) -> str:
        """Return a token that stands for a person."""
        token = self._tokens.get(subject)
        if token is None:
            token = self._tokens[subject] = secrets.token_urlsafe(_TOKEN_BYTES)
            self._subjects[token] = subject
        return token

    def subject(self, token: str) -> str | None:
        """Return the person that a token stands for; None if it is unknown or has expired."""
        return self._subjects.get(token)
