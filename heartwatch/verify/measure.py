"""Measures rates, lags and latencies: for a while, as a check does, or over a whole run; what is found is kept in Postgres."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heartwatch.analytic import Analytic
from heartwatch.monitoring import Latency, Monitoring, Sample, StageRate
from heartwatch.produce.spec import RunSpec
from heartwatch.settings import Settings
from heartwatch.verify.latency import closing_ms, percentiles
from heartwatch.verify.stages import Recorder, Sampler, results_stage, stream_stage
from heartwatch.verify.throughput import (
    Headline,
    Steady,
    breaches,
    headline,
    is_idle,
    is_running,
    stage_rates,
    steady,
)

_REMEMBERED_SECONDS = 3_600
_NOTE_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """What a check found.

    Attributes:
        rates: of each stage.
        latencies: of the results that came meanwhile.
        running: whether a run is on.
        missed: objectives that are missed, one sentence each.
    """

    rates: list[StageRate]
    latencies: list[Latency]
    running: bool
    missed: list[str]


def asked_rate(specs: Sequence[RunSpec]) -> float | None:
    """Return the limit of the rate that runs were given, events/s, all together; None where there are none or one has no limit.

    A run in the pace of its events' own times has a rate that nobody stated: nothing is asked of it.

    Args:
        specs: of the runs under way; a run may be named by each of its shards.
    """
    runs = {spec.run_id: spec for spec in specs}.values()
    if not runs or any(spec.events_per_second is None and spec.speed is None for spec in runs):
        return None
    return sum(spec.events_per_second or 0.0 for spec in runs if spec.speed is None)


def measure_stages(
    settings: Settings, seconds: float, interval_seconds: float, specs: Sequence[RunSpec] = ()
) -> Measured | None:
    """Sample the stages for some time, keep what was found, and compare it with the objectives.

    Where nothing came in since the check before and no stage has work, one sample is enough.

    Args:
        settings: which pipeline, where its servers are, and the objectives.
        seconds: how long to sample, s.
        interval_seconds: time between two samples, s.
        specs: of the producer runs under way, as far as they are known: what they were asked for is all that can come.

    Returns:
        None where the pipeline isn't deployed or at rest.

    Raises:
        KafkaClientError: the brokers could not be asked.
        PostgresError: Postgres could not be asked.
    """
    sampler, memory = Sampler(settings), Monitoring(settings.postgres, settings.pipeline)
    if not sampler.deployed:
        return None
    memory.forget(settings.monitoring.retention_days)
    before, first = memory.last_sample(), sampler.sample(settled=True)
    if is_idle(first, before):
        memory.add_samples([first])
        return None
    samples = _sample_for(sampler, seconds, interval_seconds)
    earlier = memory.samples(samples[0].at - _REMEMBERED_SECONDS)
    memory.add_samples(samples)
    return _judge(settings, sampler, memory, samples, earlier, asked_rate(specs))


def _sample_for(sampler: Sampler, seconds: float, interval_seconds: float) -> list[Sample]:
    samples = [sampler.sample()]
    deadline = time.monotonic() + seconds
    due = time.monotonic() + interval_seconds
    while time.monotonic() < deadline:
        time.sleep(_NOTE_SECONDS)
        if time.monotonic() < due:
            sampler.note()
        else:
            samples.append(sampler.sample())
            due += interval_seconds
    last = sampler.sample(settled=True)
    # Rates of two samples a moment apart say nothing: one transaction between them is a peak, none is a standstill.
    if len(samples) > 1 and last.at - samples[-1].at < interval_seconds / 2:
        samples.pop()
    return [*samples, last]


def _judge(
    settings: Settings,
    sampler: Sampler,
    memory: Monitoring,
    samples: list[Sample],
    earlier: list[Sample],
    asked: float | None,
) -> Measured:
    rates, late = stage_rates(samples, earlier), timed_results(settings, sampler)
    memory.add_rates(samples[-1].at, samples[-1].at - samples[0].at, rates)
    memory.add_latencies(late)
    stage = stream_stage(Analytic.of(settings.pipeline))
    running = is_running(samples, stage)
    latency_ms = percentiles(closing_ms(late))
    missed = breaches(rates, samples, stage, settings.objectives, latency_ms, asked) if running else []
    return Measured(rates, late, running, missed)


def timed_results(settings: Settings, sampler: Sampler, variables: Mapping[str, str] | None = None) -> list[Latency]:
    """Return the latencies of the results that came while a sampler took notes; none for a query without windows.

    Args:
        settings: which analytic.
        sampler: whose notes.
        variables: overrides of the KSQL variables.
    """
    analytic = Analytic.of(settings.pipeline)
    names = analytic.variables({**settings.pipeline.variables, **(variables or {})})
    if not {"window_ms", "grace_ms"} <= names.keys():
        return []
    return sampler.latencies(int(names["window_ms"]), int(names["grace_ms"]))


@dataclass(frozen=True)
class Figures:
    """What a whole run's samples say.

    Attributes:
        rates: of each stage over the run.
        missed: objectives that are missed, one sentence each.
        headline: the original's figure; None when nothing moved.
        steady: the rate that the run sustained; None when it was too short.
        latency_ms: 50th, 95th and 99th percentile of the time from a window's closing event to its result, ms; None when none
            was timed.
    """

    rates: list[StageRate]
    missed: list[str]
    headline: Headline | None
    steady: Steady | None
    latency_ms: tuple[float, float, float] | None


def measure_run(recorder: Recorder, settings: Settings, variables: Mapping[str, str]) -> Figures:
    """Keep what a recorder has found of a run, and make the run's figures of it.

    Args:
        recorder: that has ended.
        settings: where the rows are kept.
        variables: overrides of the KSQL variables.

    Raises:
        PostgresError: Postgres could not be asked.
    """
    memory = Monitoring(settings.postgres, settings.pipeline)
    samples, late = recorder.samples, timed_results(settings, recorder.sampler, variables)
    rates, latency_ms = stage_rates(samples), percentiles(closing_ms(late))
    memory.add_samples(samples)
    memory.add_latencies(late)
    analytic = Analytic.of(settings.pipeline)
    events, results = stream_stage(analytic), results_stage(analytic)
    return Figures(
        rates=rates,
        missed=breaches(rates, samples, events, settings.objectives, latency_ms),
        headline=headline(samples, events, results),
        steady=steady(samples, events, recorder.sampler.queries),
        latency_ms=latency_ms,
    )
