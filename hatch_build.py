"""Build hook of the `heartwatch` wheel: carry what a run reads beside the code.

An editable install reads the checkout's own files instead, so it gets no copies, which would grow old.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROJECT_FILES = ("deployments", "ksql", "schemas", "prefect.yaml")
"""What `heartwatch.settings.ROOT` holds: a checkout's top, or this folder of an installed wheel."""

FOLDER = "heartwatch/project"


class ProjectFiles(BuildHookInterface):
    """Adds the project's files to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files (hatchling's interface).

        Args:
            version: "standard", or "editable".
            build_data: what hatchling builds from; changed in place.
        """
        if version == "standard":
            places = {str(Path(self.root, name)): f"{FOLDER}/{name}" for name in PROJECT_FILES}
            build_data["force_include"].update(places)
