"""The README's examples run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ksqlengine import cli
from ksqlengine.client import shell
from ksqlengine.rest import api as rest

FOLDER = Path(__file__).parents[2]
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_python_examples() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - it is ours


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the server and the prompt were started with, instead of starting them."""
    found: list[str] = []
    monkeypatch.setattr(
        rest, "serve", lambda config, listen, _: found.append(f"{config.kafka.bootstrap_servers} {listen}")
    )
    monkeypatch.setattr(shell, "open_prompt", lambda settings, history: found.append(settings.urls[0]))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return found


def test_the_commands(called: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(FOLDER)
    commands = re.findall(r"^ksqlengine (.*)$", TEXT, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["test", "server", "shell"]
    for command in commands:
        with pytest.raises(SystemExit) as left:
            cli.main(shlex.split(command))
        assert not left.value.code, command
    assert called == ["localhost:9092 127.0.0.1:8088", "http://127.0.0.1:8088"]
    assert capsys.readouterr().out == "1 passed, 0 failed\n"
