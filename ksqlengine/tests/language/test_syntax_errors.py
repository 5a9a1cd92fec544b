"""What is said of texts that are not KSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ksqlengine.language.parser import check_request, parse_statements
from ksqlengine.types.errors import ParseError, StatementError

CASES = yaml.safe_load((Path(__file__).parent / "syntax_errors.yaml").read_text(encoding="utf-8"))


def read(sql: str) -> None:
    check_request(sql)
    parse_statements(sql)


@pytest.mark.parametrize(("sql", "message"), CASES, ids=[sql for sql, _ in CASES])
def test_the_words_of_ksqldb(sql: str, message: str) -> None:
    with pytest.raises(StatementError) as caught:
        read(sql)
    assert caught.value.message == message


def test_a_request_is_read_to_its_end_before_anything_is_refused() -> None:
    sql = "SHOW STREAMS;\nSHOW STREAMS; SELECT FROM;\nSHOW;"
    with pytest.raises(ParseError) as caught:
        check_request(sql)
    assert (str(caught.value.position), caught.value.statement) == ("2:22", "SHOW STREAMS; SELECT FROM;")


def test_a_mistake_before_a_missing_semicolon_comes_first() -> None:
    with pytest.raises(ParseError, match="Unknown statement 'SELCT'"):
        check_request("SHOW STREAMS; SELCT 1")


def test_the_detail_says_what_could_stand_there() -> None:
    with pytest.raises(ParseError) as caught:
        check_request("CREATE STREAM a (b NULL) WITH (KAFKA_TOPIC='a');")
    assert caught.value.detail.startswith("mismatched input 'NULL' expecting {'DECIMAL', ")


def test_what_is_right_passes() -> None:
    check_request("SET 'a'='b'; DEFINE x = 'y'; CREATE STREAM ${x} AS SELECT '${x}' AS a FROM s; -- end")
