"""`heartwatch inspect` says what would be read and what not, and names the file that lists what is left out."""

import json
from pathlib import Path

import pytest
from fit_bytes import RECORD, RECORD_NUMBER, definition, fit, record

from heartwatch.cli import app
from heartwatch.inspect import InspectError, inspect, inspected
from heartwatch.settings import load_settings

EVENTS = "user_id,event_time,zipcode,latitude,longitude,heart_rate\n1,1714557600,10001,40.7,-73.9,70.0\n1,5,10001,40.7,-73.9,70\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "exports"
    (found / "sub.gpx").mkdir(parents=True)
    (found / "ride.fit").write_bytes(fit(definition(0, RECORD_NUMBER, RECORD), record(0, 70), record(1, None)))
    for name, text in (
        ("walk.gpx", ""),
        ("events.csv", EVENTS),
        ("ranges.csv", "User_ID,min_heart_rate,max_heart_rate\n7,50,110\n8,110,50\n"),
        ("other.json", '[{"person": 1, "min_heart_rate": 50, "max_heart_rate": 110}]'),
        ("half.parquet", "PAR1"),
        ("notes.txt", ""),
    ):
        (found / name).write_text(text)
    return found


def test_each_file_of_a_folder_is_reported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    app(["inspect", str(folder), "--json", "--rejects", str(tmp_path / "rejects.jsonl")], result_action="return_value")
    found = json.loads(capsys.readouterr().out)
    files = {file["file"]: file for file in found["files"]}
    assert list(files) == ["events.csv", "half.parquet", "other.json", "ranges.csv", "ride.fit", "walk.gpx"]
    assert found["ignored"] == ["notes.txt"]
    assert (files["ride.fit"]["samples"], files["ride.fit"]["left_out"]) == (1, 1)
    assert files["ride.fit"]["reasons"] == {"no heart rate": 1}
    assert (files["events.csv"]["rows"], files["events.csv"]["rejected"]) == (1, 1)
    assert files["events.csv"]["first_event_time"] == "2024-05-01T10:00:00Z"
    assert (files["ranges.csv"]["rows"], files["ranges.csv"]["user_ids"]) == (1, ["7"])
    assert [name for name, file in files.items() if file["refused"]] == ["half.parquet", "other.json", "walk.gpx"]
    assert "no column user_id, but ['person']" in files["other.json"]["reason"]
    rejects = [json.loads(line) for line in Path(found["rejects"]).read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in rejects] == [
        ("events.csv", 3),
        ("half.parquet", 0),
        ("other.json", 0),
        ("ranges.csv", 3),
        ("ride.fit", 2),
        ("walk.gpx", 0),
    ]


def test_people_are_told_in_sentences(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    inspect(folder, rejects=tmp_path / "rejects.jsonl")
    told = capsys.readouterr().out
    assert "ride.fit: 1 samples, 2024-05-01T10:00:00Z to 2024-05-01T10:00:00Z; 1 left out (1 no heart rate)" in told
    assert "walk.gpx: refused: can't be read: the file is empty" in told
    assert f"All that is left out is listed in {tmp_path / 'rejects.jsonl'}" in told
    inspect(folder / "walk.gpx", rejects=tmp_path / "rejects.jsonl")


@pytest.mark.parametrize("name", ["missing.gpx", "notes.txt", "sub.gpx"])
def test_nothing_to_look_into_is_one_sentence(folder: Path, tmp_path: Path, name: str):
    with pytest.raises(InspectError, match=f"{name}' is neither a recording nor a table"):
        inspected(load_settings(), folder / name, tmp_path / "rejects.jsonl")
