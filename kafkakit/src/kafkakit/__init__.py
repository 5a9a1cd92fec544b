"""Kafka for Python pipelines: admin, schema registry, Avro columns, batch consumer, partitioner."""
