"""Files of ranges: where they are, what is written to them, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from heartwatch.ranges import HistoricalError
from heartwatch.ranges.files import LoadReport, generated_file, load_range_file, write_range_file
from heartwatch.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings().model_copy(update={"home": tmp_path})


def test_simulated_ranges_go_where_the_load_looks_for_them(settings: Settings) -> None:
    report = write_range_file(settings, "simulator", None, people=50, seed=3, target=None)
    assert report.path == generated_file(settings)
    assert pl.read_csv(report.path)["user_id"].to_list() == [*range(1, 51)]
    assert (report.rows, report.rejected, report.rejects) == (50, 0, None)
    again = write_range_file(settings, "simulator", None, people=50, seed=3, target=settings.home / "again.csv")
    assert again.path.read_bytes() == report.path.read_bytes()


def test_bad_rows_of_a_file_are_counted_by_reason(settings: Settings) -> None:
    given = settings.home / "given.csv"
    given.write_text("user_id,min_heart_rate,max_heart_rate\n1,50,100\n2,100,50\n3,45,95\n")
    report = write_range_file(settings, "file", given, people=1, seed=1, target=settings.home / "ranges.jsonl")
    assert (report.rows, report.rejected, sum(report.reasons.values())) == (2, 1, 1)
    assert report.rejects is not None
    assert report.rejects.is_relative_to(settings.home / "rejects")
    assert report.table_rows() == [
        {"file": str(report.path), "ranges": 2, "rejected": 1, "reject file": str(report.rejects)}
    ]


@pytest.mark.parametrize("source", ["file", "recordings"])
def test_a_source_that_has_a_path_needs_it(settings: Settings, source: str) -> None:
    with pytest.raises(ValueError, match=f"source='{source}' needs a path"):
        write_range_file(settings, source, None, people=1, seed=1, target=None)  # type: ignore[arg-type]


def test_a_target_of_another_kind_is_refused(settings: Settings) -> None:
    with pytest.raises(HistoricalError, match=r"\.parquet"):
        write_range_file(settings, "simulator", None, people=1, seed=1, target=settings.home / "ranges.parquet")


def test_a_database_that_is_away_says_so_and_leaves_no_reject_file(settings: Settings) -> None:
    away = settings.model_copy(update={"postgres": settings.postgres.model_copy(update={"port": 9})})
    with pytest.raises(Exception, match="can't connect to database"):
        load_range_file(away, settings.home / "ranges.csv", delete_missing=False, progress=lambda _: None)
    assert not (settings.home / "rejects").exists()


def loaded(**values: object) -> LoadReport:
    known = {
        "path": Path("ranges.csv"),
        "read": 7,
        "inserted": 4,
        "updated": 1,
        "unchanged": 2,
        "deleted": 0,
        "kept_for_rejects": False,
        "rejected": 0,
        "rejects": None,
        "reasons": {},
    }
    return LoadReport.model_validate(known | values)


def test_a_load_is_shown_with_its_bad_rows() -> None:
    assert loaded().sentences() == "7 ranges of ranges.csv loaded."
    assert loaded().table_rows() == [
        {"rows": name, "count": count}
        for name, count in (
            ("read", 7),
            ("inserted", 4),
            ("updated", 1),
            ("unchanged", 2),
            ("deleted", 0),
            ("rejected", 0),
        )
    ]
    bad = loaded(rejected=3, rejects=Path("r.jsonl"), reasons={"b": 1, "a": 2}, kept_for_rejects=True)
    assert bad.sentences() == (
        "7 ranges of ranges.csv loaded. Bad rows are in r.jsonl. Nobody was deleted: a bad row may be theirs."
    )
    assert bad.table_rows()[-3:] == [
        {"rows": "rejected", "count": 3},
        {"rows": "rejected: a", "count": 2},
        {"rows": "rejected: b", "count": 1},
    ]
