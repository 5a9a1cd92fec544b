"""The proof that the sink is complete: each record of Kafka once in S3, with the same contents."""
