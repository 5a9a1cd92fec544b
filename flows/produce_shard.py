"""Send one shard of a producer run. Started by `produce` on the workers of the producers' pool, one flow run per shard.

Requires: Kafka, the schema registry. Stops within five seconds when the variable `producer_run` is 0.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from heartwatch.produce.reports import ShardReport
from heartwatch.produce.sources import shards_of
from heartwatch.produce.spec import RunSpec
from tasks.produce import send_shard


@flow(name="produce-shard")
def produce_shard(spec: RunSpec, shard: Annotated[int, Field(ge=0)] = 0) -> ShardReport:
    """Send a shard's events.

    Args:
        spec: Producer run of which this is a part, as `produce` describes it.
        shard: Number of the shard, from 0.

    Returns:
        what was sent of the shard.

    Raises:
        DeliveryError: messages could not be delivered.
        SourceError: the source can't be opened.
    """
    return send_shard(spec, shards_of(spec)[shard])
