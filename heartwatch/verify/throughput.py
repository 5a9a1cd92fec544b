"""Rates and lags of the pipeline's stages from offsets sampled with the time, compared with objectives.

A stage has a position in each partition of its input (or output) topic. Positions are offsets, so markers of transactions
count too: a few among thousands, but at the end of an idle topic they are all that is left (whoever samples leaves them out
there). The lag of a stage is how far it is behind the head of its topic; in seconds, how long ago the head was where the stage
is now, read off the samples (linear between two of them), those of earlier checks included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from heartwatch.monitoring import Sample, StageRate
from heartwatch.settings import ObjectiveSettings

_WARM_UP_SHARE = 0.2
_LEAST_SAMPLES = 5
_PACE_SHARE = 0.8  # of the rate that a run was asked for; a check's few seconds don't show it exactly

Positions = Mapping[int, int]
"""Offset by partition."""


@dataclass(frozen=True)
class Headline:
    """The original's figure: from the first non-zero rate on the first stream to the last result on the final table.

    Attributes:
        events: events between the two.
        seconds: time between them.
        began_at: seconds since the epoch.
        ended_at: seconds since the epoch.
    """

    events: int
    seconds: float
    began_at: float
    ended_at: float

    @property
    def events_per_second(self) -> float:
        """Events per second over the whole run."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


def behind(positions: Positions, heads: Positions) -> tuple[int, int]:
    """Return the sums of a stage's positions and of its topic's ends; where it has no position it is at the very beginning.

    A position beyond the end (the end was read first) counts as the end.
    """
    return sum(min(positions.get(partition, 0), end) for partition, end in heads.items()), sum(heads.values())


def stage_rates(samples: Sequence[Sample], earlier: Sequence[Sample] = ()) -> list[StageRate]:
    """Return each stage's rates and lag.

    Args:
        samples: at least two, in order of time.
        earlier: samples from before, for lags longer than these samples; those of topics that were made again since don't count,
            nor do those from before there was a stage.

    Raises:
        ValueError: there are fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples give no rate; take at least two")
    past = [sample for sample in earlier if _is_before(sample, samples[0])]
    return [_rate(stage, samples, past) for stage in samples[-1].positions]


def _is_before(sample: Sample, first: Sample) -> bool:
    return sample.at < first.at and all(end <= first.heads.get(stage, 0) for stage, end in sample.heads.items())


def _rate(stage: str, samples: Sequence[Sample], past: Sequence[Sample]) -> StageRate:
    points = [(sample.at, sample.positions.get(stage, 0)) for sample in samples]
    rates = [(there - here) / (then - now) for (now, here), (then, there) in pairwise(points) if then > now]
    seconds = points[-1][0] - points[0][0]
    mean = (points[-1][1] - points[0][1]) / seconds if seconds > 0 else 0.0
    head = samples[-1].heads.get(stage)
    if head is None:
        return StageRate(stage, mean, max(rates, default=0.0), None, None)
    known = [*(sample for sample in past if stage in sample.heads), *samples]
    return StageRate(stage, mean, max(rates, default=0.0), head - points[-1][1], _lag_seconds(stage, known))


def _lag_seconds(stage: str, samples: Sequence[Sample]) -> float:
    last = samples[-1]
    position, now = last.positions[stage], last.at
    if position >= last.heads[stage]:
        return 0.0
    # The head was at `position` between the last sample at or below it and the first one above.
    earlier = [sample for sample in samples if sample.heads.get(stage, 0) <= position]
    if not earlier:
        return now - samples[0].at
    before = earlier[-1]
    after = samples[samples.index(before) + 1]
    if position == before.heads[stage]:
        # All that there was had been read then; when the next one came isn't known, but that it was there now is.
        return now - after.at
    grown = after.heads[stage] - before.heads[stage]
    share = (position - before.heads[stage]) / grown if grown > 0 else 0.0
    return now - (before.at + share * (after.at - before.at))


def headline(samples: Sequence[Sample], first_stage: str, last_stage: str) -> Headline | None:
    """Return the original's figure; None when nothing moved.

    Args:
        samples: in order of time.
        first_stage: whose first movement begins the run.
        last_stage: whose last movement ends it.
    """
    pairs = list(pairwise(samples))
    rises = [before for before, after in pairs if after.positions[first_stage] > before.positions[first_stage]]
    results = [after for before, after in pairs if after.positions[last_stage] > before.positions[last_stage]]
    if not rises or not results:
        return None
    begin, end = rises[0], results[-1]
    events = samples[-1].positions[first_stage] - begin.positions[first_stage]
    return Headline(events, max(0.0, end.at - begin.at), begin.at, end.at)


@dataclass(frozen=True)
class Steady:
    """The rate that a run sustains: of its slowest stage, while events come in, warm-up and run-out cut off.

    Attributes:
        stage: the slowest stage.
        seconds: how long the steady state is.
        events_per_second: its rate.
    """

    stage: str
    seconds: float
    events_per_second: float


def steady(samples: Sequence[Sample], first_stage: str, stages: Sequence[str]) -> Steady | None:
    """Return the rate of a run's steady state; None when the run is too short for one.

    The steady state begins a fifth of the time in which events come in after the first of them (the warm-up: connections,
    caches, the first transactions), and ends with the last sample before the inflow's end.

    Args:
        samples: in order of time.
        first_stage: whose movement is the inflow.
        stages: whose rates count, the first one among them or not.
    """
    rises = [
        (before, after)
        for before, after in pairwise(samples)
        if after.positions[first_stage] > before.positions[first_stage]
    ]
    if not rises:
        return None
    begin, end = rises[0][0].at, rises[-1][0].at
    inside = [sample for sample in samples if begin + _WARM_UP_SHARE * (end - begin) <= sample.at <= end]
    if len(inside) < _LEAST_SAMPLES:
        return None
    first, last = inside[0], inside[-1]
    rates = {
        stage: (last.positions.get(stage, 0) - first.positions.get(stage, 0)) / (last.at - first.at)
        for stage in [first_stage, *stages]
    }
    slowest = min(rates, key=lambda stage: rates[stage])
    return Steady(slowest, last.at - first.at, rates[slowest])


def is_idle(sample: Sample, earlier: Sample | None) -> bool:
    """Whether nothing came in since an earlier sample and no stage has work left.

    Args:
        sample: now.
        earlier: the last one of the check before; None, or one of other stages, says nothing.
    """
    if earlier is None or earlier.positions.keys() != sample.positions.keys():
        return False
    behind_now = any(head > sample.positions[stage] for stage, head in sample.heads.items())
    return not behind_now and all(earlier.positions[stage] == sample.positions[stage] for stage in _ends(sample))


def _ends(sample: Sample) -> list[str]:
    """Return the stages that are the end of a topic."""
    return [stage for stage in sample.positions if stage not in sample.heads]


def is_running(samples: Sequence[Sample], first_stage: str) -> bool:
    """Whether events came in during the samples, or some stage still has work."""
    moved = samples[-1].positions[first_stage] > samples[0].positions[first_stage]
    return moved or any(samples[-1].heads[stage] > samples[-1].positions[stage] for stage in samples[-1].heads)


def breaches(
    rates: Sequence[StageRate],
    samples: Sequence[Sample],
    first_stage: str,
    objectives: ObjectiveSettings,
    latency_ms: tuple[float, float, float] | None = None,
    asked_events_per_second: float | None = None,
) -> list[str]:
    """Return one sentence for each objective that is not met.

    The rate is held to its objective only while events come in through all of the samples: a run that begins or ends in between
    says nothing of it. A run that was asked for at a lower rate is held to that.

    Args:
        rates: what `stage_rates` gave.
        samples: what it was given.
        first_stage: stage whose rate has an objective.
        objectives: what is asked for.
        latency_ms: 50th, 95th and 99th percentile of the results' latency, ms; None when no result was timed.
        asked_events_per_second: limit of the rate that the runs under way were given, all together; None where one has none.
    """
    found = []
    if latency_ms is not None and latency_ms[2] > objectives.max_latency_ms:
        found.append(
            f"1 % of the results come {latency_ms[2]:,.0f} ms or more after their window was closed, later than the objective "
            f"of {objectives.max_latency_ms:,.0f} ms"
        )
    inflow = [sample.positions[first_stage] for sample in samples]
    steady = all(after > before for before, after in pairwise(inflow))
    least, of_what = objectives.min_events_per_second, "the objective of"
    if asked_events_per_second is not None and asked_events_per_second * _PACE_SHARE < least:
        least, of_what = asked_events_per_second * _PACE_SHARE, f"{_PACE_SHARE:.0%} of the rate that was asked for:"
    for rate in rates:
        if rate.stage == first_stage and steady and rate.events_per_second < least:
            found.append(f"{rate.stage} gets {rate.events_per_second:,.0f} events/s, fewer than {of_what} {least:,.0f}")
        if rate.lag_seconds is not None and rate.lag_seconds > objectives.max_lag_seconds:
            found.append(
                f"{rate.stage} is {rate.lag_events:,} events and {rate.lag_seconds:.0f} s behind, more than the objective of "
                f"{objectives.max_lag_seconds:g} s"
            )
    return found
