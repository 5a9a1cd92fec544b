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
            axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    locator = AutoDateLocator(tz=UTC)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes[-1].set_xlabel("UTC")
    return _png(figure)


def bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]], label: str) -> bytes:
    """Draw bars over categories, a panel under another; the series of a panel stand side by side.

    Args:
        panels: by the label of the panel's value axis, its series, each a value by category.
        label: of the category axis.
    """
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (values_label, series) in zip(axes, panels.items(), strict=True):
        categories = list(dict.fromkeys(category for values in series.values() for category in values))
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            places = [index + (number - (len(series) - 1) / 2) * width for index in range(len(categories))]
            axis.bar(places, [values.get(category, 0) for category in categories], width, label=name)
        axis.set_xticks(
            range(len(categories)), categories, rotation=45 if len(categories) > 12 else 0, fontsize="small"
        )
        axis.set_ylabel(values_label)
        axis.grid(axis="y", alpha=0.3)
        if len(series) > 1:
            axis.legend(fontsize="small")
    axes[-1].set_xlabel(label)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
