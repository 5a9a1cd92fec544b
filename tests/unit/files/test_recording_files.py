"""Recordings of any vendor are read as far as they go; what is left out is counted by reason and kept."""

import bz2
import gzip
import io
import json
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import fit_bytes
import pyarrow as pa
import pytest
from fit_bytes import HR, HR_NUMBER, RECORD, RECORD_NUMBER, START, UINT8, definition, fit, record, workout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartwatch.files.recordings import RecordingError, RecordingReport, read_recording, read_recordings, survey
from heartwatch.files.rejects import RejectFile

BEGIN = datetime(2024, 5, 1, 10, tzinfo=UTC)
RATE = "<gpxtpx:TrackPointExtension><gpxtpx:hr>{}</gpxtpx:hr></gpxtpx:TrackPointExtension>"


def point(second: float = 0, rate: object = 70, time: str | None = None, place: str = 'lat="40.0" lon="-20.0"') -> str:
    when = (BEGIN + timedelta(seconds=second)).isoformat().replace("+00:00", "Z") if time is None else time
    inner = str(rate) if str(rate).startswith("<") else RATE.format(rate)
    return f"<trkpt {place}><ele/><time>{when}</time><extensions>{inner}</extensions></trkpt>"


def gpx(*points: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>\n', name: str = "Walk") -> str:
    spaces = 'xmlns="http://www.topografix.com/GPX/1/1" xmlns:gpxtpx="http://www.garmin.com/xmlschemas/TrackPointExtension/v1"'
    return f"{head}<gpx {spaces}><trk><name>{name}</name><trkseg>\n" + "\n".join(points) + "</trkseg></trk></gpx>\n"


def tcx(*laps: str) -> str:
    space = "http://www.garmin.com/xmlschemas/TrainingCenterDatabase/v2"
    root = "TrainingCenterDatabase"
    return f'<?xml version="1.0"?><{root} xmlns="{space}"><Activities>{"".join(laps)}</Activities></{root}>'


def lap(*seconds: int, time: str = "{}Z", rate: str = "<Value>{}</Value>", extra: str = "") -> str:
    points = "".join(
        f"<Trackpoint><Time>{time.format((BEGIN + timedelta(seconds=second)).isoformat()[:19])}</Time><Position>"
        "<LatitudeDegrees>40</LatitudeDegrees><LongitudeDegrees>-20</LongitudeDegrees></Position>"
        f"<HeartRateBpm>{rate.format(70 + second)}</HeartRateBpm></Trackpoint>"
        for second in seconds
    )
    return f'<Activity Sport="Running"><Lap StartTime="x">{extra}<Track>{points}</Track></Lap></Activity>'


def read(tmp_path: Path, name: str, content: str | bytes) -> RecordingReport:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    [report] = survey(path)
    return report


MINUTE = gpx(*(point(second, 70 + second % 10) for second in range(60)))


@pytest.mark.parametrize(
    "content",
    [
        MINUTE.encode("utf-8-sig"),
        MINUTE.replace("UTF-8", "UTF-16").encode("utf-16"),
        MINUTE.replace("UTF-8", "UTF-16").encode("utf-16-be"),
        MINUTE.replace("UTF-8", "utf-16").encode(),
        MINUTE.replace("Walk", "Café").replace("UTF-8", "ISO-8859-1").encode("latin-1"),
        MINUTE.replace("Walk", "Café").replace("UTF-8", "windows-1252").encode("cp1252"),
        MINUTE.replace("Walk", "Прогулка").replace("UTF-8", "windows-1251").encode("cp1251"),
        MINUTE.replace("Walk", "Café").encode("latin-1"),
        MINUTE.replace("UTF-8", "no-such-code").encode(),
        ("  \r\n\t" + MINUTE + "\n \0\0").encode(),
        MINUTE.replace("\n", "\r").encode(),
        MINUTE.replace("Walk", "Run & ride &nbsp; \x02").encode(),
        MINUTE.replace("gpxtpx:", "ns3:").encode(),  # a prefix that nobody declared
        MINUTE.replace("Z</time>", "</time>").encode(),
        MINUTE.replace("Z</time>", ".1234567891+00:00</time>").encode(),
        MINUTE.replace("<time>", "<time>\n ").replace("</time>", "\t</time>").encode(),
        MINUTE.replace("<ele/>", "<ele>high</ele><sat>many</sat><extra><time>never</time></extra>").encode(),
        MINUTE.replace('lat="40.0"', 'lat=" 40,0 "').encode(),
        gzip.compress(MINUTE.encode()),
    ],
)
def test_a_track_in_any_encoding_is_read_whole(tmp_path: Path, content: bytes):
    report = read(tmp_path, "run.gpx", content)
    assert report.refused is None
    assert (report.frame.height, report.left_out) == (60, {})
    assert report.frame["heart_rate"].to_list() == [70 + second % 10 for second in range(60)]
    assert report.frame["event_time"][0].replace(microsecond=0) == BEGIN


@pytest.mark.parametrize(
    "tag",
    [
        "<heartrate>{}</heartrate>",
        "<HeartRate>{}</HeartRate>",
        "<heart_rate>{}</heart_rate>",
        "<gpxdata:hr>{}</gpxdata:hr>",
        '<hr value="{}"/>',
        '<st:heartRate bpm="{}"/>',
        "<hr>{} BPM</hr>",
        "<hr>{}/min</hr>",
        "<ns3:TrackPointExtension><ns3:hr>{}</ns3:hr></ns3:TrackPointExtension>",
        "<HeartRateBpm><Value>{}</Value></HeartRateBpm>",
        "<gpxtpx:TrackPointExtension><gpxtpx:atemp>7</gpxtpx:atemp><gpxtpx:hr> {}.0 </gpxtpx:hr></gpxtpx:TrackPointExtension>",
    ],
)
def test_a_heart_rate_is_found_in_any_vendors_tag(tmp_path: Path, tag: str):
    report = read(tmp_path, "run.gpx", gpx(*(point(second, tag.format(80 + second)) for second in range(3))))
    assert report.frame["heart_rate"].to_list() == [80, 81, 82]


@pytest.mark.parametrize(
    ("bad", "reason", "kind"),
    [
        (point(1, "--"), "no heart rate: '--'", "no heart rate"),
        (point(1, "nan"), "no heart rate: 'nan'", "no heart rate"),
        (point(1, ""), "no heart rate", "no heart rate"),
        (point(1, 0), "heart rate '0' is outside 20 to 250", "heart rate outside 20 to 250"),
        (point(1, place=""), "no position", "no position"),
        (point(1, place='lat="" lon="7"'), "no position", "no position"),
        (point(1, place='lat="north" lon="7"'), "no position: 'north', '7'", "no position"),
        (point(1, place='lat="0.000" lon="-0"'), "no fix: exactly 0, 0", "no fix: exactly 0, 0"),
        (point(1, place='lat="0.0000001" lon="-1e-9"'), "no fix: exactly 0, 0", "no fix: exactly 0, 0"),
        (
            point(1, place='lat="90.1" lon="7"'),
            "position '90.1', '7' is outside the earth",
            "position outside the earth",
        ),
        (point(time=""), "no time", "no time"),
        (point(time="soon"), "time 'soon' is neither ISO 8601", "no plausible time"),
        (point(time="1970-01-01T00:00:01Z"), "time '1970-01-01T00:00:01Z' is before 2000", "no plausible time"),
        (point(time="2099-01-01T00:00:01Z"), "time '2099-01-01T00:00:01Z' is in the future", "no plausible time"),
        (point(0), "an earlier sample has the same time", "repeated time"),
        ("<trkpt lat='1' lon='1'><time>x</oops></trkpt>", "damaged XML: mismatched tag", "not readable"),
    ],
)
def test_a_sample_that_does_not_count_is_named_and_kept_by_its_owner_only(
    tmp_path: Path, bad: str, reason: str, kind: str
):
    path = tmp_path / "run.gpx"
    path.write_text(gpx(point(0), bad, point(2)))
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        assert read_recording(path, rejects).height == 2
    assert rejects.reasons == {kind: 1}
    assert stat.S_IMODE(rejects.path.stat().st_mode) == 0o600
    row = json.loads(rejects.path.read_text())
    assert (row["file"], row["line"]) == ("run.gpx", 2)
    assert row["reason"].startswith(reason)


def test_a_position_on_the_equator_is_one(tmp_path: Path):
    assert read(tmp_path, "run.gpx", gpx(point(0, place='lat="0" lon="9.5"'))).frame.height == 1


def stale(days: float, count: int = 2, total: int = 60) -> list[str]:
    return [point(second - (days * 86_400 if second < count else 0)) for second in range(total)]


@pytest.mark.parametrize(
    ("points", "left_out"),
    [
        (stale(6), 2),
        (stale(-6), 2),
        (stale(1024 * 7, 20), 20),
        (stale(-2 / 24, 5), 5),
        (stale(2 / 24, 5), 5),
        (stale(0.5 / 24, 5), 5),
        (stale(0.4 / 24, 5), 0),
        ([*stale(2 / 24, 5)[:5], "</trkseg><trkseg>", *stale(0)[5:]], 0),  # a pause
        ([*(point(second - 7_200) for second in range(0, 320, 10)), *stale(0, total=90)], 0),
        (stale(0), 0),
        ([*stale(0), point(100 * 86_400)], 0),  # recorded later, with a pause
        ([*stale(0)[:30], point(30 - 9 * 86_400), *stale(0)[31:]], 1),
        ([*stale(4, 3)[:3], "</trkseg><trkseg>", *stale(0)[3:]], 3),
        ([*(point(second - 4 * 86_400) for second in range(0, 600, 10)), "</trkseg><trkseg>", *stale(0, total=90)], 0),
        ([*(point(second - 4 * 86_400) for second in range(5)), "</trkseg></trk><trk><trkseg>", *stale(0)], 0),
    ],
)
def test_samples_from_before_the_clock_was_set_are_left_out(tmp_path: Path, points: list[str], left_out: int):
    report = read(tmp_path, "run.gpx", gpx(*points))
    assert report.left_out == ({"clock not set": left_out} if left_out else {})


def test_a_track_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path):
    report = read(tmp_path, "run.gpx", MINUTE[: MINUTE.index("10:00:40Z")])
    assert (report.frame.height, report.left_out, report.warnings) == (40, {}, ("the file ends early",))
    behind = read(tmp_path, "run.gpx", MINUTE + "garbage")
    assert (behind.frame.height, behind.warnings) == (60, ("7 bytes behind the end",))
    twice = read(tmp_path, "run.gpx", gpx(point(0)) + gpx(point(1)))
    assert (twice.frame.height, twice.left_out) == (2, {})


def test_entities_are_not_expanded(tmp_path: Path):
    head = '<!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    report = read(tmp_path, "run.gpx", gpx(point(0), head=head, name="&b;"))
    assert report.refused is None or "can't be read" in report.refused


@pytest.mark.parametrize(
    ("activities", "samples"),
    [
        (lap(*range(3), time="{}.0000000Z"), 3),
        (lap(*range(3), time="{}.123456789+02:00"), 3),
        (lap(*range(3), time=" {} Z "), 3),
        (lap(*range(3), extra="<Calories/><DistanceMeters>far</DistanceMeters>"), 3),
        (lap(*range(3), rate=" {} "), 3),
        (lap(*range(3)) + lap(*range(5, 8)), 6),
        (
            f"<MultiSportSession><FirstSport>{lap(0, 1)}</FirstSport><NextSport>{lap(5, 6)}</NextSport></MultiSportSession>",
            4,
        ),
    ],
)
def test_tcx_of_any_vendor_is_read(tmp_path: Path, activities: str, samples: int):
    report = read(tmp_path, "run.tcx", tcx(activities))
    assert (report.frame.height, report.left_out, report.refused) == (samples, {}, None)


def test_a_planned_course_is_no_recording(tmp_path: Path):
    course = (
        tcx(lap(0, 1))
        .replace("Activities>", "Courses>")
        .replace("<Activity", "<Course")
        .replace("</Activity", "</Course")
    )
    assert "has 0 samples" in str(read(tmp_path, "plan.tcx", course).refused)


def pulses(*rates: int, zero: int = 500) -> bytes:
    return definition(1, HR_NUMBER, HR) + b"".join(
        struct.pack("<BIHIB", 1, START + second, 0, (zero + second) * 1024, rate) for second, rate in enumerate(rates)
    )


def packed_pulses(*rates: int) -> bytes:
    """Write heart rates with 12 bits of their event times, two in three bytes, after one with the whole time."""
    first = definition(1, HR_NUMBER, HR) + struct.pack("<BIHIB", 1, START, 0, 4_000_000, rates[0])
    ticks = [(4_000_000 + second * 1024) & 0xFFF for second in range(1, len(rates))]
    bits = sum(tick << (12 * place) for place, tick in enumerate(ticks))
    octets = bits.to_bytes(len(ticks) * 12 // 8, "little")
    fields = ((6, len(ticks), UINT8), (10, len(octets), fit_bytes.BYTE))
    return first + definition(2, HR_NUMBER, fields) + bytes([2]) + bytes(rates[1:]) + octets


RECORDS = definition(0, RECORD_NUMBER, RECORD)
NO_RATES = [record(second, None) for second in range(9)]


@pytest.mark.parametrize(
    ("content", "samples", "left_out", "warning"),
    [
        (workout(), 60, {}, None),
        (workout()[:-2], 60, {}, "the closing checksum is missing"),
        (workout()[:-1], 60, {}, "the closing checksum is missing"),
        (workout()[:-2] + b"\0\0", 60, {}, "the closing checksum is wrong: values may be damaged"),
        (workout()[:-20], 58, {}, "the file ends early"),
        (workout() + bytes(16), 60, {}, "16 bytes behind the end"),
        (workout() + b"x" * 3, 60, {}, "3 bytes behind the end"),
        (fit(RECORDS, record(0, 70)) + fit(RECORDS, record(1, 71)), 2, {}, None),
        (fit(RECORDS, record(0, 70), record(1, 71), size=0), 2, {}, "the header doesn't say how long the file is"),
        (
            fit(RECORDS, record(0, 70), record(1, None), record(2, 72, None)),
            1,
            {"no heart rate": 1, "no position": 1},
            None,
        ),
        (fit(RECORDS, record(0, 70, None, None), record(0, None), record(1, 71)), 2, {}, None),
        (fit(RECORDS, record(-START, 70), record(1, 71)), 1, {"no plausible time": 1}, None),
        (fit(RECORDS, *NO_RATES, pulses(*range(75, 84))), 9, {}, None),
        (fit(pulses(*range(75, 84)), RECORDS, *NO_RATES), 9, {}, None),
        (fit(RECORDS, *NO_RATES, packed_pulses(*range(75, 84))), 9, {}, None),
    ],
)
def test_fit_files_are_read_as_far_as_they_go(
    tmp_path: Path, content: bytes, samples: int, left_out: dict[str, int], warning: str | None
):
    report = read(tmp_path, "run.fit", content)
    assert (report.frame.height, report.left_out, report.refused) == (samples, left_out, None)
    assert [found for found in report.warnings if warning is None or found == warning] == ([warning] if warning else [])


@pytest.mark.parametrize("make", [pulses, packed_pulses])
def test_heart_rates_of_other_messages_come_at_their_time(tmp_path: Path, make: object):
    report = read(tmp_path, "run.fit", fit(RECORDS, *NO_RATES, make(*range(75, 84))))  # type: ignore[operator]
    assert report.frame["heart_rate"].to_list() == list(range(75, 84))


def archive(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("__", ".").replace("_in_", "/"), data)
    return packed.getvalue()


def test_an_export_is_read_with_all_that_is_packed_in_it(tmp_path: Path):
    inner = archive(b__fit=workout(), notes__txt=b"no")
    members = {
        "a_in_run__gpx__gz": gzip.compress(MINUTE.encode()),
        "inner__zip": inner,
        "bad__fit": b"x",
        "c__tcx": tcx(lap(0)).encode(),
    }
    (tmp_path / "export.zip").write_bytes(archive(**members))
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        found = read_recordings(tmp_path, rejects)
    assert {name: frame.height for name, frame in found.items()} == {
        "export.zip/a/run.gpx.gz": 60,
        "export.zip/c.tcx": 1,
        "export.zip/inner.zip/b.fit": 60,
    }
    assert rejects.reasons == {"recording refused": 1}


def tar(name: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for path, content in (("notes.txt", b"no"), (name, data)):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("run.gpx.bz2", bz2.compress(MINUTE.encode()), "run.gpx.bz2"),
        ("run.gpx.xz", lzma.compress(MINUTE.encode()), "run.gpx.xz"),
        ("run.GPX.ZST", pa.compress(MINUTE.encode(), "zstd", asbytes=True), "run.GPX.ZST"),
        ("run.gpx", bz2.compress(MINUTE.encode()), "run.gpx"),
        ("all.tar", tar("a/run.gpx", MINUTE.encode()), "all.tar/a/run.gpx"),
        ("all.tar.gz", gzip.compress(tar("a/run.gpx", MINUTE.encode())), "all.tar.gz/a/run.gpx"),
        ("all.tgz", gzip.compress(tar("run.fit.bz2", bz2.compress(workout()))), "all.tgz/run.fit.bz2"),
        ("all.zip", archive(b__gpx__xz=lzma.compress(MINUTE.encode())), "all.zip/b.gpx.xz"),
    ],
)
def test_each_way_to_pack_is_read(tmp_path: Path, name: str, data: bytes, found: str):
    (tmp_path / name).write_bytes(data)
    assert {file: frame.height for file, frame in read_recordings(tmp_path).items()} == {found: 60}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("all.tar", tar("notes.gpx.txt", b"x")),
        ("all.tar", tar("run.gpx", MINUTE.encode())[:900]),
        ("run.fit.xz", b"\xfd7zXZ\0"),
    ],
)
def test_an_archive_without_a_recording_says_so(tmp_path: Path, name: str, data: bytes):
    assert read(tmp_path, name, data).refused


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_a_file_of_another_compression_that_is_cut_off_is_read_as_far_as_it_goes(
    tmp_path: Path, compress: Callable[[bytes], bytes]
):
    random = Random(1)
    points = (
        point(second, random.randrange(40, 200), place=f'lat="{random.random()}" lon="7"') for second in range(20_000)
    )
    whole = compress(gpx(*points).encode())
    report = read(tmp_path, "run.gpx.bz2", whole[: len(whole) * 3 // 4])
    assert "the compressed file ends early" in report.warnings
    assert 5_000 < report.frame.height < 20_000


@pytest.mark.parametrize("cut", [30, 200, 400])
def test_a_compressed_file_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, cut: int):
    varied = gpx(*(point(second, 40 + second * 7919 % 200) for second in range(600)))
    whole = gzip.compress(varied.encode())
    report = read(tmp_path, "run.gpx.gz", whole[: len(whole) * cut // 500])
    assert "the compressed file ends early" in (*report.warnings, str(report.refused))
    assert report.frame.height < 600
    assert report.frame.height or cut == 30


def test_one_bad_file_refuses_no_folder(tmp_path: Path):
    for name, data in (
        ("a.gpx", MINUTE.encode()),
        ("b.gpx", b""),
        ("c.fit", b"x" * 99),
        ("d.zip", b"PK\x03\x04"),
        (".e.gpx", b""),
    ):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.gpx").mkdir()
    (tmp_path / "lost.tcx").symlink_to(tmp_path / "nowhere")
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        assert list(read_recordings(tmp_path, rejects)) == ["a.gpx"]
    rows = [json.loads(line) for line in rejects.path.read_text().splitlines()]
    assert [row["file"] for row in rows] == ["b.gpx", "c.fit", "d.zip", "lost.tcx"]
    (tmp_path / "a.gpx").unlink()
    with pytest.raises(
        RecordingError, match=r"none of 4 recordings can be read: 'b\.gpx' can't be read: the file is empty"
    ):
        read_recordings(tmp_path)


GOOD = {
    "run.fit": fit(RECORDS, *NO_RATES, pulses(*range(75, 84)), packed_pulses(*range(75, 84))),
    "run.gpx": gpx(*(point(second) for second in range(5))).encode(),
    "run.tcx": tcx(lap(*range(5))).encode(),
    "run.gpx.gz": gzip.compress(MINUTE.encode()),
    "run.zip": archive(a__fit=workout(range(70, 75)), b__gpx=gpx(point(0)).encode()),
    "run.gpx.bz2": bz2.compress(MINUTE.encode()),
    "run.gpx.xz": lzma.compress(MINUTE.encode()),
    "run.gpx.zst": pa.compress(MINUTE.encode(), "zstd", asbytes=True),
    "run.tar": tar("a.fit", workout(range(70, 75))),
}


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_there_is_a_report_and_never_a_traceback(tmp_path: Path, name: str, data: st.DataObject):
    content = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        match data.draw(st.integers(0, 3)):
            case 0:
                content[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case 1:
                del content[place : place + data.draw(st.integers(1, 40))]
            case 2:
                content[place:place] = data.draw(st.binary(max_size=20))
            case _:
                del content[place:]
    (tmp_path / name).write_bytes(bytes(content))
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        for report in survey(tmp_path / name, rejects):
            assert (report.refused is None) == bool(report.frame.height)
            assert report.frame["heart_rate"].is_between(20, 250).all()
            assert report.frame["event_time"].is_sorted()
