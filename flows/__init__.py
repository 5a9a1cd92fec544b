"""Prefect flows: one file a deployment; file, flow and deployment share their name."""
