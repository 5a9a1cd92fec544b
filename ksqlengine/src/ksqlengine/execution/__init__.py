"""Plan steps as operators over frames; no Kafka."""
