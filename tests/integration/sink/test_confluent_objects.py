"""Objects as Confluent's S3 sink names them, on the real S3 server, proven against a real topic and remembered in Postgres."""

from __future__ import annotations

import io

import fastavro
import pytest
from confluent_kafka import Consumer, TopicPartition
from conftest import RESOURCE, VERSION, Pipe, places
from pyarrow.fs import FileSystem
from pyiceberg.io.pyarrow import PyArrowFileIO

from heartwatch.analytic import Analytic
from heartwatch.iceberg import file_properties
from heartwatch.platform.platform import Platform
from heartwatch.proof.findings import Kind, SinkProof
from heartwatch.proof.topic import Request, prove_records
from heartwatch.settings import load_settings
from kafkakit.admin import TopicState, consumer_config
from kafkakit.registry import Registry

pytestmark = pytest.mark.parts("kafka", "registry", "postgres", "s3")


@pytest.fixture
def pipe(platform: Platform) -> Pipe:
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "pipeline": settings.pipeline.model_copy(update={"version": VERSION + 1}),
            "s3": settings.s3.model_copy(update={"layout": "confluent"}),
        }
    )
    pipe = Pipe(settings, Analytic.of(settings.pipeline))
    pipe.admin.create([TopicState(pipe.topic, 2, 1)])
    text = pipe.analytic.schema_text(RESOURCE)
    pipe.schema_id = Registry(settings.registry).register(f"{pipe.topic}-value", text).schema_id
    return pipe


def copy_to_s3(pipe: Pipe, files: FileSystem, partition: int, begin: int, end: int) -> str:
    """Write the object that the sink would make of a range."""
    consumer = Consumer(consumer_config(pipe.settings.kafka, "copy"))
    consumer.assign([TopicPartition(pipe.topic, partition, begin)])
    rows = []
    while not rows or rows[-1][0] < end - 1:
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        rows.append((message.offset(), message.value()))
    consumer.close()
    file = io.BytesIO()
    values = [fastavro.schemaless_reader(io.BytesIO(value[5:]), pipe.schema, None) for _, value in rows if value]
    fastavro.writer(file, pipe.schema, values, codec="deflate")
    folder = f"{pipe.settings.s3.bucket}/{pipe.settings.s3.topics_folder}/{pipe.topic}/partition={partition}"
    path = f"{folder}/{pipe.topic}+{partition}+{begin:010}.avro"
    with files.open_output_stream(path) as stream:
        stream.write(file.getvalue())
    return path


def proof_of(pipe: Pipe) -> SinkProof:
    found = prove_records(pipe.settings, pipe.analytic, RESOURCE, Request(0))
    assert found is not None
    return found[0]


def test_objects_are_proven_and_their_faults_found(pipe: Pipe) -> None:
    files = PyArrowFileIO(file_properties(pipe.settings.s3)).fs_by_scheme("s3", pipe.settings.s3.bucket)
    # Offsets 2, 4 and 8 hold markers, 3 an aborted record, 6 a tombstone: the object's name tells the first offset only.
    pipe.send(0, 1, 2)
    pipe.send(0, 3, abort=True)
    _, last = pipe.send(0, 4, None, 5)
    begin, end = pipe.send(1, *range(4))
    path = copy_to_s3(pipe, files, 0, 0, last + 1)
    assert places(proof_of(pipe), *Kind) == [(Kind.BEHIND, 1, begin, end, 4)]
    copy_to_s3(pipe, files, 1, begin, end + 1)
    proof = proof_of(pipe)
    assert proof.findings == []
    assert [(one.first, one.last, one.in_sink + one.proven_before) for one in proof.partitions] == [
        (0, last, 4),
        (0, end, 4),
    ]
    assert proof_of(pipe).read == 0
    # The same object in another folder, as after a restart within another hour.
    twice = path.replace("partition=0", "hour=11")
    files.copy_file(path, twice)
    assert places(proof_of(pipe), *Kind) == [(Kind.DUPLICATE, 0, 0, 5, 3), (Kind.DUPLICATE, 0, 7, 7, 1)]
    files.delete_file(twice)
    assert proof_of(pipe).findings == []
    files.delete_file(path)
    assert set(places(proof_of(pipe), *Kind)) == {
        (Kind.OBJECT_GONE, 0, 0, 0, 1),
        (Kind.BEHIND, 0, 0, 5, 3),
        (Kind.BEHIND, 0, 7, 7, 1),
    }
