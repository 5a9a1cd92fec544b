"""Configuration of the documentation site; `make docs` builds it and treats every warning as an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import settings_table  # noqa: E402 - it is beside this file

settings_table.write(HERE / "reference" / "settings.md")

# Pages that are files of the repository, and what their links lead to on this site.
PAGES = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
    "architecture": "ARCHITECTURE.md",
    "reference/kafkakit": "kafkakit/README.md",
    "reference/ksqlengine": "ksqlengine/README.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


def _on_this_site(link: re.Match[str]) -> str:
    """Return a link between files of the repository as one between pages; as plain text where no page shows the file."""
    text, target = link.groups()
    page = next(
        (name for name, file in PAGES.items() if file == target), target.removeprefix("docs/").removesuffix(".md")
    )
    return f"[{text}](/{page}.md)" if page in PAGES or (HERE / f"{page}.md").exists() else text


def put_in_repository_files(_app: Any, page: str, source: list[str]) -> None:
    """Give a page the text of the file that it shows (a handler of Sphinx's event `source-read`)."""
    if page in PAGES:
        source[0] = _LINK.sub(_on_this_site, (ROOT / PAGES[page]).read_text(encoding="utf-8"))


def setup(app: Any) -> None:
    """Connect the handlers (Sphinx's interface)."""
    app.connect("source-read", put_in_repository_files)


project = "HeartWatch"
author = "the HeartWatch engineers"
release = version = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.napoleon", "autoapi.extension", "sphinx_copybutton"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Diagrams are drawn where a viewer can: GitHub draws the same block. Here it stays readable text.
myst_fence_as_directive = []

html_theme = "furo"
html_title = "HeartWatch"
html_show_sphinx = False

napoleon_use_ivar = True  # the attributes themselves are documented by autoapi

autoapi_dirs = [str(ROOT / "kafkakit/src"), str(ROOT / "ksqlengine/src"), str(ROOT / "heartwatch")]
autoapi_root = "reference/api"
autoapi_ignore = ["*/static/*", "*/templates/*"]
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_member_order = "groupwise"
autoapi_keep_files = False
autoapi_add_toctree_entry = False

# Docstrings name types of other libraries without links; a docstring's own markup is checked.
suppress_warnings = ["autoapi.python_import_resolution", "misc.highlighting_failure", "ref.python"]
