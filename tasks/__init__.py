"""Prefect tasks: one module per outside system, thin over the heartwatch package."""

import tasks.secrets  # noqa: F401  settings of flows take secrets from a block
