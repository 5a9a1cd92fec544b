"""A plan as data: differences, inverses, and a failed apply that leaves what was there."""

import pickle

import pytest

from heartwatch.deploy.plan import Change, DeployError, Plan, RefusedPlanError, apply, compare, take_back


class Resources:
    """Resources in memory, carried out as a real deployer does; some can't be made."""

    def __init__(self, state: dict[str, dict[str, str]], broken: tuple[str, ...] = ()) -> None:
        self.state = state
        self.broken = broken

    def plan(self) -> Plan:
        return Plan()

    def carry_out(self, change: Change) -> None:
        if change.after is None:
            self.state.pop(change.resource, None)
            return
        self.state[change.resource] = dict(change.after)
        if change.resource in self.broken:
            raise RuntimeError("half made")


def test_compare_tells_create_update_and_unchanged_apart():
    assert compare("topic", "t", None, {"a": "1"}).action == "create"
    assert compare("topic", "t", {"a": "1"}, {"a": "1"}).action == "unchanged"
    change = compare("topic", "t", {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    assert (change.action, change.reason) == ("update", "differs in b, c")
    assert change.row()["difference"] == "b: 2 → 3; c: none → 4"


def test_a_failed_apply_takes_back_what_it_did_and_the_half_made_change():
    before = {"old": {"a": "1"}, "kept": {"z": "9"}}
    resources = Resources({name: dict(state) for name, state in before.items()}, broken=("bad",))
    plan = Plan(
        (
            compare("x", "old", before["old"], {"a": "2"}),
            compare("x", "kept", before["kept"], before["kept"]),
            compare("x", "new", None, {"b": "1"}),
            compare("x", "bad", None, {"c": "1"}),
            compare("x", "never", None, {"d": "1"}),
        )
    )
    with pytest.raises(
        DeployError, match=r"can't create x 'bad': half made\nall 3 change\(s\) of this deploy were taken back"
    ):
        apply(plan, resources)
    assert resources.state == before


def test_what_can_not_be_taken_back_is_named():
    class Stubborn(Resources):
        def carry_out(self, change: Change) -> None:
            if change.action == "delete":
                raise RuntimeError("in use")
            super().carry_out(change)

    outcome = take_back([compare("x", "a", None, {"a": "1"})], Stubborn({}))
    assert outcome == "could not take back, look after these yourself: x 'a': in use"


def test_a_refused_plan_changes_nothing():
    resources = Resources({})
    plan = Plan((compare("x", "a", None, {"a": "1"}), Change("x", "b", "refused", "would break keys")))
    with pytest.raises(RefusedPlanError, match="nothing was changed: x 'b': would break keys"):
        apply(plan, resources)
    assert resources.state == {}


def test_apply_returns_what_it_did_and_plans_travel():
    plan = Plan((compare("x", "a", None, {"a": "1"}), compare("x", "b", {}, {})))
    assert apply(pickle.loads(pickle.dumps(plan)), Resources({})).summary() == "1 create"  # noqa: S301
    assert plan.summary() == "1 create, 1 unchanged"
    assert (plan + plan).rows()[3]["resource"] == "b"
