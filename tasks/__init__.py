"""Prefect tasks: one module per outside system, thin over the heartwatch package."""
