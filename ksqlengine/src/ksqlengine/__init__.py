"""The embedded KSQL engine: ksqlDB's SQL, semantics and REST API over Polars frames and Kafka."""
