"""Every source that a run can name: shards together send all of it once, and any batch can be asked for by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heartwatch.analytic import Analytic
from heartwatch.produce.messages import Encoder
from heartwatch.produce.planning import wait_ahead
from heartwatch.produce.run import Source
from heartwatch.produce.sources import first_event_ms, open_source, shards_of
from heartwatch.produce.spec import RunSpec
from heartwatch.produce.table_source import SourceError
from kafkakit import avro_codec

ANALYTIC = Analytic.load("heart_rate", 1)
SCHEMA = avro_codec.parse(ANALYTIC.schema_text("realtime"))
START = 1_740_000_000_000
SAMPLE = {"zipcode": 10001, "latitude": 40.7, "longitude": -74.0, "heart_rate": 70}


def spec(tmp_path: Path, source: str, **fields: object) -> RunSpec:
    if source == "file":
        path = tmp_path / "events.jsonl"
        rows = [{"user_id": str(row % 50), "event_time": START + row * 100, **SAMPLE} for row in range(500)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        fields["path"] = str(path)
    if source == "recordings":
        points = "".join(
            f'<trkpt lat="{40.7 + row / 1e4}" lon="-74"><time>2024-05-01T10:00:{row:02d}Z</time><extensions>'
            f"<TrackPointExtension><hr>{120 + row}</hr></TrackPointExtension></extensions></trkpt>"
            for row in range(50)
        )
        path = tmp_path / "run.gpx"
        path.write_text(f'<gpx version="1.1" creator="test"><trk><trkseg>{points}</trkseg></trk></gpx>')
        fields["path"] = str(path)
    given = {
        "people": 50,
        "events": 500,
        "seed": 3,
        "start_ms": START,
        "batch_events": 90,
        "partitions": 4,
        "faults": False,
    }
    return RunSpec.model_validate({"run_id": "r", "source": source, "processes": 2, **given, **fields})


def sent(run: RunSpec, tmp_path: Path) -> list[tuple[int, int, str, int]]:
    """Return (shard, partition, user, time) of every event."""
    found = []
    for shard in shards_of(run):
        source = open_source(run, shard, ANALYTIC, 7, tmp_path / "rejects")
        encoder = Encoder(SCHEMA, 7, "user_id", "event_time", run.partitions, shard.partitions)
        for messages in map(encoder.encode, batches(source)):
            found += [
                (shard.index, *row) for row in zip(messages.partitions, messages.keys, messages.timestamps, strict=True)
            ]
    return [(shard, partition, key.decode(), time) for shard, partition, key, time in found]


def batches(source: Source):
    index = 0
    while (events := source.batch(index)) is not None:
        yield events
        index += 1


@pytest.mark.parametrize("source", ["simulator", "uniform", "recordings", "file"])
@pytest.mark.parametrize("limit", [{"events_per_second": 40}, {"speed": 1}, {"speed": 0.5, "events_per_second": 1_000}])
def test_a_slow_run_sends_a_little_every_half_second(tmp_path: Path, source: str, limit: dict[str, float]) -> None:
    run = spec(tmp_path, source, batch_events=20_000, people=50, **limit)
    for shard in shards_of(run):
        found = [len(batch.columns) for batch in batches(open_source(run, shard, ANALYTIC, 7, tmp_path / "rejects"))]
        # Half a second's events and some late ones; the samples of recordings fall on whole seconds.
        assert max(found) <= 50
    assert sorted(sent(run, tmp_path)) == sorted(sent(spec(tmp_path, source, people=50), tmp_path))


@pytest.mark.parametrize("source", ["simulator", "uniform", "recordings", "file"])
def test_shards_together_send_everything_once(tmp_path: Path, source: str) -> None:
    events = sent(spec(tmp_path, source), tmp_path)
    expected = 50 * 50 if source == "recordings" else 500
    assert expected * 0.9 <= len(events) <= expected, "devices of the simulator are off now and then"
    assert all(partition % 2 == shard for shard, partition, _, _ in events)
    assert sent(spec(tmp_path, source, processes=1), tmp_path) != []
    one = sorted(event[1:] for event in sent(spec(tmp_path, source, processes=1), tmp_path))
    assert one == sorted(event[1:] for event in events), "the cut into shards changes nothing"


@pytest.mark.parametrize("source", ["simulator", "uniform", "recordings", "file"])
def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path: Path, source: str) -> None:
    run = spec(tmp_path, source)
    opened = [open_source(run, shards_of(run)[0], ANALYTIC, 7, tmp_path / "rejects") for _ in range(2)]
    forward = list(batches(opened[0]))
    assert len(forward) > 1
    for index in reversed(range(len(forward))):
        again = opened[1].batch(index)
        assert again is not None
        assert again.columns.equals(forward[index].columns)
        assert again.due_ms == forward[index].due_ms


def test_a_run_that_has_to_wait_for_its_events_says_how_long(tmp_path: Path) -> None:
    planned = {"start_ms": START, "waits": True, "events": 50 * 300}
    run = spec(tmp_path, "simulator").model_copy(update=planned)
    last = START + 300 * 2_000
    assert "in 5 minutes" in wait_ahead(run, last - 5 * 60_000)
    assert wait_ahead(run, last) == "", "they have all happened"
    for unlike in ({"waits": False}, {"speed": 1.0}, {"repeat": 0}, {"source": "file"}):
        assert wait_ahead(run.model_copy(update=unlike), last - 5 * 60_000) == "", unlike


@pytest.mark.parametrize("source", ["simulator", "uniform", "recordings", "file"])
def test_without_end_there_is_always_another_batch(tmp_path: Path, source: str) -> None:
    run = spec(tmp_path, source, repeat=0)
    opened = open_source(run, shards_of(run)[0], ANALYTIC, 7, tmp_path / "rejects")
    assert opened.batch(100_000) is not None


def test_a_run_begins_after_every_earlier_window(tmp_path: Path) -> None:
    run = spec(tmp_path, "simulator")
    now, variables = START + 3_456, {"window_ms": "10000", "grace_ms": "5000"}
    length = 500 // 50 * 2_000
    first = first_event_ms(run, None, now, variables)
    assert first % 10_000 == 0
    assert now - length - 20_000 < first <= now - length, "its last event is not in the future"
    closed = first_event_ms(run.model_copy(update={"close_after_ms": 25_000}), None, now, variables)
    assert closed <= now - length - 25_000, "nor are those that close its windows"
    assert first_event_ms(run, now - 1_000, now, variables) >= now - 1_000 + 25_000
    assert first_event_ms(run, now + 10**12, now, variables) <= now + 35_000, (
        "a wrong clock's event is nobody's beginning"
    )
    real_time = first_event_ms(run.model_copy(update={"speed": 1.0}), None, now, variables)
    assert 0 <= real_time - now < 10_000
    quicker = first_event_ms(run.model_copy(update={"speed": 4.0}), None, now, {})
    assert quicker + length == now + length // 4, "it ends when its last event happens"
    assert first_event_ms(run, None, now, {}) == now - length
    assert first_event_ms(spec(tmp_path, "recordings"), None, now, {}) == now - 49_000
    assert first_event_ms(spec(tmp_path, "simulator", repeat=0), None, now, {}) == now


@pytest.mark.parametrize(
    ("source", "fields", "words"),
    [
        ("file", {"path": None}, "needs path"),
        ("recordings", {"path": None}, "needs path"),
        ("recordings", {"path": "nowhere.gpx"}, "nowhere.gpx"),
        ("simulator", {"ranges": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_a_source_that_is_no_use_is_refused(tmp_path: Path, source: str, fields: dict[str, object], words: str) -> None:
    run = spec(tmp_path, "simulator").model_copy(update={"source": source, **fields})
    with pytest.raises(SourceError, match=words):
        open_source(run, shards_of(run)[0], ANALYTIC, 7, tmp_path / "rejects")


@pytest.mark.parametrize("source", ["simulator", "uniform", "recordings", "file"])
def test_a_run_ends_with_events_that_close_every_window(tmp_path: Path, source: str) -> None:
    plain, closed = (sent(spec(tmp_path, source, close_after_ms=late), tmp_path) for late in (0, 20_000))
    extra = closed.copy()
    for event in plain:
        extra.remove(event)
    newest = {shard: max(time for one, _, _, time in plain if one == shard) for shard in (0, 1)}
    assert {(shard, time) for shard, _, _, time in extra} == {(shard, time + 20_000) for shard, time in newest.items()}
    assert {partition for _, partition, _, _ in extra} == {0, 1, 2, 3}
    assert len(extra) == len({user for _, _, user, _ in extra}) <= 4 * 5
    run = spec(tmp_path, source, close_after_ms=20_000)
    opened = open_source(run, shards_of(run)[0], ANALYTIC, 7, tmp_path / "rejects")
    last = len(list(batches(opened))) - 1
    again = open_source(run, shards_of(run)[0], ANALYTIC, 7, tmp_path / "rejects")
    first, second = opened.batch(last), again.batch(last)
    assert first is not None
    assert second is not None
    assert first.columns.equals(second.columns), "a process that begins here sends the same"


NUMBERS = st.one_of(st.integers(0, 10), st.integers(0, 10**40), st.sampled_from([10**9, 2**31, 2**63, 2**64]))
RATES = st.one_of(st.none(), st.floats(), st.sampled_from([1e-300, 1e300, 1.0]))


@settings(max_examples=100, deadline=None)
@given(
    source=st.sampled_from(["simulator", "uniform"]),
    counts=st.fixed_dictionaries({name: NUMBERS for name in ("seed", "events", "repeat", "stagger_ms")}),
    people=st.integers(-1, 200),
    rates=st.fixed_dictionaries({name: RATES for name in ("speed", "events_per_second")}),
)
@example("simulator", {"seed": 1, "events": 10**12, "repeat": 1, "stagger_ms": 0}, 50, {})
@example("uniform", {"seed": 1, "events": 1, "repeat": 10**30, "stagger_ms": 0}, 50, {})
@example("simulator", {"seed": 1, "events": 10, "repeat": 1, "stagger_ms": 0}, 50, {"speed": float("inf")})
def test_whatever_numbers_a_run_is_given_it_is_planned_or_refused_in_words(
    source: str, counts: dict[str, int], people: int, rates: dict[str, float | None]
) -> None:
    now_ms = 1_796_000_000_000
    try:
        spec = RunSpec.model_validate({"run_id": "x", "source": source, "people": people, **counts, **rates})
        begin = first_event_ms(spec, None, now_ms, {"window_ms": "10000", "grace_ms": "10000"})
    except (ValidationError, SourceError) as error:
        assert str(error)  # noqa: PT017
        return
    planned = spec.model_copy(update={"start_ms": begin})
    assert RunSpec.model_validate_json(planned.model_dump_json()) == planned
    assert shards_of(planned)
