"""An analytic is found by its folder name, and every name comes from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartwatch.analytic import Analytic, AnalyticError
from heartwatch.settings import ROOT

HEART_RATE = Analytic.load("heart_rate", 1)


def test_every_resource_carries_analytic_and_version() -> None:
    assert HEART_RATE.topic("realtime") == "heart_rate_realtime_v1"
    assert Analytic.load("heart_rate", 12).name("alerts_sink") == "heart_rate_alerts_sink_v12"


def test_variables_are_parameters_and_names() -> None:
    variables = HEART_RATE.variables({"still_degrees": 0.00005, "grace_ms": 5_000})
    assert variables["still_degrees"] == "0.00005"
    assert variables["grace_ms"] == "5000"
    assert variables["window_ms"] == "10000"
    assert variables["realtime_stream"] == variables["realtime_topic"] == "heart_rate_realtime_v1"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(AnalyticError, match=r"no topic 'realtim'.*'realtime'"):
        HEART_RATE.topic("realtim")
    with pytest.raises(AnalyticError, match=r"no KSQL variables \['window'\].*'window_ms'"):
        HEART_RATE.variables({"window": 5})
    with pytest.raises(AnalyticError, match=r"no analytic 'sleep'; known are \['heart_rate'\]"):
        Analytic.load("sleep", 1)


def test_another_analytic_needs_only_files(tmp_path: Path) -> None:
    folder = tmp_path / "schemas" / "steps"
    folder.mkdir(parents=True)
    (folder / "analytic.toml").write_text(
        '[topics.walks]\nschema = "walks.avsc"\nkey = "device"\ncleanup_policy = "delete"\n[variables]\nfloor = 3\n'
    )
    steps = Analytic.load("steps", 2, root=tmp_path)
    assert steps.topic("walks") == "steps_walks_v2"
    assert steps.variables()["floor"] == "3"


def test_a_wrong_definition_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "schemas" / "steps"
    folder.mkdir(parents=True)
    (folder / "analytic.toml").write_text('[topics.walks]\nschema = "walks.avsc"\n[variables]\n')
    with pytest.raises(AnalyticError, match="key"):
        Analytic.load("steps", 1, root=tmp_path)


WALKS = '[topics.walks]\nschema = "walks.avsc"\nkey = "device"\ncleanup_policy = "delete"\n[variables]\n'


def steps(root: Path, definition: str) -> Analytic:
    """Return an analytic of another name, with this definition."""
    folder = root / "schemas" / "steps"
    folder.mkdir(parents=True)
    (folder / "analytic.toml").write_text(definition)
    return Analytic.load("steps", 2, root=root)


def test_topics_are_found_by_the_role_that_the_file_assigns(tmp_path: Path) -> None:
    assert (HEART_RATE.stream, HEART_RATE.table, HEART_RATE.results) == ("realtime", "historical", "alerts")
    assert HEART_RATE.stream_topic == "heart_rate_realtime_v1"
    assert HEART_RATE.table_topic == "heart_rate_historical_v1"
    assert HEART_RATE.results_topic == "heart_rate_alerts_v1"
    assert steps(tmp_path, WALKS + '[roles]\nstream = "walks"\n').stream_topic == "steps_walks_v2"


def test_a_role_without_a_topic_is_named_when_it_is_needed(tmp_path: Path) -> None:
    analytic = steps(tmp_path, WALKS)
    with pytest.raises(AnalyticError, match=r"'steps' assigns no topic the role 'results'; add .*\['walks'\]"):
        _ = analytic.results_topic


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ('stream = "walk"', r"roles.stream = 'walk' is not a topic of the file; it has \['walks'\]"),
        ('stream = "walks"\nresults = "walks"', "name a topic twice"),
        ('streams = "walks"', "roles.streams"),
    ],
)
def test_a_role_that_cannot_be_assigned_is_refused(tmp_path: Path, roles: str, reason: str) -> None:
    with pytest.raises(AnalyticError, match=reason):
        steps(tmp_path, f"{WALKS}[roles]\n{roles}\n")


def test_no_word_of_an_analytic_outside_its_folders() -> None:
    """The simulator and the analytic's own folders may speak of heart rates; the code that every analytic shares may not."""
    words = ("heart_rate", "latitude", "zipcode", "min_heart", "max_heart")
    shared = [
        path
        for folder in ("kafkakit/src", "ksqlengine/src", "heartwatch")
        for path in (ROOT / folder).rglob("*.py")
        if not {"simulate", "ranges", "files"} & set(path.relative_to(ROOT).parts)
    ]
    assert shared
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for path in shared
        for word in words
        for line in path.read_text(encoding="utf-8").splitlines()
        if word in line
        and "DEFAULT_ANALYTIC" not in line
        and '"""' not in line
        and not line.strip().startswith(("#", "heart_rate/"))
    }
    assert found == set()


NOT_A_TOPIC = {
    ("heartwatch/report/day.py", "alerts"): "a figure of the report: the number of results",
    ("heartwatch/settings.py", "historical"): "the default of a setting: a table of the database",
    ("heartwatch/verify/render_detections.py", "alerts"): "the label of a plotted figure",
    ("heartwatch/web/pages/alerts.py", "alerts"): "the name of the file that a viewer saves",
    ("heartwatch/demo.py", "alerts"): "a field of the flow's result",
    ("heartwatch/run_report.py", "alerts"): "the label of a figure",
    ("heartwatch/report/render.py", "alerts"): "the label of a figure",
    ("tasks/result.py", "alerts"): "the name of an artifact",
}


def test_no_topic_of_an_analytic_is_named_outside_its_own_files() -> None:
    """The code that every analytic shares asks for the topic of a role; the simulator and the ranges are an analytic's own."""
    shared = [
        path
        for folder in ("kafkakit/src", "ksqlengine/src", "heartwatch", "tasks", "flows")
        for path in (ROOT / folder).rglob("*.py")
        if not {"simulate", "ranges", "files"} & set(path.relative_to(ROOT).parts)
    ]
    assert shared
    found = {
        (str(path.relative_to(ROOT)), topic)
        for path in shared
        for text in texts(path)
        for topic in HEART_RATE.topics
        if names(text, topic)
    }
    assert found == NOT_A_TOPIC.keys()


def texts(path: Path) -> Iterator[str]:
    """Return the literals of a module, those of f-strings too, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def names(text: str, topic: str) -> bool:
    """Tell whether a literal is a topic's name, or has it as a stage, a KSQL variable or a statement has."""
    return bool(re.search(rf"^{topic}$|\b{topic}([ _])(topic|stream|table|sink)\b|\b(?i:from|join)\s+{topic}\b", text))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("realtime", True),
        ("realtime topic", True),
        ("${realtime_stream}", True),
        ("SELECT 1 FROM realtime", True),
        ("load-historical", False),
        ("the realtime of it", False),
    ],
)
def test_literals_that_name_a_topic_are_told_apart(text: str, named: bool) -> None:
    assert any(names(text, topic) for topic in HEART_RATE.topics) is named
