"""Proves what the pipeline did: the sink against Kafka, the alerts against a batch computation, rates against objectives."""
