"""What an analytic's migrations need when they are tested in memory: its variables and schemas."""

from __future__ import annotations

from pathlib import Path

from heartwatch.analytic import Analytic
from ksqlengine.testing.cases import Surroundings


def surroundings_of(folder: Path) -> Surroundings:
    """Return the surroundings of a folder of migrations, ``…/ksql/<analytic>``.

    Raises:
        AnalyticError: there is no such analytic, or its definition is wrong.
    """
    analytic = Analytic.load(folder.name, 1, folder.parents[1])
    schemas = {f"{analytic.name(topic)}-value": analytic.schema_text(topic) for topic in analytic.topics}
    return Surroundings(analytic.variables, schemas)
