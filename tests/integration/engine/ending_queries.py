"""Opens sessions of a query's stage and ends each about when its group assigns it the partitions.

It is a process of its own, because a freeze stops all of it.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heartwatch.settings import load_settings
from ksqlengine.server.engine import Engine, EngineConfig
from ksqlengine.streams.stage_thread import open_session

_THREADS, _ROUNDS = 4, 25
_FIRST_SECONDS, _LAST_SECONDS = 0.04, 0.12  # after it joined; the broker answers after some 70 ms


def main(service_id: str, data_dir: str) -> None:
    settings = load_settings()
    engine = Engine(EngineConfig(settings.kafka, settings.registry, service_id, Path(data_dir)))
    engine.start()
    engine.execute(
        f"CREATE STREAM S (A INT) WITH (KAFKA_TOPIC='{service_id}S', FORMAT='JSON', PARTITIONS=2);"
        f"CREATE STREAM D WITH (KAFKA_TOPIC='{service_id}D') AS SELECT * FROM S;"
    )
    (query,) = engine.queries.values()
    stage, context = query.threads[0].stage, query.threads[0].context

    def open_and_end(number: int) -> None:
        moments = random.Random(number)
        for round_ in range(_ROUNDS):
            session = open_session(stage, context, f"{service_id}{number}-{round_}")
            time.sleep(moments.uniform(_FIRST_SECONDS, _LAST_SECONDS))
            session.close()

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(open_and_end, range(_THREADS)))
    engine.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
