"""Deploys, plans and tears down all stages of a pipeline version."""

from __future__ import annotations

from collections.abc import Callable

from heartwatch.deploy import pipeline
from heartwatch.deploy.pipeline import STAGES
from heartwatch.deploy.plan import Plan, apply
from heartwatch.deploy.teardown import tear_down
from heartwatch.settings import Settings

Versions = Callable[[], Settings]


def deploy(settings: Settings) -> Plan:
    """Deploy all stages; return what was changed."""
    done = Plan()
    for stage in STAGES:
        deployer = pipeline.deployer(stage, settings)
        done += apply(deployer.plan(), deployer)
    return done


def plan(settings: Settings) -> Plan:
    """Plan all stages."""
    planned = Plan()
    for stage in STAGES:
        planned += pipeline.deployer(stage, settings).plan()
    return planned


def remove(settings: Settings) -> None:
    """Tear a version down, tables too."""
    teardown = pipeline.teardown(settings, iceberg_tables=True)
    tear_down(teardown.plan(), teardown)
