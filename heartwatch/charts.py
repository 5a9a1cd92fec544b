"""Charts as PNG pictures, small enough to stand in an artifact's text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

_INCHES = (8.0, 5.0)
_DPI = 90

Series = Mapping[str, Sequence[tuple[float, float]]]
"""By name, points of time (seconds since the epoch) and value."""


def over_time(panels: Mapping[str, Series], limits: Mapping[str, float] | None = None) -> bytes:
    """Draw series over one time axis, a panel under another.

    Args:
        panels: by the label of the panel's value axis, its series.
        limits: by the same labels, a value to draw a line at, such as an objective.
    """
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, series) in zip(axes, panels.items(), strict=True):
        for name, points in series.items():
            times = [datetime.fromtimestamp(at, UTC) for at, _ in points]
            axis.plot(times, [value for _, value in points], marker=".", linewidth=1, label=name)
        if limits and label in limits:
            axis.axhline(limits[label], color="tab:red", linestyle="--", linewidth=1, label="objective")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if series:
            axis.legend(fontsize="small", loc="upper left")
    locator = AutoDateLocator(tz=UTC)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes[-1].set_xlabel("UTC")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
