"""What verify-sink makes of what is found of several sinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flows import verify_sink
from heartwatch.proof.report import SinkReport
from heartwatch.sink.reader import SinkError


def report(topic: str, proven: bool) -> SinkReport:
    sentence = "all there" if proven else "3 missing"
    return SinkReport(
        topic=topic,
        proven=proven,
        sentence=f"{topic}: {sentence}",
        records=9,
        rows=9,
        dead_letters={},
        seconds=1,
        partitions=[],
    )


def prove(monkeypatch: pytest.MonkeyPatch, found: Mapping[str, SinkReport | Exception]) -> tuple[list[str], list[str]]:
    """Have the flow find something of each topic; return what it has published and told."""
    published: list[str] = []
    told: list[str] = []

    def prove_sink(topic: str, *_: Any) -> SinkReport:
        one = found[topic]
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(verify_sink, "find_sinks", lambda _: list(found))
    monkeypatch.setattr(verify_sink, "prove_sink", prove_sink)
    monkeypatch.setattr(verify_sink, "publish_sinks", lambda reports: published.extend(one.topic for one in reports))
    monkeypatch.setattr(verify_sink, "publish_sinks_over_time", lambda *_: None)
    monkeypatch.setattr(verify_sink, "report_incomplete", lambda one: told.append(one.topic))
    return published, told


@pytest.mark.parametrize("unreadable", ["alerts", "realtime"])
def test_a_sink_that_cannot_be_read_hides_nothing_of_another(monkeypatch: pytest.MonkeyPatch, unreadable: str) -> None:
    found: dict[str, SinkReport | Exception] = {topic: report(topic, proven=False) for topic in ("realtime", "alerts")}
    found[unreadable] = SinkError("manifests of a table can't be read")
    published, told = prove(monkeypatch, found)
    with pytest.raises(verify_sink.SinkIncompleteError, match="3 missing; manifests of a table can't be read"):
        verify_sink.verify_sink.fn()
    (other,) = set(found) - {unreadable}
    assert (published, told) == ([other], [other])


def test_a_sink_that_cannot_be_read_fails_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    published, told = prove(
        monkeypatch, {"realtime": SinkError("no manifests"), "alerts": report("alerts", proven=True)}
    )
    with pytest.raises(SinkError, match="no manifests"):
        verify_sink.verify_sink.fn()
    assert (published, told) == (["alerts"], [])
