"""What an analytic's migrations need when they are tested in memory: its variables and schemas."""

from __future__ import annotations

from pathlib import Path

from heartwatch.analytic import Analytic
from ksqlengine.language.lexer import split_statements
from ksqlengine.language.rendering import render
from ksqlengine.server.in_memory import InMemoryEngine
from ksqlengine.testing.cases import Surroundings


def surroundings_of(folder: Path) -> Surroundings:
    """Return the surroundings of a folder of migrations, ``…/ksql/<analytic>``.

    Raises:
        AnalyticError: there is no such analytic, or its definition is wrong.
    """
    analytic = Analytic.load(folder.name, 1, folder.parents[1])
    schemas = {f"{analytic.name(topic)}-value": analytic.schema_text(topic) for topic in analytic.topics}
    return Surroundings(analytic.variables, schemas)


def engine_before(file: Path) -> tuple[str, InMemoryEngine]:
    """Return a file's statements, and an engine that holds what there is before them.

    Those of a migration of an analytic have its variables in place, and the migrations before it have run.

    Raises:
        AnalyticError: the file is in a folder of migrations whose analytic's definition is wrong.
        RenderingError: a variable is unknown, or can't stand where it does.
        KsqlError: a migration before it is refused.
        OSError: a file can't be read.
        UnicodeDecodeError: a file isn't UTF-8.
    """
    text, folder = file.read_text(encoding="utf-8"), file.resolve().parent
    if folder.parent.name != "ksql" or not (folder.parents[1] / "schemas" / folder.name).is_dir():
        return text, InMemoryEngine({}, {})
    surroundings = surroundings_of(folder)
    engine, variables = InMemoryEngine({}, surroundings.schemas), surroundings.variables({})
    for path in sorted(folder.glob("V*__*.sql")):
        if path.name < file.name:
            for parsed in split_statements(render(path.read_text(encoding="utf-8"), variables)):
                engine.execute(parsed)
    return render(text, variables), engine
