"""Runs stages against Kafka: consume, transaction, recovery."""
