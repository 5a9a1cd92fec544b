"""Charts as PNG pictures, small enough to stand in an artifact's text; None without the extra `plots`: a check needs no chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heartwatch.extras import has

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (8.0, 5.0)
_DPI = 110
_OBJECTIVE, _NEAR = "objective", 4
_SIDE_BY_SIDE = ("tab:blue", "lightgray", "tab:orange", "tab:green")
"""What counts first, and what it is compared with in the background."""

Series = Mapping[str, Sequence[tuple[float, float]]]
"""By name, points of time (seconds since the epoch) and value."""


def over_time(panels: Mapping[str, Series], limits: Mapping[str, float] | None = None) -> bytes | None:
    """Draw series over one time axis, a panel under another.

    Args:
        panels: by the label of the panel's value axis, its series.
        limits: by the same labels, a value to draw a line at, such as an objective.

    Returns:
        A PNG; None where matplotlib isn't installed.
    """
    if not has("plots"):
        return None
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter  # noqa: PLC0415

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    # A series has one colour, in whichever panels it is, and stands in the legend once.
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    lines: dict[str, Any] = {}
    for axis, (label, series) in zip(axes, panels.items(), strict=True):
        values = [value for points in series.values() for _, value in points]
        for name, points in series.items():
            times = [datetime.fromtimestamp(at, UTC) for at, _ in points]
            (lines[name],) = axis.plot(
                times, [value for _, value in points], color=colours[name], marker=".", linewidth=1
            )
        if limits and label in limits:
            if limits[label] <= _NEAR * max(values, default=0):
                lines[_OBJECTIVE] = axis.axhline(limits[label], color="black", linestyle="--", linewidth=1)
            else:
                # A line far above would press all that was measured flat.
                text = f"{_OBJECTIVE}: {limits[label]:,.10g}"
                axis.annotate(text, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize="small")
        axis.set_ylabel(label)
        # Nothing but zeros would give a scale of hundredths, and counts one of halves.
        axis.set_ylim(bottom=0, top=None if any(values) else 1)
        if all(isinstance(value, int) for value in values):
            axis.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    ordered = [name for name in (*names, _OBJECTIVE) if name in lines]
    figure.legend(
        [lines[name] for name in ordered], ordered, loc="outside upper left", ncols=3, fontsize="small", frameon=False
    )
    locator = AutoDateLocator(tz=UTC)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes[-1].set_xlabel("UTC")
    return _png(figure)


def bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]], label: str) -> bytes | None:
    """Draw bars over categories, a panel under another; the series of a panel stand side by side.

    Args:
        panels: by the label of the panel's value axis, its series, each a value by category.
        label: of the category axis.

    Returns:
        A PNG; None where matplotlib isn't installed.
    """
    if not has("plots"):
        return None
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (values_label, series) in zip(axes, panels.items(), strict=True):
        categories = list(dict.fromkeys(category for values in series.values() for category in values))
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            places = [index + (number - (len(series) - 1) / 2) * width for index in range(len(categories))]
            heights = [values.get(category, 0) for category in categories]
            axis.bar(places, heights, width, label=name, color=_SIDE_BY_SIDE[number % len(_SIDE_BY_SIDE)])
        axis.set_xticks(
            range(len(categories)), categories, rotation=45 if len(categories) > 12 else 0, fontsize="small"
        )
        axis.set_ylabel(values_label)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if any(len(series) > 1 for series in panels.values()):
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize="small", frameon=False
        )
    axes[-1].set_xlabel(label)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
