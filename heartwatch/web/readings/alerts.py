"""The topic of the alerts: its newest part at first, then whatever arrives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from heartwatch.analytic import Analytic, PageDefinition
from heartwatch.settings import Settings
from heartwatch.web.alerts import Episode, Episodes, alert_of
from heartwatch.web.readings.decoding import decoder
from heartwatch.web.timeouts import REQUEST_SECONDS
from kafkakit.admin import QUIET, OffsetReader, Partition, UnknownTopicError, consumer_config
from kafkakit.batch_consumer import BatchConsumer, MessageBatch, open_batch_consumer

_POLL_SECONDS = 0.2
_LIMIT = 2_000


@dataclass(frozen=True)
class AlertsReading:
    """What is known about the alerts.

    Attributes:
        total: alerts that arrived since the page began to read; earlier ones don't count.
        episodes: the newest episodes, newest first.
        version: changes whenever they do.
        latest_ms: end of the latest window, ms since the epoch; 0 without any.
        rejected: records that are not alerts.
    """

    total: int = 0
    episodes: tuple[Episode, ...] = ()
    version: int = 0
    latest_ms: int = 0
    rejected: int = 0


class AlertsReader:
    """Reads the topic of the alerts: its newest part at first, then whatever arrives."""

    part: ClassVar[str] = "Alerts"
    interval_seconds: ClassVar[float] = 0.6

    def __init__(self, settings: Settings, analytic: Analytic, page: PageDefinition) -> None:
        """Take the settings; nothing is read before `read`."""
        self._settings, self._page = settings, page
        self._topic = analytic.results_topic
        self._decoder = decoder(settings, analytic, analytic.results)
        self._offsets = OffsetReader(settings.kafka, REQUEST_SECONDS)
        self._consumer: BatchConsumer | None = None
        # Where the topic ended when the page began to read; None before that.
        self._old: dict[Partition, int] | None = None
        # First offset that was not yet taken.
        self._next: dict[Partition, int] = {}
        self._episodes = Episodes(settings.web.remembered_alerts)
        self._reading = AlertsReading()

    def read(self) -> AlertsReading:
        """Take what has arrived since the previous reading.

        Raises:
            UnknownTopicError: the topic doesn't exist.
            KafkaClientError: the brokers don't answer.
            BatchConsumerError: the topic can't be read.
        """
        consumer = self._consumer or self._open()
        try:
            deadline = time.monotonic() + REQUEST_SECONDS
            while time.monotonic() < deadline and len(batch := consumer.poll(_POLL_SECONDS, _LIMIT)):
                self._take(batch)
        except Exception:
            # The topic was recreated, or its schema is missing: a new client continues after what was taken.
            self.close()
            raise
        return self._reading

    def close(self) -> None:
        """Close the client."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _open(self) -> BatchConsumer:
        most = self._settings.web.remembered_alerts
        self._offsets = OffsetReader(self._settings.kafka, REQUEST_SECONDS)
        try:
            ends = self._offsets.ends([self._topic])
        except UnknownTopicError:
            self._start_over()
            raise
        if self._old is None:
            # Alerts from before the page began to read are shown, but are not news.
            self._old = dict(ends)
        elif any(end < self._next.get(where, 0) for where, end in ends.items()):
            self._start_over()
        self._next = {where: max(self._next.get(where, 0), end - most) for where, end in ends.items()}
        consumer = open_batch_consumer(consumer_config(self._settings.kafka, "heartwatch-web") | QUIET)
        consumer.assign([(*where, offset) for where, offset in self._next.items()])
        self._consumer = consumer
        return consumer

    def _start_over(self) -> None:
        """Forget the alerts of a deleted topic: all that a new topic of its name has is news."""
        self._old, self._next = {}, {}
        self._episodes = Episodes(self._settings.web.remembered_alerts)
        self._reading = AlertsReading(total=self._reading.total, version=self._reading.version + 1)

    def _take(self, batch: MessageBatch) -> None:
        decoded = self._decoder.decode(batch.value.to_pylist())
        spans = _spans(batch)
        if any(begin < self._next.get((self._topic, partition), 0) for partition, (begin, _) in spans.items()):
            self._start_over()
        old = self._old or {}
        rows = decoded.batch.to_pylist()
        alerts = [alert for alert in (alert_of(row, self._page) for row in rows) if alert is not None]
        self._episodes.add(alerts)
        before = self._reading
        news = sum(
            int(offset) >= old.get((self._topic, int(partition)), 0)
            for partition, offset in zip(batch.partition[decoded.indices], batch.offset[decoded.indices], strict=True)
        )
        self._next |= {(self._topic, partition): end for partition, (_, end) in spans.items()}
        self._reading = AlertsReading(
            total=before.total + news,
            episodes=self._episodes.newest_first(),
            version=before.version + 1,
            latest_ms=max([before.latest_ms, *(alert.end_ms for alert in alerts)]),
            rejected=before.rejected + len(decoded.rejects) + len(rows) - len(alerts),
        )


def _spans(batch: MessageBatch) -> dict[int, tuple[int, int]]:
    """Return the first offset of each partition in a batch, and the offset after the last."""
    spans = {}
    for partition in np.unique(batch.partition).tolist():
        offsets = batch.offset[batch.partition == partition]
        spans[partition] = int(offsets[0]), int(offsets[-1]) + 1
    return spans
