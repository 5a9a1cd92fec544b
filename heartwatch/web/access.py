"""Who may run and stop: sign-ins with the secret, their sessions, and tokens that stand for people in addresses."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from heartwatch.errors import HeartWatchError

COOKIE = "heartwatch_session"
_MOST_SESSIONS = 1_000
_MOST_PEOPLE = 50_000
_TRIES, _TRY_SECONDS = 5, 60.0
_ALL_TRIES = 30
_TOKEN_BYTES = 18


class AccessError(HeartWatchError):
    """Somebody may not do what was asked for; the message says what would help."""


class TooManyTriesError(AccessError):
    """Too many wrong secrets came; the message says how long to wait."""


@dataclass(frozen=True)
class Session:
    """A browser's session: its id, the token that its forms carry, and until when it is signed in."""

    session_id: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    signed_in: bool = False


class Gate:
    """Compares secrets, counts wrong ones and keeps sessions; all of it in memory, gone when the page ends."""

    def __init__(self, secret: str, session_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without sessions.

        Args:
            secret: what must be known; empty: nobody can sign in.
            session_seconds: how long a session holds.
            clock: monotonic seconds.
        """
        self._secret = secret.encode()
        # Apart from each other, so that no crowd of visitors pushes out who is signed in.
        self._visits: TTLCache[str, Session] = TTLCache(_MOST_SESSIONS, session_seconds, timer=clock)
        self._signed_in: TTLCache[str, Session] = TTLCache(_MOST_SESSIONS, session_seconds, timer=clock)
        self._wrong: TTLCache[str, int] = TTLCache(_MOST_SESSIONS, _TRY_SECONDS, timer=clock)

    @property
    def is_open(self) -> bool:
        """Whether there is a secret at all."""
        return bool(self._secret)

    def session(self, session_id: str | None) -> Session | None:
        """Return a session that still holds."""
        return (self._signed_in.get(session_id) or self._visits.get(session_id)) if session_id else None

    def visit(self, session_id: str | None) -> Session:
        """Return the browser's session, a new one where it has none that holds."""
        found = self.session(session_id)
        if found is None:
            found = Session()
            self._visits[found.session_id] = found
        return found

    def sign_in(self, session_id: str | None, form_token: str, secret: str, address: str) -> Session:
        """Sign a browser in; it gets a new session id, so that one that was planted before is worth nothing.

        Args:
            session_id: from the cookie.
            form_token: from the form.
            secret: what was typed.
            address: the browser's network address, whose wrong tries are counted.

        Returns:
            the new session.

        Raises:
            TooManyTriesError: too many wrong secrets came lately.
            AccessError: the form is not this session's, or the secret is wrong.
        """
        before = self._checked(session_id, form_token)
        if self._wrong.get(address, 0) >= _TRIES or sum(self._wrong.values()) >= _ALL_TRIES:
            raise TooManyTriesError(f"Too many wrong secrets. Wait {_TRY_SECONDS:.0f} seconds and try again.")
        if not self.is_open or not hmac.compare_digest(secret.encode(), self._secret):
            self._wrong[address] = self._wrong.get(address, 0) + 1
            raise AccessError(
                "That is not the secret. It is in secrets.toml under [web], or in HEARTWATCH_WEB__SECRET."
            )
        self._forget(before)
        found = Session(signed_in=True)
        self._signed_in[found.session_id] = found
        return found

    def sign_out(self, session_id: str | None, form_token: str) -> None:
        """End a session.

        Raises:
            AccessError: the form is not this session's.
        """
        self._forget(self._checked(session_id, form_token))

    def require(self, session_id: str | None) -> None:
        """Check that a browser is signed in.

        Raises:
            AccessError: it isn't, or no longer.
        """
        found = self.session(session_id)
        if found is None or not found.signed_in:
            raise AccessError("You are not signed in, or no longer. Sign in with the secret and try again.")

    def _forget(self, session: Session) -> None:
        self._visits.pop(session.session_id, None)
        self._signed_in.pop(session.session_id, None)

    def _checked(self, session_id: str | None, form_token: str) -> Session:
        found = self.session(session_id)
        if found is None or not hmac.compare_digest(form_token.encode(), found.form_token.encode()):
            raise AccessError("This form is too old. Load the page again and repeat it.")
        return found


class People:
    """Tokens that stand for people in addresses: random, short-lived, and known to this process alone."""

    def __init__(self, seconds: float = 1_800, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without tokens.

        Args:
            seconds: how long a token holds; a person gets a new one when half of that is over.
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
        """Return whom a token stands for; None when it is unknown or too old."""
        return self._subjects.get(token)
