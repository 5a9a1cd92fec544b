"""Names of properties that ksqlDB 8.2 has and that this engine has no use for: accepted, without effect.

Source: ksqlDB's ``KsqlConfig`` and the settings of Kafka Streams, consumers and producers that its sessions may set.
"""

from __future__ import annotations

_OF_KSQLDB = """
    access.validator.enable admin.request.retry.timeout.ms assert.schema.default.timeout.ms assert.topic.default.timeout.ms
    authorization.cache.expiry.time.secs authorization.cache.max.entries cast.strings.preserve.nulls
    client.ip_port.configuration.enabled create.or.replace.enabled create.topic.inherit.source.replicas.enabled
    endpoint.migrate.query error.classifier.regex extension.dir fail.on.deserialization.error fail.on.production.error
    fetch.remote.hosts.max.timeout.seconds headers.columns.enabled hidden.topics insert.into.values.enabled
    internal.topic.min.insync.replicas internal.topic.replicas json_sr.converter.deserializer.enabled
    kafka.client.additional.config.prefixes lambdas.enabled metastore.backup.location metrics.extension metrics.tags.custom
    nested.error.set.null new.query.planner.enabled output.topic.name.prefix persistence.default.format.key
    persistence.default.format.value persistence.wrap.single.values persistent.prefix properties.overrides.allowlist
    properties.overrides.denylist properties.overrides.log properties.overrides.range.validation.log.enabled
    properties.overrides.validation.mode properties.overrides.validation.restore.enabled proxy.protocol.local.mode.enabled
    pull.queries.enable query.cleanup.shutdown.timeout.ms query.error.max.queue.size query.persistent.active.limit
    query.persistent.max.bytes.buffering.total query.pull.coordinator.queue.capacity query.pull.enable.standby.reads
    query.pull.forwarding.timeout.ms query.pull.interpreter.enabled query.pull.limit.clause.enabled
    query.pull.max.allowed.offset.lag query.pull.max.concurrent.requests query.pull.max.hourly.bandwidth.megabytes
    query.pull.max.qps query.pull.metrics.enabled query.pull.range.scan.enabled query.pull.router.queue.capacity
    query.pull.router.thread.pool.size query.pull.stream.enabled query.pull.table.scan.enabled query.pull.thread.pool.size
    query.push.v2.alos.enabled query.push.v2.catchup.consumer.msg.window query.push.v2.continuation.tokens.enabled
    query.push.v2.enabled query.push.v2.interpreter.enabled query.push.v2.latest.reset.age.ms
    query.push.v2.max.catchup.consumers query.push.v2.max.hourly.bandwidth.megabytes query.push.v2.metrics.enabled
    query.push.v2.new.latest.delay.ms query.push.v2.registry.installed query.retry.backoff.initial.ms
    query.retry.backoff.max.ms query.status.running.threshold.seconds query.transient.max.bytes.buffering.total
    queryanonymizer.cluster_namespace queryanonymizer.logs_enabled readonly.topics resource.extension.class
    runtime.feature.shared.enabled schema.registry.url security.extension.class service.id shared.runtimes.count
    sink.window.change.log.additional.retention source.table.materialization.enabled streams.shutdown.timeout.ms
    suppress.buffer.size.bytes suppress.enabled timestamp.throw.on.invalid transient.prefix
    transient.query.cleanup.service.enable transient.query.cleanup.service.initial.delay.seconds
    transient.query.cleanup.service.period.seconds udf.collect.metrics udf.enable.security.manager udfs.enabled
    variable.substitution.enable websocket.connection.max.timeout.ms
"""

_OF_KAFKA = """
    acceptable.recovery.lag acks batch.size buffer.memory buffered.records.per.partition cache.max.bytes.buffering
    check.crcs client.dns.lookup client.rack compression.type connections.max.idle.ms default.api.timeout.ms
    default.deserialization.exception.handler default.production.exception.handler default.timestamp.extractor
    delivery.timeout.ms deserialization.exception.handler enable.idempotence exclude.internal.topics fetch.max.bytes
    fetch.max.wait.ms fetch.min.bytes group.instance.id heartbeat.interval.ms isolation.level linger.ms max.block.ms
    max.in.flight.requests.per.connection max.partition.fetch.bytes max.poll.interval.ms max.poll.records max.request.size
    max.warmup.replicas metadata.max.age.ms num.standby.replicas partitioner.class poll.ms probing.rebalance.interval.ms
    processing.exception.handler production.exception.handler receive.buffer.bytes reconnect.backoff.max.ms
    reconnect.backoff.ms repartition.purge.interval.ms request.timeout.ms retries retry.backoff.max.ms retry.backoff.ms
    rocksdb.config.setter send.buffer.bytes session.timeout.ms state.cleanup.delay.ms statestore.cache.max.bytes
    task.timeout.ms topology.optimization transaction.timeout.ms window.store.change.log.additional.retention.ms
"""

WITHOUT_EFFECT = frozenset(f"ksql.{name}" for name in _OF_KSQLDB.split()) | frozenset(_OF_KAFKA.split())
"""Full names, without the prefixes ``ksql.streams.``, ``consumer.`` and ``producer.`` that those of Kafka may carry."""
