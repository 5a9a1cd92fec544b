"""Outcomes of scripts on the clusters' machines, and the plan that a person approves."""

from __future__ import annotations

import re

import pytest

from heartwatch.clusters.errors import MachinesError
from heartwatch.clusters.fleet import Scripts, check_outcomes, outcome_rows, outcomes_sentence
from heartwatch.clusters.machines import Found
from heartwatch.clusters.provision import ProvisionPlan
from heartwatch.clusters.remote_commands import CommandOutcome, Commands
from heartwatch.clusters.spec import ClusterName
from heartwatch.clusters.stack import StackPlan

WELL = CommandOutcome("broker-1", "i-1", "Success", 1.25, "started")
FAILED = CommandOutcome("ksql-1", "i-2", "Failed", 2.0, "pulling\nno space left")
SILENT = CommandOutcome("connect", "i-3", "TimedOut", 600.0, "")
GONE = {"database": "stopped", "website": "not there"}


def test_machines_that_are_gone_have_a_row_too() -> None:
    rows = outcome_rows([WELL, FAILED], GONE)
    assert [(row["machine"], row["status"]) for row in rows] == [
        ("broker-1", "Success"),
        ("ksql-1", "Failed"),
        ("database", "stopped"),
        ("website", "not there"),
    ]
    assert len({tuple(row) for row in rows}) == 1, "the same columns"
    assert outcomes_sentence([WELL, FAILED], GONE) == "1 of 4 machines are well."


def test_well_machines_raise_nothing() -> None:
    check_outcomes([WELL], {})


def test_each_trouble_is_named_with_its_remedy() -> None:
    wanted = (
        "ksql-1 (Failed): no space left; connect (TimedOut): no output; fix these and rerun; healthy machines are left "
        "alone; database (stopped), website (not there): run provision-clusters to replace what died, start in EC2 what was "
        "stopped"
    )
    with pytest.raises(MachinesError, match=f"^{re.escape(wanted)}$"):
        check_outcomes([WELL, FAILED, SILENT], GONE)
    with pytest.raises(MachinesError, match=r"^database"):
        check_outcomes([WELL], {"database": "stopped"})


def test_scripts_get_their_variables_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str, int]] = []

    def run(_: object, machine: Found, script: str, seconds: int) -> CommandOutcome:
        ran.append((machine.name, script, seconds))
        return WELL

    monkeypatch.setattr(Commands, "__init__", lambda *_: None)
    monkeypatch.setattr(Commands, "run", run)
    machine = Found("broker-1", "broker", 1, "i-1", "r5a.large", "running", "a")
    scripts = Scripts(None, ClusterName())  # type: ignore[arg-type]
    assert scripts.start(machine, ("brokers.yaml", "producers.yaml"), wait_seconds=300) == WELL
    assert scripts.stop(machine, ("brokers.yaml",)) == WELL
    (_, start, start_seconds), (_, stop, stop_seconds) = ran
    assert "export ROLES_FILES='brokers.yaml producers.yaml'" in start
    assert "export WAIT_SECONDS=300" in start
    assert "export ROLES_FILES=brokers.yaml" in stop
    assert (start_seconds, stop_seconds) == (1_200, 600)


def test_a_plan_says_in_two_sentences_what_it_does_and_costs() -> None:
    changes = ({"action": "Add", "resource": "A"}, {"action": "Add", "resource": "B"})
    total = {"machines": "12", "USD an hour": "1.50", "USD a billion events": "26.04"}
    plan = ProvisionPlan(
        stack=StackPlan("HeartRateV1", "id", creates=True, changes=changes),
        dead=(),
        costs=[total],
        prices="prices of x",
    )
    costs = "12 machines cost 1.50 USD an hour, 26.04 USD a billion events (prices of x)."
    assert plan.summary == f"Stack HeartRateV1: 2 Add. {costs}"
    dead = plan.model_copy(update={"dead": ("broker-2", "ksql-1")})
    assert dead.summary == f"Stack HeartRateV1: 2 Add. Replaces broker-2, ksql-1, which died. {costs}"
