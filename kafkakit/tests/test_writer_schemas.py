"""Schemas by id: unknown ids are remembered, a silent registry is waited for once, and what schemas refer to is put in place."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import RegisteredSchema, Schema
from confluent_kafka.schema_registry.common.schema_registry_client import SchemaReference
from confluent_kafka.schema_registry.error import SchemaRegistryError

from kafkakit.avro_codec import Decoder, SchemaError, UnknownSchemaError, UnusableSchemaError
from kafkakit.avro_references import with_references
from kafkakit.registry import NotRegisteredError, Registry, RegistryError
from kafkakit.settings import RegistrySettings
from kafkakit.writer_schemas import SchemaUnavailableError, WriterSchemas, schema_lookup

RECORD = {
    "type": "record",
    "name": "T",
    "fields": [{"name": "A", "type": "int"}, {"name": "B", "type": "string"}],
}


def message(schema: Any, record: Any, schema_id: int = 1) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
    return b"\0" + struct.pack(">I", schema_id) + body.getvalue()


class Source:
    """A registry that counts questions, and that hangs or fails when told to."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {1: RECORD}
        self.asked: list[int] = []
        self.answers = threading.Event()
        self.answers.set()
        self.is_down = False

    def __call__(self, schema_id: int) -> Any:
        self.asked.append(schema_id)
        assert self.answers.wait(30)
        if self.is_down:
            raise RegistryError("no answer from the registry")
        if schema_id not in self.schemas:
            raise NotRegisteredError(f"no id {schema_id}")
        return self.schemas[schema_id]


def refused(schemas: Callable[[int], Any], schema_id: int) -> type[Exception]:
    with pytest.raises((SchemaError, RegistryError)) as caught:
        schemas(schema_id)
    return caught.type


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_unknown_id_is_asked_for_once_in_a_while() -> None:
    source = Source()
    schemas = WriterSchemas(source, unknown_seconds=0.3)
    assert [refused(schemas, 9) for _ in range(5)] == [UnknownSchemaError] * 5
    assert source.asked == [9]
    time.sleep(0.35)
    source.schemas[9] = RECORD

    def is_known() -> bool:
        try:
            return bool(schemas(9) == RECORD)
        except UnknownSchemaError:
            return False

    until(is_known)
    assert source.asked == [9, 9]


def test_known_ids_go_on_while_the_registry_hangs() -> None:
    source = Source()
    schemas = WriterSchemas(source, wait_seconds=0.2)
    assert schemas(1) == RECORD
    source.answers.clear()
    before = time.monotonic()
    found = Decoder(RECORD, schemas)
    for _ in range(20):
        values = [message(RECORD, {"A": 1, "B": "x"}), message(RECORD, {"A": 2, "B": "y"}, 7), b"\0\0\0\0\x08"]
        decoded = found.decode(values)
        assert decoded.batch.column(0).to_pylist() == [1]
        assert [reject.index for reject in decoded.rejects] == [1, 2]
        assert all("unavailable" in reject.reason for reject in decoded.rejects)
    # Waited for once, not once a message.
    assert time.monotonic() - before < 2
    source.schemas[7] = RECORD
    source.answers.set()
    until(lambda: not found.decode([message(RECORD, {"A": 2, "B": "y"}, 7)]).rejects)


def test_without_any_schema_the_registrys_error_is_raised() -> None:
    source = Source()
    source.is_down = True
    schemas = WriterSchemas(source)
    assert refused(schemas, 1) is RegistryError
    source.is_down = False
    schemas.learn([(3, RECORD)])
    assert refused(schemas, 1) is SchemaUnavailableError
    assert schemas(3) == RECORD


def test_the_thread_ends_when_nothing_is_asked_for() -> None:
    schemas = WriterSchemas(Source())
    assert schemas(1) == RECORD
    until(lambda: all(thread.name != "schema lookup" for thread in threading.enumerate()))


# ------------------------------------------------------------------------------------------- what registries hold
class Client:
    """Confluent's client over some schemas."""

    def __init__(self) -> None:
        self.ids: dict[int, Schema] = {}
        self.versions: dict[tuple[str, int], Schema] = {}

    def get_schema(self, schema_id: int) -> Schema:
        if schema_id not in self.ids:
            raise SchemaRegistryError(404, 40403, "Schema not found")
        return self.ids[schema_id]

    def get_version(self, subject: str, version: int) -> RegisteredSchema:
        if (subject, version) not in self.versions:
            raise SchemaRegistryError(404, 40402, "Version not found")
        return RegisteredSchema(
            schema_id=99, guid=None, subject=subject, version=version, schema=self.versions[subject, version]
        )


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("kafkakit.registry.SchemaRegistryClient", lambda _: made)
    return made


@pytest.fixture
def registry(client: Client) -> Registry:
    return Registry(RegistrySettings(url="http://127.0.0.1:1"))


ADDRESS = '{"type": "record", "name": "Address", "namespace": "other", "fields": [{"name": "zip", "type": "string"}]}'
PERSON = """{"type": "record", "name": "Person", "namespace": "own", "fields": [
    {"name": "home", "type": "other.Address"}, {"name": "work", "type": ["null", "other.Address"]}]}"""


def test_references_are_resolved(client: Client, registry: Registry) -> None:
    client.versions["address", 2] = Schema(ADDRESS, "AVRO")
    client.versions["person", 1] = Schema(PERSON, "AVRO", [SchemaReference("other.Address", "address", 2)])
    fields = [{"name": "a", "type": "own.Person"}, {"name": "at", "type": "other.Address"}]
    pair = json.dumps({"type": "record", "name": "Pair", "fields": fields})
    references = [SchemaReference("own.Person", "person", 1), SchemaReference("other.Address", "address", 2)]
    client.ids[5] = Schema(pair, "AVRO", references)
    schema = registry.avro_schema(5)
    value = {"a": {"home": {"zip": "1"}, "work": None}, "at": {"zip": "3"}}
    found = Decoder(schema, schema_lookup(registry)).decode([message(schema, value, 5)])
    assert found.batch.to_pylist() == [value]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (Schema('{"type": "object", "properties": {"A": {"type": "integer"}}}', "JSON"), "of type JSON"),
        (Schema('syntax = "proto3"; message M { int32 a = 1; }', "PROTOBUF"), "of type PROTOBUF"),
        (Schema('{"type": "object"}', "AVRO"), "not an Avro"),
        (Schema("{", "AVRO"), "not an Avro"),
        (Schema('"int"', "AVRO"), "not an Avro record"),
        (Schema('["int", "string"]', "AVRO"), "not an Avro record"),
        (Schema(PERSON, "AVRO"), "not an Avro"),
        (Schema(PERSON, "AVRO", [SchemaReference("other.Address", "gone", 1)]), "isn't registered"),
        (Schema(PERSON, "AVRO", [SchemaReference("other.Address", "self", 1)]), "refers back"),
    ],
)
def test_schemas_of_other_kinds_cost_their_own_messages_alone(
    client: Client, registry: Registry, schema: Schema, reason: str
) -> None:
    client.ids = {1: Schema(json.dumps(RECORD), "AVRO"), 2: schema}
    client.versions["self", 1] = Schema(PERSON, "AVRO", [SchemaReference("other.Address", "self", 1)])
    good = message(RECORD, {"A": 1, "B": "x"})
    for lookup in (schema_lookup(registry), WriterSchemas(registry.avro_schema)):
        found = Decoder(RECORD, lookup).decode([good, b'\0\0\0\0\2{"v":1}', good, b"\0\xff\xff\xff\xffx"])
        assert found.batch.column(0).to_pylist() == [1, 1]
        assert [reject.index for reject in found.rejects] == [1, 3]
        assert reason in found.rejects[0].reason


def test_a_registry_that_is_away_is_no_messages_fault(client: Client, registry: Registry) -> None:
    def away(schema_id: int) -> Schema:
        raise SchemaRegistryError(500, 50001, "no storage")

    client.get_schema = away  # type: ignore[method-assign]
    with pytest.raises(RegistryError):
        Decoder(RECORD, schema_lookup(registry)).decode([message(RECORD, {"A": 1, "B": "x"})])


# -------------------------------------------------------------------------------------------------- schemas' shapes
@pytest.mark.parametrize("union", [["null", RECORD], [RECORD, "null"], [RECORD]])
def test_a_record_in_a_union_with_null_is_the_record(union: list[Any]) -> None:
    values = [message(union, {"A": 5, "B": "hi"}), message(RECORD, {"A": 6, "B": "x"}, 2)]
    null = message(union, None) if "null" in union else None
    bad = values[0][:5] + b"\x08" + values[0][6:]
    found = Decoder(RECORD, {1: union, 2: RECORD}.__getitem__).decode([*values, null, bad, values[0][:5]])
    assert found.batch.to_pylist() == [{"A": 5, "B": "hi"}, {"A": 6, "B": "x"}]
    assert found.nulls.tolist() == [2]
    assert [reject.index for reject in found.rejects] == [3, 4]


def test_a_type_that_contains_itself_is_read_row_by_row() -> None:
    tree = {**RECORD, "fields": [*RECORD["fields"], {"name": "next", "type": ["null", "T"]}]}  # type: ignore[misc]
    value = {"A": 1, "B": "x", "next": {"A": 2, "B": "y", "next": None}}
    found = Decoder(RECORD, lambda _: tree).decode([message(tree, value)])
    assert found.batch.to_pylist() == [{"A": 1, "B": "x"}]


TREE = {**RECORD, "fields": [*RECORD["fields"], {"name": "next", "type": ["null", "T"]}]}  # type: ignore[misc]
DEEPER = b"\x02\x02x\x02"
ENDLESS = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\0"  # 2^63 - 1 items, and no more
NULLS = {"type": "array", "items": "null"}
NOTHING = {"type": "record", "name": "Z", "fields": [{"name": "f", "type": {"type": "fixed", "name": "F", "size": 0}}]}


@pytest.mark.parametrize(
    ("schema", "body", "reason"),
    [
        (TREE, DEEPER * 300_000, "RecursionError"),
        ({**RECORD, "fields": [{"name": "A", "type": "T"}]}, b"\0", "RecursionError"),
        *(
            ({**RECORD, "fields": [{"name": "X", "type": {"type": "array", "items": items}}]}, ENDLESS, "take no byte")
            for items in (
                "null",
                NOTHING,
                {"type": "record", "name": "E", "fields": []},
                {"type": "fixed", "name": "F", "size": 0},
            )
        ),
        (
            {
                **RECORD,
                "fields": [{"name": "Y", "type": NOTHING}, {"name": "X", "type": {"type": "array", "items": "Z"}}],
            },
            ENDLESS,
            "take no byte",
        ),
        (
            ["null", {**RECORD, "fields": [{"name": "X", "type": {"type": "array", "items": "null"}}]}],
            b"\x02" + ENDLESS,
            "take no",
        ),
    ],
)
def test_no_body_ends_the_process_or_never_ends(schema: Any, body: bytes, reason: str) -> None:
    good, bad = message(RECORD, {"A": 1, "B": "x"}, 2), b"\0" + struct.pack(">I", 1) + body
    found = Decoder(RECORD, {1: schema, 2: RECORD}.__getitem__).decode([good, bad, good])
    assert found.batch.to_pylist() == [{"A": 1, "B": "x"}] * 2
    assert [reject.index for reject in found.rejects] == [1]
    assert reason in found.rejects[0].reason


@pytest.mark.parametrize(
    "items", ["int", ["null", "int"], {"type": "array", "items": "int"}, {"type": "map", "values": "null"}]
)
def test_arrays_whose_items_take_bytes_are_read(items: Any) -> None:
    schema = {**RECORD, "fields": [*RECORD["fields"], {"name": "X", "type": {"type": "array", "items": items}}]}  # type: ignore[misc]
    found = Decoder(RECORD, lambda _: schema).decode([message(schema, {"A": 1, "B": "x", "X": []})])
    assert found.batch.to_pylist() == [{"A": 1, "B": "x"}]


def test_a_reference_keeps_its_own_namespace() -> None:
    inner = {
        "type": "record",
        "name": "In",
        "namespace": "m",
        "fields": [{"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["X"]}}],
    }
    outer = {
        "type": "record",
        "name": "Out",
        "namespace": "n",
        "fields": [
            {"name": "a", "type": "m.In"},
            {"name": "b", "type": {"type": "array", "items": "m.In"}},
            {"name": "c", "type": "m.E"},
        ],
    }
    whole = with_references(outer, {"m.In": inner})
    value = {"a": {"e": "X"}, "b": [{"e": "X"}], "c": "X"}
    assert Decoder(whole, lambda _: whole).decode([message(whole, value)]).batch.to_pylist() == [value]


def test_what_is_unusable_says_so(registry: Registry, client: Client) -> None:
    client.ids[3] = Schema("syntax", "PROTOBUF")
    with pytest.raises(UnusableSchemaError, match="schema id 3 is a schema of type PROTOBUF"):
        registry.avro_schema(3)
    with pytest.raises(NotRegisteredError):
        registry.avro_schema(2**31)
