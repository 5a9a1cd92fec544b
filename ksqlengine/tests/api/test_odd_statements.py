"""No statement ends in an error that isn't ksqlDB's: generated from the statements that are known to be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ksqlengine import InMemory, KsqlError
from ksqlengine.formats.base import FormatError
from ksqlengine.language.rendering import RenderingError, render

ODD = settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

_FOLDER = Path(__file__).parent.parent / "conformance"
STATEMENTS = sorted({
    case["sql"] for path in _FOLDER.glob("*.yaml") for case in yaml.safe_load(path.read_text()) if len(case["sql"]) < 700
})  # fmt: skip
_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)
WORDS = sorted({word for statement in STATEMENTS for word in _WORD.findall(statement) if not word.isspace()})
ODD_WORDS = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(
        [
            "99999999999999999999",
            "-9223372036854775808",
            "1e400",
            "''",
            "'\\",
            "``",
            "\0",
            "\ud800",
            "NULL",
            "${x}",
            "DECIMAL(0,9)",
            "(",
        ]
    ),
    st.text(max_size=5),
)


@st.composite
def odd_statements(draw: st.DrawFn) -> str:
    words = _WORD.findall(draw(st.sampled_from(STATEMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words) - 1))
        match draw(st.sampled_from(["drop", "twice", "other", "swap", "cut"])):
            case "drop":
                words[at : at + draw(st.integers(1, 3))] = [" "]
            case "twice":
                words.insert(at, words[at])
            case "other":
                words[at] = draw(ODD_WORDS)
            case "swap":
                other = draw(st.integers(0, len(words) - 1))
                words[at], words[other] = words[other], words[at]
            case _:
                words = words[: at + 1]
    return "".join(words)


def tried(text: str, **options: Any) -> None:
    """Carry out statements; whatever is wrong with them must be told as ksqlDB tells it, in a sentence."""
    reason = "none"
    try:
        InMemory(**options).execute(text)
    except (KsqlError, FormatError) as error:
        reason = str(error)
    assert reason.strip()


@ODD
@given(odd_statements())
@example("ALTER STREAM${x}s ADD COLUMN a INT;")
def test_mutated_statements_are_refused_as_ksqldb_refuses(text: str) -> None:
    tried(text)


@settings(ODD, max_examples=100)
@given(st.text(max_size=60))
@example("\0")
@example("SELECT '")
@example("/*")
@example("(" * 2_000)
@example("SELECT " + "(" * 3_000 + "1" + ")" * 3_000 + " FROM A EMIT CHANGES;")
@example("SELECT " + "-" * 2_001 + "1 FROM A;")
@example("SELECT " + "NOT " * 3_000 + "TRUE FROM A EMIT CHANGES;")
def test_any_text_is_refused_as_ksqldb_refuses(text: str) -> None:
    tried(text)


TYPES = st.recursive(
    st.sampled_from(
        ["INT", "BIGINT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "DATE", "TIME", "TIMESTAMP", "DECIMAL(4, 2)"]
    ),
    lambda inner: st.one_of(
        inner.map("ARRAY<{}>".format), inner.map("MAP<STRING, {}>".format), inner.map("STRUCT<F {}>".format)
    ),
    max_leaves=4,
)
LITERALS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(
        [
            "NULL",
            "TRUE",
            "ARRAY[1, 'a']",
            "MAP('a' := 1)",
            "STRUCT(F := 1)",
            "'2020-02-30'",
            "'1:2:3'",
            "FROM_UNIXTIME(1)",
        ]
    ),
)


@settings(ODD, max_examples=200)
@given(TYPES, LITERALS)
def test_any_value_into_any_column_is_taken_or_refused(type_: str, literal: str) -> None:
    tried(
        f"CREATE STREAM s (k STRING KEY, v {type_}) WITH (KAFKA_TOPIC='t', VALUE_FORMAT='JSON'); "
        f"INSERT INTO s VALUES ('a', {literal});"
    )


@settings(ODD, max_examples=200)
@given(st.text(max_size=30), st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=8)))
@example("${a", {"a": "x"})
@example("'${a}'", {"a": "'"})
@example("${a}", {"a": ""})
def test_files_with_variables_are_rendered_or_refused_with_the_place(text: str, variables: dict[str, str]) -> None:
    for file in (text, f"SELECT ${{a}} FROM '{text}' ${{b}};"):
        reason = "none"
        try:
            render(file, variables)
        except RenderingError as error:
            reason = str(error)
        assert reason.strip()


PROPERTIES = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["auto.offset.reset", "cache.max.bytes.buffering", "ksql.functions.collect_list.limit", "num.stream.threads",
             "ksqlengine.timestamp.ahead.max.ms", "ksql.persistence.default.format.value", "processing.guarantee"]
        ),
        st.text(max_size=10),
    ),
    st.one_of(st.text(max_size=6), st.sampled_from(["0", "-1", "1e3", "99999999999999999999", "true", "AVRO"])),
    max_size=2,
)  # fmt: skip


@pytest.mark.parametrize("statement", ["SET", "UNSET", "DEFINE"])
@settings(ODD, max_examples=60)
@given(PROPERTIES)
def test_any_setting_is_taken_or_refused(statement: str, properties: dict[str, str]) -> None:
    for name, value in properties.items():
        quoted = [text.replace("'", "''") for text in (name, value)]
        texts = {"SET": "SET '{}'='{}';", "UNSET": "UNSET '{}';", "DEFINE": "DEFINE {} = '{}';"}
        tried(
            texts[statement].format(*quoted)
            + "CREATE STREAM s (k STRING KEY, v INT) WITH (KAFKA_TOPIC='t', VALUE_FORMAT='JSON');"
            "CREATE TABLE c AS SELECT k, COLLECT_LIST(v) AS n FROM s GROUP BY k; INSERT INTO s VALUES ('a', 1);"
        )
