"""Daily and weekly reports over what the sink wrote to S3."""
