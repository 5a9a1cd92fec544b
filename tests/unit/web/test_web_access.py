"""Signing in: the secret, forms, sessions, too many tries; and tokens that stand for people."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from fastapi import FastAPI

from heartwatch.web.access import AccessError, Gate, PersonTokens, TooManyTriesError, require
from heartwatch.web.server import _add_routes


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate("the secret", session_seconds=600, clock=clock)


def test_who_knows_the_secret_gets_a_new_session(gate: Gate) -> None:
    before = gate.visit(None)
    session = gate.sign_in(before.session_id, before.form_token, "the secret", "1.2.3.4")
    assert session.session_id != before.session_id
    gate.require(session.session_id)
    with pytest.raises(AccessError, match="not signed in"):
        gate.require(before.session_id)


@pytest.mark.parametrize("secret", ["", "the secre", "the secret ", "THE SECRET", "gehéim"])
def test_a_wrong_secret_opens_nothing(gate: Gate, secret: str) -> None:
    session = gate.visit(None)
    with pytest.raises(AccessError, match="Wrong secret"):
        gate.sign_in(session.session_id, session.form_token, secret, "1.2.3.4")
    with pytest.raises(AccessError):
        gate.require(session.session_id)


def test_without_a_secret_nobody_gets_in() -> None:
    gate = Gate("", 600)
    session = gate.visit(None)
    assert not gate.is_open
    with pytest.raises(AccessError):
        gate.sign_in(session.session_id, session.form_token, "", "1.2.3.4")


def test_a_form_of_another_session_is_refused(gate: Gate) -> None:
    mine, other = gate.visit(None), gate.visit(None)
    for session_id in (mine.session_id, None, "made up"):
        with pytest.raises(AccessError, match="expired"):
            gate.sign_in(session_id, other.form_token, "the secret", "1.2.3.4")
    signed = gate.sign_in(mine.session_id, mine.form_token, "the secret", "1.2.3.4")
    with pytest.raises(AccessError, match="expired"):
        gate.sign_out(signed.session_id, other.form_token)
    gate.require(signed.session_id)
    gate.sign_out(signed.session_id, signed.form_token)
    with pytest.raises(AccessError):
        gate.require(signed.session_id)


def test_too_many_wrong_secrets_have_to_wait_the_right_one_too(gate: Gate, clock: Clock) -> None:
    session = gate.visit(None)

    def attempt(secret: str, address: str = "1.2.3.4") -> None:
        gate.sign_in(session.session_id, session.form_token, secret, address)

    for _ in range(5):
        with pytest.raises(AccessError, match="Wrong secret"):
            attempt("wrong")
    with pytest.raises(TooManyTriesError):
        attempt("the secret")
    clock.now += 61
    attempt("the secret")


def test_wrong_secrets_from_everywhere_are_counted_together(gate: Gate) -> None:
    session = gate.visit(None)
    for number in range(30):
        with pytest.raises(AccessError, match="Wrong secret"):
            gate.sign_in(session.session_id, session.form_token, "wrong", f"10.0.0.{number}")
    with pytest.raises(TooManyTriesError):
        gate.sign_in(session.session_id, session.form_token, "wrong", "10.0.1.1")


class SlowlyComparing(Gate):
    """Lets other threads run between looking at the wrong tries and counting another one."""

    compared = 0

    @property
    def is_open(self) -> bool:
        self.compared += 1
        time.sleep(0.02)
        return True


def test_guesses_at_the_same_time_are_counted_too() -> None:
    gate, app = SlowlyComparing("the secret", 600), FastAPI()
    _add_routes(app, gate, 600, dict)
    session = gate.visit(None)

    async def guess() -> list[str]:
        transport = httpx.ASGITransport(app)
        cookies = {"heartwatch_session": session.session_id}
        form = {"form_token": session.form_token, "secret": "a guess"}
        async with httpx.AsyncClient(transport=transport, base_url="http://page", cookies=cookies) as client:
            answers = await asyncio.gather(*(client.post("/sign-in", data=form) for _ in range(30)))
        return [answer.headers["location"].split("=")[1] for answer in answers]

    answers = asyncio.run(guess())
    assert (gate.compared, answers.count("secret"), answers.count("tries")) == (5, 5, 25)


def test_a_session_ends_by_itself(gate: Gate, clock: Clock) -> None:
    session = gate.visit(None)
    signed = gate.sign_in(session.session_id, session.form_token, "the secret", "1.2.3.4")
    clock.now += 601
    with pytest.raises(AccessError):
        gate.require(signed.session_id)


def test_an_action_needs_the_cookie_of_the_very_session_that_the_page_was_made_for(gate: Gate) -> None:
    first, second = gate.visit(None), gate.visit(None)
    mine = gate.sign_in(first.session_id, first.form_token, "the secret", "1.2.3.4")
    other = gate.sign_in(second.session_id, second.form_token, "the secret", "1.2.3.4")
    require(gate, mine, {"HTTP_COOKIE": f"theme=dark; heartwatch_session={mine.session_id}"})
    for cookie in ("", f"heartwatch_session={other.session_id}", "heartwatch_session=", "a=b"):
        with pytest.raises(AccessError):
            require(gate, mine, {"HTTP_COOKIE": cookie})
    with pytest.raises(AccessError):
        require(gate, first, {"HTTP_COOKIE": f"heartwatch_session={first.session_id}"})


def test_tokens_say_nothing_of_people_and_get_old(clock: Clock) -> None:
    people = PersonTokens(seconds=100, clock=clock)
    token = people.token("12345")
    assert "12345" not in token
    assert len(token) >= 24
    assert people.token("12345") == token
    assert people.token("12346") != token
    clock.now += 60
    assert people.subject(token) == "12345"
    assert people.token("12345") != token, "a link that is shown now holds for half of the time at least"
    clock.now += 60
    assert people.subject(token) is None
    assert people.subject("made up") is None


def test_a_crowd_of_visitors_pushes_nobody_out(gate: Gate) -> None:
    before = gate.visit(None)
    session = gate.sign_in(before.session_id, before.form_token, "the secret", "1.2.3.4")
    for _ in range(1_001):
        gate.visit(None)
    gate.require(session.session_id)
