"""Configuration of the documentation site; `make docs` builds it and treats every warning as an error."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import settings_table  # noqa: E402 - it is beside this file

settings_table.write(HERE / "reference" / "settings.md")

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
