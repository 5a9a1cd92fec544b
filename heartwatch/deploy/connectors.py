"""Connectors: one JSON file each, a bare configuration map whose file name is the resource.

``${…}`` placeholders are filled from the settings (``${postgres.port}``) and from the analytic (``${name.alerts}`` is the
versioned name of the resource "alerts"). References to Connect's config providers have a colon (``${secrets:file:key}``) and
stay as they are: only Connect sees what is behind them. A placeholder that stands for a whole map (``"value.converter":
"${connect.avro_converter}"``) becomes one entry for each of its keys, "class" being the entry itself. An entry whose
placeholder has no value (no S3 endpoint on AWS) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect, UnknownConnectorError
from heartwatch.deploy.plan import Change, DeployError, Plan, compare
from heartwatch.settings import Settings

Config = dict[str, str]

_PLACEHOLDER = re.compile(r"\$\{([a-z][a-z0-9_.]*)\}")


class ConnectorFileError(DeployError):
    """A connector's file can't be used; the message names the file, the entry and the remedy."""


def connector_configs(analytic: Analytic, settings: Settings) -> dict[str, Config]:
    """Return the configuration of each of an analytic's connectors by its name, sources first.

    Raises:
        ConnectorFileError: a file is not a map of texts, or a placeholder is unknown or secret.
    """
    variables = _settings_variables(settings)
    configs = {}
    for path in _files(analytic, settings):
        name = analytic.name(path.stem)
        configs[name] = {"name": name, **render(read_file(path), analytic, variables, path.name)}
    return dict(sorted(configs.items(), key=lambda item: is_sink(item[1])))


def _files(analytic: Analytic, settings: Settings) -> list[Path]:
    """Return the connectors' files; the generators of ``dev/`` only in dev mode, and only where Connect has their plugin.

    The embedded platform's Connect hasn't: there `produce` with the source "uniform" makes equal events.
    """
    folder = analytic.connectors_folder
    generated = settings.pipeline.mode == "dev" and settings.profile != "local"
    return sorted([*folder.glob("*.json"), *(folder.glob("dev/*.json") if generated else ())])


def read_file(path: Path) -> Config:
    """Read a connector's file.

    Raises:
        ConnectorFileError: it is not a JSON map of texts.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ConnectorFileError(f"connector file {path.name!r} can't be read: {error}; fix it") from error
    if not isinstance(content, dict):
        raise ConnectorFileError(
            f"connector file {path.name!r} holds {type(content).__name__}; write a map of settings"
        )
    wrong = sorted(key for key, value in content.items() if not isinstance(value, str))
    if wrong or "name" in content:
        what = (
            f"values of {wrong!r} are not texts: quote them" if wrong else "the file's name is its name: remove 'name'"
        )
        raise ConnectorFileError(f"connector file {path.name!r}: {what}")
    return content


def render(entries: Mapping[str, str], analytic: Analytic, variables: Mapping[str, Any], file: str) -> Config:
    """Fill in the placeholders of a connector's entries.

    Args:
        entries: what the file holds.
        analytic: gives ``${name.…}``.
        variables: dotted setting → value; a map, None, or something that becomes text.
        file: name for error messages.

    Raises:
        ConnectorFileError: a placeholder is unknown or secret.
    """
    config: Config = {}
    for key, text in entries.items():
        values = [_value(name, analytic, variables, f"{file!r}, entry {key!r}") for name in _PLACEHOLDER.findall(text)]
        if len(values) == 1 and isinstance(values[0], Mapping):
            options = {f"{key}.{option}".removesuffix(".class"): value for option, value in values[0].items()}
            config.update(render(options, analytic, variables, file))
        elif None not in values:
            filled = iter(values)
            config[key] = _PLACEHOLDER.sub(lambda _, filled=filled: _text(next(filled)), text)  # type: ignore[misc]
    return config


def is_sink(config: Mapping[str, str]) -> bool:
    """Tell a sink's configuration from a source's: only sinks read topics."""
    return "topics" in config or "topics.regex" in config


class Connectors:
    """Deploys connectors."""

    def __init__(
        self, connect: Connect, configs: Mapping[str, Config], prepare: Callable[[Config], None] = lambda _: None
    ) -> None:
        """Make a deployer; nothing is asked of Connect yet.

        Args:
            connect: the Connect cluster.
            configs: wanted configuration of each connector by its name.
            prepare: called with a configuration before it is given to Connect, to make what its tasks would race for.
        """
        self._connect = connect
        self._wanted = configs
        self._prepare = prepare

    def plan(self) -> Plan:
        """Compare the connectors' files with Connect; a connector that doesn't run with all its tasks is started again.

        Raises:
            heartwatch.connect.InvalidConnectorError: a new or changed configuration is wrong.
            heartwatch.connect.ConnectError: Connect could not be asked.
        """
        changes = tuple(self._plan_connector(name, config) for name, config in self._wanted.items())
        for change in changes:
            if change.action in {"create", "update"} and change.after is not None:
                self._connect.validate(change.after)
        return Plan(changes)

    def carry_out(self, change: Change) -> None:
        """Create, reconfigure or delete a connector and wait until every task runs or all of it is gone.

        A connector is stopped before it gets another configuration, so that the tasks that are waited for are surely the new
        ones.

        Raises:
            heartwatch.connect.ConnectorFailedError: a task fails or doesn't start.
            heartwatch.connect.ConnectError: Connect refused.
        """
        if change.after is None:
            remove_connector(self._connect, change.resource)
            return
        self._prepare(dict(change.after))
        exists = change.resource in self._connect.connectors()
        if exists:
            self._connect.stop(change.resource)
        self._connect.put(change.after)
        if exists:
            self._connect.resume(change.resource)
        self._connect.wait_running(change.resource)

    def _plan_connector(self, name: str, wanted: Config) -> Change:
        try:
            found = self._connect.config(name)
        except UnknownConnectorError:
            return compare("connector", name, None, wanted)
        change = compare("connector", name, found, wanted)
        if change.action != "unchanged":
            return change
        try:
            status = self._connect.status(name)
        except UnknownConnectorError:
            return Change("connector", name, "update", "has not been started", found, wanted)
        if not status.running:
            return Change("connector", name, "update", f"doesn't run: {status.summary}", found, wanted)
        return change


def remove_connector(connect: Connect, name: str) -> None:
    """Delete a connector with its positions, so that one of the same name starts from the beginning.

    Raises:
        heartwatch.connect.ConnectError: Connect refused.
    """
    try:
        connect.stop(name)
        connect.delete_offsets(name)
    except UnknownConnectorError:
        pass
    connect.delete(name)


def _settings_variables(settings: Settings) -> dict[str, Any]:
    """Return the settings by dotted name, addresses as Connect sees them."""
    variables = dict(_flat("", {name: getattr(settings, name) for name in type(settings).model_fields}))
    variables["postgres.connect_host"] = settings.postgres.connect_host or settings.postgres.host
    variables["postgres.connect_ca_file"] = settings.postgres.connect_ca_file or settings.postgres.ca_file
    variables["registry.converter_url"] = settings.registry.converter_url or settings.registry.url
    return variables


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if fields := getattr(type(value), "model_fields", None):
            yield from _flat(f"{prefix}{name}.", {field: getattr(value, field) for field in fields})
        else:
            yield f"{prefix}{name}", value


def _value(name: str, analytic: Analytic, variables: Mapping[str, Any], where: str) -> Any:
    if name.startswith("name."):
        return analytic.name(name.removeprefix("name."))
    if name not in variables:
        raise ConnectorFileError(
            f"connector file {where}: unknown placeholder {name!r}; use name.<resource> or one of {sorted(variables)!r}"
        )
    if isinstance(variables[name], SecretStr):
        raise ConnectorFileError(
            f"connector file {where}: {name!r} is a secret and would be readable in Connect; refer to it with "
            "${secrets:${connect.secrets_file}:" + name + "}"
        )
    return variables[name]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
