"""Reading files of ranges: every good row arrives, every bad one is named."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from heartwatch.files.rejects import RejectFile
from heartwatch.ranges import SCHEMA, HistoricalError
from heartwatch.ranges.generate import generate_ranges, write_ranges
from heartwatch.ranges.read import count_rows, read_ranges
from heartwatch.settings import ROOT

ORIGINAL = ROOT.parent / "shared" / "data" / "historical_20000.jsonl"


def read(path: Path) -> tuple[pl.DataFrame, list[dict[str, object]]]:
    rejects = RejectFile(path.with_name("rejects.jsonl"))
    with rejects:
        good = pl.concat(read_ranges(path, rejects))
    bad = [json.loads(line) for line in rejects.path.read_text().splitlines()] if rejects.path.exists() else []
    assert rejects.count == len(bad)
    assert good.schema == SCHEMA
    return good, bad


def written(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the original's data set isn't public; put it beside the checkout")
def test_the_originals_file_loads_as_it_is():
    with RejectFile(Path("unused")) as rejects:
        good = pl.concat(read_ranges(ORIGINAL, rejects))
    assert rejects.count == 0
    assert good["user_id"].to_list() == list(range(1, 20_001))
    assert good["min_heart_rate"].is_between(51, 53).all()
    assert good["max_heart_rate"].is_between(107, 109).all()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b'{"user_id": "\xff"}', "field min_heart_rate is missing"),
        ("[1, 51, 107]", "not a JSON object"),
        ('{"user_id": 2, "max_heart_rate": 107}', "field min_heart_rate is missing"),
        ('{"user_id": 2, "min_heart_rate": 51, "max_heart_rate": null}', "field max_heart_rate is missing"),
        ('{"min_heart_rate": 51, "max_heart_rate": 107}', "field user_id is missing"),
        ('{"user_id": 2, "min_heart_rate": 51.5, "max_heart_rate": 107}', "min_heart_rate 51.5 is not a whole number"),
        (
            '{"user_id": 2, "min_heart_rate": "1,051", "max_heart_rate": 107}',
            "min_heart_rate 1,051 is not a whole number",
        ),
        ('{"user_id": 2, "min_heart_rate": true, "max_heart_rate": 107}', "min_heart_rate True is not a whole number"),
        ('{"user_id": 2, "min_heart_rate": 51, "max_heart_rate": [7]}', "max_heart_rate [7] is not a whole number"),
        ('{"user_id": 2, "min_heart_rate": 51, "max_heart_rate": 9e30}', "max_heart_rate 9e+30 is not a whole number"),
        ('{"user_id": 0, "min_heart_rate": 51, "max_heart_rate": 107}', "user_id 0 is outside 1 to 2147483647"),
        ('{"user_id": 2147483648, "min_heart_rate": 51, "max_heart_rate": 107}', "user_id 2147483648 is outside"),
        ('{"user_id": 2, "min_heart_rate": 19, "max_heart_rate": 107}', "min_heart_rate 19 is outside 20 to 250"),
        ('{"user_id": 2, "min_heart_rate": 51, "max_heart_rate": 251}', "max_heart_rate 251 is outside 20 to 250"),
        (
            '{"user_id": 2, "min_heart_rate": 108, "max_heart_rate": 107}',
            "min_heart_rate 108 is above max_heart_rate 107",
        ),
        ('{"user_id": 1, "min_heart_rate": 52, "max_heart_rate": 107}', "user_id 1 is in an earlier row"),
    ],
)
def test_a_bad_json_line_is_rejected_with_line_text_and_reason(tmp_path: Path, line: str | bytes, reason: str):
    first = '{"user_id": 1, "min_heart_rate": 51, "max_heart_rate": 107}'
    last = '{"user_id": 3, "min_heart_rate": 20, "max_heart_rate": 250}'
    good, bad = read(written(tmp_path / "ranges.jsonl", first, line, last))
    assert good.rows() == [(1, 51, 107), (3, 20, 250)]
    [reject] = bad
    assert reject["line"] == 2
    assert reject["text"] == (line if isinstance(line, str) else line.decode(errors="backslashreplace"))
    assert str(reject["reason"]).startswith(reason)


def test_a_row_far_down_that_names_somebody_otherwise_is_not_numbered(tmp_path: Path):
    row = '{"min_heart_rate":51,"max_heart_rate":108}'
    path = written(tmp_path / "ranges.jsonl", *[row] * 100_000, '{"person":7,"min_heart_rate":51,"max_heart_rate":108}')
    with pytest.raises(HistoricalError, match=r"no column user_id, but \['person'\]"):
        read(path)


def test_users_are_numbered_by_line_and_a_bad_line_keeps_its_number(tmp_path: Path):
    row = '{"min_heart_rate":51,"max_heart_rate":108}'
    named = '{"user_id":9,"min_heart_rate":51,"max_heart_rate":108}'
    good, bad = read(written(tmp_path / "ranges.jsonl", row, "oops", row, row))
    assert good["user_id"].to_list() == [1, 3, 4]
    assert [reject["line"] for reject in bad] == [2]
    good, bad = read(written(tmp_path / "mixed.jsonl", *[row] * 100_000, named))
    assert good["user_id"].to_list() == list(range(1, 100_001))
    assert [(reject["line"], reject["reason"]) for reject in bad] == [
        (100_001, "user_id in a file that numbers its users by line")
    ]


def test_one_line_without_user_id_does_not_renumber_a_file_that_has_them(tmp_path: Path):
    lines = ['{"min_heart_rate":51,"max_heart_rate":108}', '{"user_id":7,"min_heart_rate":51,"max_heart_rate":108}']
    good, bad = read(written(tmp_path / "ranges.jsonl", *lines))
    assert good["user_id"].to_list() == [7]
    assert [reject["reason"] for reject in bad] == ["field user_id is missing"]


def test_csv_in_any_column_order_with_quotes_and_windows_line_ends(tmp_path: Path):
    lines = [
        b"\xef\xbb\xbfmax_heart_rate,name,user_id,min_heart_rate\r",
        b'107,"Doe, Jo",1,51\r',
        b"107,Jo,2\r",
        b"107,Jo,,51\r",
        b"107,Jo,4,51.5\r",
        b"107,Jo,1,51\r",
        b"109, Jo , 5 ,+52\r",
    ]
    good, bad = read(written(tmp_path / "ranges.csv", *lines))
    assert good.rows() == [(1, 51, 107), (5, 52, 109)]
    assert [(reject["line"], reject["reason"]) for reject in bad] == [
        (3, "3 fields, the header has 4"),
        (4, "field user_id is missing"),
        (5, "min_heart_rate 51.5 is not a whole number"),
        (6, "user_id 1 is in an earlier row"),
    ]


def test_csv_without_user_id_numbers_the_lines_after_the_header(tmp_path: Path):
    good, bad = read(written(tmp_path / "ranges.csv", "min_heart_rate,max_heart_rate", "51,107", "x,107", "52,108"))
    assert good.rows() == [(1, 51, 107), (3, 52, 108)]
    assert [(reject["line"], reject["text"]) for reject in bad] == [(3, "x,107")]


def test_parquet(tmp_path: Path):
    frame = pl.DataFrame(
        {"user_id": [1, 2, None], "min_heart_rate": [51.0, 52.5, 53.0], "max_heart_rate": [107, 108, 109]}
    )
    path = tmp_path / "ranges.parquet"
    frame.with_columns(min_heart_rate=pl.Series([51, 112, 53])).write_parquet(path)
    good, bad = read(path)
    assert good.rows() == [(1, 51, 107)]
    assert [(reject["line"], reject["reason"]) for reject in bad] == [
        (2, "min_heart_rate 112 is above max_heart_rate 108"),
        (3, "field user_id is missing"),
    ]
    frame.write_parquet(path)
    good, bad = read(path)
    assert good.rows() == [(1, 51, 107)]
    assert [(reject["line"], reject["reason"]) for reject in bad] == [
        (2, "min_heart_rate 52.5 is not a whole number"),
        (3, "field user_id is missing"),
    ]


def test_a_duplicate_is_found_across_chunks(tmp_path: Path):
    path = tmp_path / "ranges.jsonl"
    assert write_ranges(generate_ranges(1, 250_000), path) == 250_000
    with path.open("a") as file:
        file.write('{"user_id":5,"min_heart_rate":51,"max_heart_rate":107}\n')
    good, bad = read(path)
    assert good.equals(pl.concat(generate_ranges(1, 250_000)))
    assert [(reject["line"], reject["reason"]) for reject in bad] == [(250_001, "user_id 5 is in an earlier row")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ranges.jsonl", None, "No such file"),
        ("ranges.jsonl", b"", "has no row"),
        ("ranges.csv", b"", "has no field min_heart_rate and no field max_heart_rate"),
        ("ranges.csv", b"1,51,107\n", "has no field min_heart_rate"),
        ("ranges.csv", b"user_id,min_heart_rate,max_heart_rate\n", "has no row"),
        ("ranges.parquet", b"PAR1", "can't be read"),
        ("ranges.xlsx", b"", "must end in"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HistoricalError, match=message) as caught:
        read(path)
    assert name in str(caught.value)


def test_old_rejects_do_not_stay(tmp_path: Path):
    path = written(tmp_path / "ranges.jsonl", "oops", '{"min_heart_rate":51,"max_heart_rate":108}')
    assert len(read(path)[1]) == 1
    written(path, '{"min_heart_rate":51,"max_heart_rate":108}')
    assert read(path)[1] == []


def test_rejects_are_counted_by_kind(tmp_path: Path):
    path = written(tmp_path / "ranges.jsonl", "oops", "{", '{"min_heart_rate":1,"max_heart_rate":108}')
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        assert pl.concat(read_ranges(path, rejects)).is_empty()
    assert rejects.reasons == {"not readable": 2, "min_heart_rate out of bounds": 1}


def test_writing_ranges_leaves_no_half_file(tmp_path: Path):
    def broken() -> Iterator[pl.DataFrame]:
        yield next(generate_ranges(1, 10))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_ranges(broken(), tmp_path / "ranges.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HistoricalError, match=r"end the name in \.jsonl or \.csv"):
        write_ranges(generate_ranges(1, 10), tmp_path / "ranges.txt")


def test_rows_are_counted_before_they_are_read(tmp_path: Path):
    for name in ("ranges.jsonl", "ranges.csv"):
        write_ranges(generate_ranges(1, 1_000), tmp_path / name)
    pl.concat(generate_ranges(1, 1_000)).write_parquet(tmp_path / "ranges.parquet")
    counted = {path.suffix: count_rows(path) for path in tmp_path.iterdir()}
    assert counted == {".jsonl": 1_000, ".csv": 1_001, ".parquet": 1_000}
    with pytest.raises(HistoricalError, match=r"missing\.jsonl' can't be read"):
        count_rows(tmp_path / "missing.jsonl")
