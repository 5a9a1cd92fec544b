"""How two record schemas differ, for people who read a plan."""

import json

from heartwatch.deploy.schemas import describe_fields


def record(**fields: str) -> str:
    return json.dumps(
        {"type": "record", "name": "R", "fields": [{"name": key, "type": value} for key, value in fields.items()]}
    )


def test_fields_are_told_apart():
    assert describe_fields(record(a="int", b="int"), record(b="long", c="int")) == "adds c; removes a; changes b"
    assert describe_fields(None, record(a="int")) == "adds a"
    assert describe_fields(record(a="int"), record(a="int")) == "differs in its texts"
