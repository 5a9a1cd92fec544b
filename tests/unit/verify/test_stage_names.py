"""Names of stages and of their consumer groups, as Kafka Connect and ksqlDB make them."""

from __future__ import annotations

from heartwatch.analytic import Analytic
from heartwatch.settings import load_settings
from heartwatch.verify.stages import StageReader, sink_readers
from ksqlengine.internal_names import query_group


def test_groups_are_named_as_their_servers_name_them() -> None:
    assert query_group("default_", "CTAS_ALERTS_7") == "_confluent-ksql-default_query_CTAS_ALERTS_7"
    assert sink_readers(Analytic.of(load_settings().pipeline)) == [
        StageReader("alerts sink", "heart_rate_alerts_v1", "connect-heart_rate_alerts_sink_v1"),
        StageReader("realtime sink", "heart_rate_realtime_v1", "connect-heart_rate_realtime_sink_v1"),
    ]
