"""The Python API: KSQL over given rows, in this process, without Kafka; `ksqlengine` itself has the names to use."""
