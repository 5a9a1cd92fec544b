"""Sends event batches: shards cut by partition, one transaction for events and progress, resumed where it ended."""
