"""Tables of any spreadsheet or data frame are read by rule; no row is guessed, and none refuses the others."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartwatch.files import columns, tables, times
from heartwatch.files.rejects import RejectFile
from heartwatch.produce.table_source import SourceError, read_events
from heartwatch.ranges import HistoricalError
from heartwatch.ranges.read import read_ranges

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_time", pa.timestamp("ms"), nullable=False),
        pa.field("latitude", pa.float64(), nullable=False),
        pa.field("heart_rate", pa.int32(), nullable=False),
    ]
)
HEADER = "user_id,event_time,latitude,heart_rate\n"
GOOD = "1,2024-05-01T10:00:00Z,40.7,70\n"
NOON = 1_714_557_600_000


def events(tmp_path: Path, name: str, content: str | bytes) -> tuple[pl.DataFrame, list[dict[str, object]]]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        found = pl.DataFrame(pl.from_arrow(read_events(path, SCHEMA, "event_time", rejects)))
    bad = [json.loads(line) for line in rejects.path.read_text().splitlines()] if rejects.count else []
    assert len(bad) == rejects.count
    return found, bad


def zipped(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return packed.getvalue()


ROW = ("1", datetime(2024, 5, 1, 10), 40.7, 70)
OBJECT = {"user_id": "1", "event_time": NOON, "latitude": 40.7, "heart_rate": 70}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("events.csv", (HEADER + GOOD).encode("utf-8-sig")),
        ("events.csv", (HEADER + GOOD).encode("utf-16")),
        ("events.csv", (HEADER + GOOD).encode("utf-16-le")),
        ("events.csv", (HEADER + GOOD).replace("\n", "\r")),
        ("events.csv", (HEADER + GOOD).replace("\n", "\r\n") + "\r\n\r\n"),
        ("events.csv", "\n" + (HEADER + GOOD).replace(",", ";").replace("40.7", "40,7")),
        ("events.csv", "sep=;\n" + (HEADER + GOOD).replace(",", ";")),
        ("events.csv", (HEADER + GOOD).replace(",", "|")),
        ("events.tsv", (HEADER + GOOD).replace(",", "\t")),
        ("events.csv", (HEADER + GOOD).replace(",", " , ")),
        ("events.csv", HEADER.replace("\n", ",,\n") + GOOD.replace("\n", ",,\n")),
        ("events.csv", (HEADER + GOOD).replace("user_id", '"User ID"').replace("heart_rate", "Heart-Rate")),
        ("events.csv", HEADER.replace("\n", ",note\n") + GOOD.replace("\n", ',"over\ntwo, lines"\n')),
        ("events.csv", (HEADER.replace("\n", ",note\n") + GOOD.replace("\n", ",Café\n")).encode("latin-1")),
        ("events.csv", HEADER + '"1","2024-05-01 10:00:00.000"," 40.70 ","70.0"\n'),
        ("events.csv", HEADER + "1.0,1714557600,4.07E1,+70.\n"),
        ("events.csv", HEADER + "1,1714557600000,40.7,'70\n"),
        ("events.csv", HEADER + "1,1714557600000000,40.7,70\n"),
        ("events.csv", HEADER + "1,1714557600.0,40.7,70\n"),
        ("events.csv", HEADER + "1,1.7145576E+09,40.7,70\n".replace("1.7145576E+09", "1.714557600E+09")),
        ("events.csv", HEADER + "1,2024-05-01T12:00:00.0000000+02:00,40.7,70\n"),
        ("events.csv.gz", gzip.compress((HEADER + GOOD).encode())),
        ("events.csv.bz2", bz2.compress((HEADER + GOOD).encode())),
        ("events.csv.xz", lzma.compress((HEADER + GOOD).encode())),
        ("events.jsonl.zst", pa.compress(json.dumps(OBJECT).encode(), "zstd", asbytes=True)),
        ("events.csv", bz2.compress((HEADER + GOOD).encode())),
        ("events.csv.zip", zipped(**{"events.csv": HEADER + GOOD, "README": "x", "__MACOSX/._events.csv": "x"})),
        ("events.json.zip", zipped(**{"export": json.dumps([OBJECT])})),
        ("events.jsonl", json.dumps(OBJECT)),
        ("events.jsonl", b"\xef\xbb\xbf" + json.dumps(OBJECT).encode() + b"\r\n\n\n"),
        ("events.jsonl", json.dumps({**OBJECT, "event_time": NOON / 1000, "heart_rate": "70.0", "user_id": 1})),
        ("events.jsonl", json.dumps({"User ID": "1", "eventTime": NOON, "Latitude": "40.7", "HEART_RATE": 70.0})),
        ("events.json", json.dumps([OBJECT])),
        ("events.jsonl", json.dumps([OBJECT], indent=2).encode("utf-16")),
        ("events.json", json.dumps(OBJECT, indent=2)),
        ("events.json", json.dumps({"count": 1, "records": [OBJECT]}, indent=1)),
        ("events.json", json.dumps({"count": 1, "records": [OBJECT]})),
        ("events.json", json.dumps({"result": {"count": 1, "data": {"records": [OBJECT]}}})),
        ("events.jsonl", json.dumps(OBJECT) + ",\n"),
        ("events.jsonl", json.dumps({**OBJECT, "town": "Caf\xe9"}, ensure_ascii=False).encode("latin-1")),
        ("events.csv", "Export of 2024\n\n" + HEADER + GOOD),
        ("events.csv", "# user,\n" * 20 + HEADER + GOOD),
        ("events.csv", HEADER + "'1','2024-05-01T10:00:00Z','40.7','70'\n"),
        ("events.csv", HEADER + "'1,'2024-05-01T10:00:00Z,'40.7,'70\n"),
        ("events.csv", HEADER + "\ufeff1,\ufeff2024-05-01T10:00:00Z,\u200b40.7,\ufeff70\n"),
        ("events.csv", HEADER + "1,2024-05-01T10:00:00Z,40.7,7.0E+01\n"),
        ("events.csv", HEADER.replace("\n", ",heart_rate\n") + GOOD.replace("\n", ",70\n")),
    ],
)
def test_a_row_is_read_however_it_is_written(tmp_path: Path, name: str, content: str | bytes):
    found, bad = events(tmp_path, name, content)
    assert bad == []
    assert found.rows() == [ROW]


@pytest.mark.parametrize("end", ["\n", ""])
def test_people_whose_names_are_in_another_encoding_stay_two(tmp_path: Path, end: str):
    rows = [json.dumps({**OBJECT, "user_id": name}, ensure_ascii=False).encode("latin-1") for name in ("\xe8", "\xe9")]
    found, bad = events(tmp_path, "events.jsonl", b"\n".join(rows) + end.encode())
    assert (found["user_id"].to_list(), bad) == (["\xe8", "\xe9"], [])


def test_a_column_that_stands_twice_with_two_values_makes_its_row_bad(tmp_path: Path):
    rows = "1,2024-05-01T10:00:00Z,40.7,70,1\n1,2024-05-01T10:00:00Z,40.7,70,2\n"
    found, bad = events(tmp_path, "events.csv", HEADER.replace("\n", ",user_id\n") + rows)
    assert found.rows() == [ROW]
    assert [(reject["line"], reject["reason"]) for reject in bad] == [
        (3, "column user_id stands 2 times, with ['1', '2']")
    ]


def test_names_in_bytes_are_names(tmp_path: Path):
    table = pa.table({**{name: [value] for name, value in OBJECT.items()}, "user_id": pa.array([b"1"], pa.binary())})
    pq.write_table(table, tmp_path / "made.parquet")
    found, bad = events(tmp_path, "events.parquet", (tmp_path / "made.parquet").read_bytes())
    assert (found.rows(), bad) == ([ROW], [])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_times_of_any_unit_and_zone(tmp_path: Path, unit: str, zone: str | None):
    moment = pl.Series([datetime(2024, 5, 1, 10)]).cast(pl.Datetime(unit)).dt.replace_time_zone("UTC")  # type: ignore[arg-type]
    stamped = moment.dt.convert_time_zone(zone) if zone else moment.dt.replace_time_zone(None)
    frame = pl.DataFrame({"user_id": [1.0], "event_time": stamped, "latitude": [40.7], "Heart Rate": [70.0]})
    frame.write_parquet(tmp_path / "source.parquet")
    assert events(tmp_path, "events.parquet", (tmp_path / "source.parquet").read_bytes())[0].rows() == [ROW]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('1,2024-05-01T10:00:00Z,40.7,"1,234"', "field 'heart_rate': '1,234' may have a decimal comma or one between"),
        ("1,2024-05-01T10:00:00Z,40.7,7E+01", "field 'heart_rate': '7E+01' is not a whole number"),
        ("1,2024-05-01T10:00:00Z,40.7,70.5", "field 'heart_rate': '70.5' is not a whole number"),
        (
            "1,2024-05-01T10:00:00Z,40.7,99999999999",
            "field 'heart_rate': '99999999999' is not a whole number that fits",
        ),
        ("1,2024-05-01T10:00:00Z,north,70", "field 'latitude': 'north' is not a number"),
        ("1,2024-05-01T10:00:00Z,nan,70", "field 'latitude': 'nan' is not a number"),
        ("1,2024-05-01T10:00:00Z,1_0,70", "field 'latitude': '1_0' is not a number"),
        (" ,2024-05-01T10:00:00Z,40.7,70", "field 'user_id' is missing"),
        ("1,,40.7,70", "field 'event_time' is missing"),
        ("1,5,40.7,70", "field 'event_time': time '5' is not a plausible time"),
        ("1,45413.4167,40.7,70", "field 'event_time': time '45413.4167' is not a plausible time"),
        ("1,1.71456E+12,40.7,70", "field 'event_time': time '1.71456E+12' has lost its last digits"),
        ("1,2024-05-01,40.7,70", "field 'event_time': time '2024-05-01' is neither ISO 8601 with a time of day"),
        ("1,01/05/2024 10:00,40.7,70", "field 'event_time': time '01/05/2024 10:00' is neither"),
        ("1,1970-01-01T00:00:05Z,40.7,70", "field 'event_time': time '1970-01-01T00:00:05Z' is before 2000"),
        ("1,2080-01-01T00:00:00Z,40.7,70", "field 'event_time': time '2080-01-01T00:00:00Z' is in the future"),
        ("1,3471292800,40.7,70", "field 'event_time': time '3471292800' is not a plausible time"),
        ("1,2024-02-30T10:00:00Z,40.7,70", "field 'event_time': time '2024-02-30T10:00:00Z' is not a time"),
        ("1,2024-05-01T10:00:00Z,40.7", "3 fields, the header has 4"),
        ('"1,2024-05-01T10:00:00Z,40.7,70', "1 fields, the header has 4"),
    ],
)
def test_what_is_no_value_is_rejected_with_its_line(tmp_path: Path, line: str, reason: str):
    found, bad = events(tmp_path, "events.csv", f"{HEADER}{GOOD}{line}\n{GOOD}")
    assert found.height == 2
    assert [reject["line"] for reject in bad] == [3]
    assert str(bad[0]["reason"]).startswith(reason)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("heart_rate", {"bpm": 72}, "field 'heart_rate' is an object with .bpm, not a value"),
        ("heart_rate", True, "field 'heart_rate' is True, not a value"),
        ("user_id", [7], "field 'user_id' is a list, not a value"),
        ("user_id", None, "field 'user_id' is missing"),
        ("latitude", "1e999", "field 'latitude': '1e999' is not a number"),
        ("event_time", 1, "field 'event_time': time '1' is not a plausible time"),
        ("event_time", 10**30, "field 'event_time': time"),
        ("heart_rate", 10**30, "field 'heart_rate'"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_a_nested_or_impossible_value_makes_its_row_bad_and_no_other(
    tmp_path: Path, field: str, value: object, reason: str, array: bool
):
    rows = [{**OBJECT, field: value}, OBJECT]
    content = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    found, bad = events(tmp_path, "events.json", content)
    assert found.rows() == [ROW]
    assert [reject["line"] for reject in bad] == [1]
    assert str(bad[0]["reason"]).startswith(reason)


def test_an_array_that_is_damaged_is_read_around_the_damage(tmp_path: Path):
    one = json.dumps(OBJECT)
    found, bad = events(tmp_path, "events.json", f"[{one}, {{'oops'}}, {one}, {one[:20]}")
    assert (found.height, [reject["line"] for reject in bad]) == (2, [2, 4])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(**{"a.csv": HEADER, "b.csv": HEADER}), r"the archive has 2 tables \['a.csv', 'b.csv'\], unpack it"),
        (zipped(), r"the archive has 0 tables"),
        (b"PK\x03\x04", "not a zip file"),
    ],
)
def test_an_archive_that_is_no_table_is_refused(tmp_path: Path, content: bytes, reason: str):
    with pytest.raises(SourceError, match=reason):
        events(tmp_path, "events.csv.zip", content)


def test_a_compressed_table_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path):
    lines = "".join(f"{row},{NOON + row * 7919},40.{row * 31 % 97},{row * 17 % 200}\n" for row in range(5_000))
    found, bad = events(tmp_path, "events.csv.gz", gzip.compress((HEADER + lines).encode())[:-2_000])
    assert 1_000 < found.height < 5_000
    assert "damaged, the rest is not read" in str(bad[-1]["reason"])


@pytest.mark.parametrize("name", ["ranges.csv", "ranges.json"])
@pytest.mark.parametrize("column", ["person", "", "userid2", "note"])
def test_ranges_without_users_are_not_numbered_where_another_column_may_be_them(tmp_path: Path, name: str, column: str):
    rows = [{column: 41, "min_heart_rate": 50, "max_heart_rate": 110}]
    text = json.dumps(rows) if name.endswith("json") else f"{column},min_heart_rate,max_heart_rate\n41,50,110\n"
    (tmp_path / name).write_text(text)
    with (
        RejectFile(tmp_path / "rejects") as rejects,
        pytest.raises(HistoricalError, match=f"no column user_id, but .*{column}"),
    ):
        list(read_ranges(tmp_path / name, rejects))


def test_columns_without_what_is_wanted_are_named(tmp_path: Path):
    with pytest.raises(SourceError, match=r"no field \['heart_rate'\], its fields are \['user_id', .*'pulse'\]"):
        events(tmp_path, "events.csv", (HEADER + GOOD).replace("heart_rate", "pulse"))


MOMENTS = st.integers(round(times.EARLIEST.timestamp()) + 1, NOON // 1000)


@given(seconds=MOMENTS, unit=st.sampled_from([1, 1_000, 1_000_000, 1_000_000_000]))
def test_a_plausible_number_is_the_same_time_in_any_unit(seconds: int, unit: int):
    assert times.milliseconds(seconds * unit) == times.milliseconds(str(seconds * unit)) == seconds * 1000
    assert columns.event_times(pl.Series([seconds * unit])).to_list() == [seconds * 1000]
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert times.milliseconds(text) == columns.event_times(pl.Series([text]))[0] == seconds * 1000


@given(value=st.one_of(st.text(max_size=30), st.floats(), st.integers()))
def test_any_value_is_a_plausible_time_or_none_by_both_readers(value: str | float):
    try:
        found = times.milliseconds(value)
    except times.TimeError:
        found = None
    assert found is None or times.EARLIEST.timestamp() * 1000 <= found <= times.latest_ms()
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        columned = columns.event_times(pl.Series([value]))[0]
        assert (columned is None) == (found is None)


SOURCES = {
    "t.csv": (HEADER + GOOD * 3 + '2,"a\nb",1,2\n').encode(),
    "t.csv.gz": gzip.compress((HEADER + GOOD * 40).encode()),
    "t.csv.xz": lzma.compress((HEADER + GOOD * 40).encode()),
    "t.csv.zip": zipped(**{"t.csv": HEADER + GOOD * 40}),
    "t.jsonl": "\n".join([json.dumps(OBJECT)] * 3).encode(),
    "t.json": json.dumps([OBJECT] * 3).encode(),
}


@pytest.mark.parametrize("name", [*SOURCES, "t.parquet"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_rows_are_read_or_rejected_and_there_is_no_traceback(
    tmp_path: Path, name: str, data: st.DataObject
):
    if name not in SOURCES:
        pl.DataFrame([OBJECT] * 3).write_parquet(tmp_path / "whole")
        SOURCES[name] = (tmp_path / "whole").read_bytes()
    content = bytearray(SOURCES[name])
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        match data.draw(st.integers(0, 3)):
            case 0:
                content[place : place + 1] = data.draw(
                    st.sampled_from([b"\0", b'"', b"\xff", b"[", b"{", b"e", b",", b"\n"])
                )
            case 1:
                del content[place : place + data.draw(st.integers(1, 40))]
            case 2:
                content[place:place] = data.draw(st.binary(max_size=20))
            case _:
                del content[place:]
    (tmp_path / name).write_bytes(bytes(content))
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        try:
            read_events(tmp_path / name, SCHEMA, "event_time", rejects)
        except SourceError as error:
            assert name in str(error)  # noqa: PT017
        try:
            list(read_ranges(tmp_path / name, rejects))
        except HistoricalError as error:
            assert name in str(error)  # noqa: PT017
    assert tables.is_table(tmp_path / name)
