"""Plan and apply: topics, schemas, connectors and KSQL migrations of one version of an analytic; and their tear-down."""
