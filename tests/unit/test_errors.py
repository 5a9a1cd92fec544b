"""Exceptions have one root a package, and what drops out of a program is one sentence."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from heartwatch import cli
from heartwatch.errors import HeartWatchError, one_sentence
from heartwatch.settings import ROOT
from kafkakit.errors import KafkaKitError
from ksqlengine.errors import KsqlEngineError

ROOTS = {
    "kafkakit": KafkaKitError,
    "ksqlengine": KsqlEngineError,
    "heartwatch": HeartWatchError,
    "tasks": HeartWatchError,
    "flows": HeartWatchError,
}


def exceptions(package: str) -> Iterator[type[BaseException]]:
    """Import a package's modules and return the exceptions that they define."""
    folder = importlib.import_module(package)
    found_names = (module.name for module in pkgutil.walk_packages(folder.__path__, f"{package}."))
    # A `__main__` runs its program when it is imported.
    names = [package, *(name for name in found_names if not name.endswith("__main__"))]
    for module in map(importlib.import_module, names):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, BaseException) and found.__module__ == module.__name__:
                yield found


@pytest.mark.parametrize("package", ROOTS)
def test_every_exception_derives_from_the_root_of_its_package(package: str) -> None:
    found = list(exceptions(package))
    assert found or package == "tasks", "the tasks have none of their own today"
    assert [one for one in found if not issubclass(one, ROOTS[package])] == []


@pytest.mark.parametrize("package", ["kafkakit", "ksqlengine", "heartwatch"])
def test_the_tree_of_exceptions_is_drawn_as_it_is(package: str) -> None:
    text = importlib.import_module(f"{package}.errors").__doc__ or ""
    root = ROOTS[package]
    drawn: list[tuple[str, str]] = []
    above = [root.__name__]
    for indent, name in re.findall(r"^ {4}((?:[│ ] {3})*)[├└]── \(?(\w+)", text, flags=re.MULTILINE):
        depth = len(indent) // 4
        # The page's exceptions stand together below the root.
        above[depth + 1 :] = [root.__name__ if name == "web" else name]
        drawn += [(name, above[depth])] if name != "web" else []
    assert sorted(drawn) == sorted(
        (one.__name__, one.__bases__[0].__name__) for one in exceptions(package) if one is not root
    )


def test_a_root_error_ends_a_program_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for root in (HeartWatchError, KafkaKitError, KsqlEngineError):
        with pytest.raises(SystemExit) as ended, one_sentence("program"):
            raise root("no such thing: 'x'; name another one")
        assert ended.value.code == 1
        assert capsys.readouterr().err == "program: no such thing: 'x'; name another one\n"


def test_an_error_that_nobody_expects_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_sentence("program"):
        raise ZeroDivisionError


def test_the_command_line_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        raise KafkaKitError("the brokers don't answer")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "heartwatch: the brokers don't answer\n"


def test_the_command_line_imports_nothing_slow() -> None:
    slow = {"polars", "pyarrow", "pydantic", "confluent_kafka", "prefect", "httpx", "numpy"}
    code = f"import sys, heartwatch.cli; print(sorted({slow} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
