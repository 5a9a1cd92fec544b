"""Automations as files: one each under `deployments/automations/`, in the form that Prefect's own command takes.

What differs by server stands as ``${name}``: ids of deployments (``${deployment:flow/name}``) and of the block that notifies, and
limits of the settings. An automation that names something that isn't there is left out, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heartwatch.errors import HeartWatchError
from heartwatch.settings import ROOT

FOLDER = ROOT / "deployments" / "automations"
PREFIX = "heartwatch: "
"""How the names of all our automations begin: those of other programs on the server stay untouched."""

_NAME = re.compile(r"\$\{([^}]+)\}")


class AutomationError(HeartWatchError):
    """An automation's file can't be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class AutomationFiles:
    """What the files say.

    Attributes:
        wanted: automations by name, as Prefect takes them.
        left_out: automations by name, with what they lack.
    """

    wanted: dict[str, dict[str, Any]]
    left_out: dict[str, str]


def read_automations(values: Mapping[str, Any], folder: Path = FOLDER) -> AutomationFiles:
    """Read the automations' files.

    Args:
        values: what stands for each ``${name}``.
        folder: where the files are.

    Raises:
        AutomationError: a file is no YAML, or its automation has no name or one that doesn't begin as ours do.
    """
    wanted: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise AutomationError(f"automation {path.name!r} is not valid YAML: {error}; fix it") from error
        name = content.get("name") if isinstance(content, dict) else None
        if not isinstance(name, str) or not name.startswith(PREFIX):
            raise AutomationError(f"automation {path.name!r} has the name {name!r}; let it begin with {PREFIX!r}")
        missing = sorted({found for found in _NAME.findall(path.read_text(encoding="utf-8")) if found not in values})
        if missing:
            left_out[name] = f"for want of {', '.join(missing)}"
        else:
            wanted[name] = _filled(content, values)
    return AutomationFiles(wanted, left_out)


def _filled(content: Any, values: Mapping[str, Any]) -> Any:
    """Return the content with every ``${name}`` replaced; the templates in ``{{ … }}`` are Prefect's and stay.

    A text that is nothing else becomes the value itself, a number for a number.
    """
    if isinstance(content, dict):
        return {key: _filled(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(value, values) for value in content]
    if isinstance(content, str):
        if whole := _NAME.fullmatch(content):
            return values[whole.group(1)]
        return _NAME.sub(lambda found: str(values[found.group(1)]), content)
    return content
