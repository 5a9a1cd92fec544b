"""The root of this package's exceptions.

::

    KsqlEngineError
    ├── KsqlError                   types.errors: a request that can't be served, as the REST API returns it
    │   └── StatementError          types.errors: a statement that can't be run
    │       ├── ParseError          types.errors: text that is not KSQL
    │       ├── ExpressionError     types.errors: parts of an expression that do not fit together
    │       ├── NotSupportedError   types.errors: KSQL that ksqlDB runs and this engine doesn't
    │       ├── RequestError        server.engine: a statement failed after others of its request were carried out
    │       └── _MismatchError      planning.common_type: two values have no common type
    ├── RenderingError              language.rendering
    ├── PatternError                types.times: a pattern of dates and times (a ValueError)
    ├── FormatError                 formats.base: columns that don't fit their format
    ├── InexactError                formats.values: a number's digits are needed, and it was read as a float
    ├── _Unsupported                formats.avro: a type that KSQL doesn't have
    ├── _OtherwiseWrittenError      formats.json_columns: messages for the lenient parser
    ├── EngineStartError            server.engine
    ├── CommandConflictError        server.command_topic: another engine wrote commands at the same time
    ├── AssignmentLostError         streams.context: the group gave this process's partitions away
    ├── UndeliveredError            streams.context: results could not be written
    ├── ForgottenRecordsError       streams.context: records that a state is made of are gone
    ├── ChangelogError              streams.changelog: a state can't be restored
    ├── CaseFileError               testing.cases: a test's file can't be used
    ├── RecordError                 testing.records: a record that doesn't fit its topic's format
    ├── AssertionMismatch           testing.refusals: an ASSERT is not true
    ├── RowError                    api.rows: rows that a stream or table can't take
    └── KsqldbError                 client.rest_client: a server refused, or didn't answer
        ├── KsqldbUnavailableError  no server could be reached
        │   └── _NoServerError      no server took the request: it may be repeated
        └── StatementRefusedError   the server refused a statement
            └── _FencedError        another client's statement came first: sent again
"""

from __future__ import annotations


class KsqlEngineError(Exception):
    """Something that the engine or its client expects to go wrong did; the message says what."""
