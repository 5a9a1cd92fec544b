"""The root of HeartWatch's exceptions, and what may stop a command or a flow with one sentence.

Each exception stands in the room that raises it; `tests/unit/test_errors.py` holds this tree against the code.

::

    HeartWatchError
    ├── SettingsError               settings: a value that can't be used
    ├── MissingExtraError           extras: packages that aren't installed (an ImportError)
    ├── AnalyticError               analytic: no such analytic, or a file of it can't be used
    ├── PostgresError               postgres: the database refused, or could not be reached
    ├── ConnectError                connect: Kafka Connect refused, or could not be reached
    │   ├── UnknownConnectorError   there is no such connector
    │   ├── InvalidConnectorError   the configuration was refused
    │   ├── ConnectorFailedError    tasks failed more often than they may
    │   └── _RefusedForNowError     workers are electing a leader: asked again
    ├── DeployError                 deploy: a change could not be made
    │   ├── RefusedPlanError        nothing was changed: the plan has a change that isn't allowed
    │   ├── ConnectorFileError      a connector's file
    │   └── MigrationError          a KSQL migration
    ├── AutomationError             deploy.automations
    ├── SourceError                 produce.table_source: the input can't be read
    ├── DeliveryError               produce.sender: Kafka refused events
    │   └── FencedError             a newer producer of the same shard took over
    ├── ProduceError                produce.dispatch: a run could not send all it should have
    ├── AbandonedError              produce.process: nobody wants a shard's events any more
    ├── PeopleError                 simulate.people (a ValueError)
    ├── SimulationError             simulate.simulation (a ValueError)
    ├── UniformError                simulate.uniform (a ValueError)
    ├── RecordingError              files.recordings
    ├── RejectFileError             files.rejects: what was left out can't be written down
    ├── InspectError                inspect: neither a recording nor a table
    ├── TableError                  files.tables: a table can't be read
    ├── TimeError                   files.times: not a time, or not a plausible one
    ├── _UnfitError                 files.samples: a sample doesn't count
    ├── _EntityError                files.tracks: an XML file declares entities
    ├── HistoricalError             ranges
    ├── SinkError                   sink: the sink can't be read
    ├── ObjectError                 sink: one object of it can't be read
    ├── BusyError                   proof.store: another check of the topic is running
    ├── BatchError                  verify.batch
    ├── NotReadyError               verify.topics: something did not become ready in time
    ├── ReportError                 report
    ├── RunResultError              run_report: a run left no result that can be read
    ├── PlatformError               platform: the embedded platform
    │   ├── PackageError            a pinned package
    │   ├── PartError               one part
    │   ├── RightsError             brokers refused an account or its rights
    │   └── DamagedStateError       the file that says what runs
    ├── NotHealthyError             platform.services: a part isn't healthy, or not yet
    ├── ClustersError               clusters: the EC2 clusters
    │   ├── SpecError               what was asked for is impossible
    │   ├── AwsError                AWS refused, or could not be reached
    │   └── MachinesError           machines are gone, or a script failed on some
    └── (web)
        ├── AccessError             web.access: somebody may not do what was asked for
        │   └── TooManyTriesError
        ├── OrderError              web.operations: what was typed is not an order
        ├── PrefectError            Prefect refused, or could not be reached
        └── StorageError            the S3 store refused, or could not be reached

`tasks` and `flows` derive theirs from the same root. The other two packages know nothing of this one and have roots of their own:
`kafkakit.errors.KafkaKitError` and `ksqlengine.errors.KsqlEngineError`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kafkakit.errors import KafkaKitError
from ksqlengine.errors import KsqlEngineError


class HeartWatchError(Exception):
    """Something that HeartWatch expects to go wrong did; the message names what failed, the value and the remedy."""


ROOT_ERRORS = (HeartWatchError, KafkaKitError, KsqlEngineError)
"""Errors whose message is all that a user needs: a program ends with it instead of a traceback, and with exit code 1."""


@contextmanager
def one_sentence(program: str) -> Iterator[None]:
    """End the program where a root error comes out of it: its message on the standard error stream, exit code 1.

    Args:
        program: what a user has called, for the message.

    Raises:
        SystemExit: a root error was raised.
    """
    try:
        yield
    except ROOT_ERRORS as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
