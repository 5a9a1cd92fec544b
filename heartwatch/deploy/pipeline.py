"""The pipeline version of some settings: which deployers it has, in their order, and how it is torn down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Literal

from heartwatch.analytic import Analytic
from heartwatch.connect import Connect
from heartwatch.deploy.connectors import Config, Connectors, connector_configs
from heartwatch.deploy.migrations import Migrations, MigrationState, migrations_topic, query_properties, read_migrations
from heartwatch.deploy.plan import Deployer
from heartwatch.deploy.schemas import Schemas
from heartwatch.deploy.teardown import Clients, Footprint, Teardown
from heartwatch.deploy.topics import Topics, analytic_topics, service_topics
from heartwatch.iceberg import open_catalog
from heartwatch.postgres import connect
from heartwatch.ranges.load import create_table
from heartwatch.settings import Settings
from kafkakit.admin import KafkaAdmin, TopicState
from kafkakit.registry import Registry
from ksqlengine.client.rest_client import Ksqldb
from ksqlengine.internal_names import AHEAD

Stage = Literal["topics", "schemas", "connect", "ksql"]

STAGES: tuple[Stage, ...] = ("topics", "schemas", "connect", "ksql")
"""Stages of a deploy in their order: connectors and queries need topics and schemas; a table is filled by the source."""


def deployer(stage: Stage, settings: Settings, report: Callable[[str], None] = lambda _: None) -> Deployer:
    """Return what deploys one stage of the settings' pipeline version.

    Args:
        stage: which.
        settings: where everything is, and the pipeline's analytic, version and variables.
        report: called with lines about what the servers say.

    Raises:
        heartwatch.analytic.AnalyticError: there is no such analytic.
        heartwatch.deploy.plan.DeployError: one of the analytic's files is wrong.
    """
    analytic = Analytic.of(settings.pipeline)
    if stage == "topics":
        configs = connector_configs(analytic, settings).values()
        wanted = [*_topics(analytic, settings), *service_topics(configs, settings.kafka)]
        return Topics(KafkaAdmin(settings.kafka), wanted)
    if stage == "schemas":
        return Schemas(Registry(settings.registry), analytic, settings.registry)
    if stage == "connect":
        return Connectors(Connect(settings.connect), connector_configs(analytic, settings), partial(_prepare, settings))
    ksqldb = Ksqldb(settings.ksqldb)
    return Migrations(
        ksqldb,
        MigrationState(settings.kafka, migrations_topic(analytic)),
        read_migrations(
            analytic.migrations_folder, analytic.variables(settings.pipeline.variables), analytic.repartition
        ),
        query_properties(settings, ksqldb.has_property(AHEAD)),
        report,
    )


def _prepare(settings: Settings, config: Config) -> None:
    """Make what a connector doesn't make itself, or what its tasks would race for."""
    if "iceberg.catalog" in config:
        open_catalog(settings.postgres, settings.s3).create_namespace_if_not_exists(settings.s3.namespace)
    if config.get("table.include.list") == f"public.{settings.postgres.historical_table}":
        with closing(connect(settings.postgres)) as connection:
            create_table(connection, settings.postgres.historical_table)


def teardown(settings: Settings, iceberg_tables: bool) -> Teardown:
    """Return what tears down the settings' pipeline version.

    Args:
        settings: where everything is, and the pipeline's analytic and version.
        iceberg_tables: whether the sink's tables and their files go too.

    Raises:
        heartwatch.analytic.AnalyticError: there is no such analytic.
        heartwatch.deploy.plan.DeployError: one of the analytic's files is wrong.
    """
    analytic = Analytic.of(settings.pipeline)
    configs = connector_configs(analytic, settings)
    topics = [
        *_topics(analytic, settings),
        *service_topics(configs.values(), settings.kafka),
    ]
    migrations = read_migrations(
        analytic.migrations_folder, analytic.variables(settings.pipeline.variables), analytic.repartition
    )
    footprint = Footprint(
        topics=(*(topic.name for topic in topics), migrations_topic(analytic)),
        connectors=configs,
        sources=tuple(name for migration in migrations for _, name in migration.sources),
    )
    clients = Clients(
        kafka=KafkaAdmin(settings.kafka),
        registry=Registry(settings.registry),
        connect=Connect(settings.connect),
        ksqldb=Ksqldb(settings.ksqldb),
        postgres=settings.postgres,
        s3=settings.s3,
    )
    return Teardown(clients, footprint, iceberg_tables)


def _topics(analytic: Analytic, settings: Settings) -> list[TopicState]:
    return analytic_topics(analytic, settings.kafka, settings.pipeline.max_ahead_ms)
