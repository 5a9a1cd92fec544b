"""Writes the reference of all settings from the models that define them, so that the page can't fall behind the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from heartwatch.settings import Settings

INTRODUCTION = """# Settings

Made from `heartwatch.settings` when this site is built. A value comes, the first found wins, from: an
argument, the environment variable below, the profile's file `deployments/profiles/<profile>.toml`, and for the profile `local`
the addresses that the embedded platform wrote when it started. Lists and maps are written as JSON in an environment variable.
"""


def write(path: Path) -> None:
    """Write the page.

    Args:
        path: the Markdown file.
    """
    path.write_text("\n".join([INTRODUCTION, *_page()]) + "\n", encoding="utf-8")


def _page() -> Iterator[str]:
    sections = {name: model for name, field in Settings.model_fields.items() if (model := _section(field)) is not None}
    own = {name: field for name, field in Settings.model_fields.items() if name not in sections}
    yield from _table("The process", "HEARTWATCH_", own)
    for name, model in sections.items():
        summary = (model.__doc__ or "").strip().splitlines()[0]
        yield from _table(f"{name}: {summary.rstrip('.')}", f"HEARTWATCH_{name.upper()}__", model.model_fields)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(title: str, prefix: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield from (f"## {title}", "", "| variable | default | what it is |", "|---|---|---|")
    for name, field in fields.items():
        yield f"| `{prefix}{name.upper()}` | {_default(name, field)} | {_cell(field.description or '')} |"
    yield ""


def _default(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if name == "home":  # an absolute path, another one on each machine
        return "`.heartwatch` in the project's folder"
    if value is PydanticUndefined:
        return ""
    return "(secret)" if isinstance(value, SecretStr) else f"`{_cell(repr(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
