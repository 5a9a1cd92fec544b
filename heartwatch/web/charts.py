"""The charts as ECharts' options: pure functions. Colours work on light and dark; texts and lines take the page's by CSS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heartwatch.web.alerts import Episode
from heartwatch.web.board import STEP_SECONDS, Series
from heartwatch.web.readings.areas import Area
from heartwatch.web.readings.traces import Trace

FLOW, READ, ALERT, CALM = "#2f7fe0", "#0f9a8a", "#d6455d", "#7c8996"
_MINUTE = 60 // STEP_SECONDS
_MOST_DRAWN = 600
_METRES_A_DEGREE = 111_320
_FINE = "rgba(124, 137, 150, 0.28)"
_TOOLTIP = {
    "backgroundColor": "#16202b",
    "borderWidth": 0,
    "textStyle": {
        "color": "#f2f5f8",
        ":fontSize": "0.85 * parseFloat(getComputedStyle(document.documentElement).fontSize)",
    },
    "confine": True,
}
# Texts scale with the page's.
_FONT_SIZE = "0.78 * parseFloat(getComputedStyle(document.documentElement).fontSize)"
_TEXT = {"color": "#55616e", ":fontSize": _FONT_SIZE}


def _base(summary: str) -> dict[str, Any]:
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"enabled": True, "description": summary}},
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif"},
        "tooltip": {**_TOOLTIP, "trigger": "axis"},
        "grid": {"left": 8, "right": 24, "top": 36, "bottom": 4, "containLabel": True},
        "legend": {"top": 0, "left": 0, "itemWidth": 18, "itemHeight": 10, "textStyle": _TEXT},
    }


def _ago(steps: int) -> list[str]:
    seconds = [STEP_SECONDS * (steps - 1 - step) for step in range(steps)]
    return ["now" if not ago else f"-{ago // 60}:{ago % 60:02}" for ago in seconds]


def _time_axis(steps: int) -> dict[str, Any]:
    # Whole minutes, about five of them.
    every = _MINUTE * max(1, round(steps / _MINUTE / 5))
    return {
        "type": "category",
        "data": _ago(steps),
        "boundaryGap": False,
        "axisLabel": {**_TEXT, ":interval": f"step => ({steps - 1} - step) % {every} === 0", "hideOverlap": True},
        "axisTick": {"show": False},
        "axisLine": {"lineStyle": {"color": _FINE}},
    }


def _value_axis(quiet_top: int | None = None) -> dict[str, Any]:
    """Return an axis from 0 (`quiet_top`: its end for values that are all 0, which ECharts would otherwise choose itself)."""
    top = {} if quiet_top is None else {"max": quiet_top, "interval": quiet_top // 5}
    return {
        "type": "value",
        "min": 0,
        "minInterval": 1,
        "splitNumber": 4,
        "axisLabel": _TEXT,
        "splitLine": {"lineStyle": {"color": _FINE}},
        **top,
    }


def _line(name: str, values: Sequence[Any], color: str, **more: Any) -> dict[str, Any]:
    line = {
        "name": name,
        "type": "line",
        "data": values,
        "symbol": "none",
        "color": color,
        "lineStyle": {"width": 2},
    }
    return {**line, **more}


def _summary(what: str, values: Sequence[int | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"{what}: no data yet."
    return f"{what}, {unit}, over the last minutes: now {known[-1]:,}, at most {max(known):,}."


def throughput(series: Series) -> dict[str, Any]:
    """Return the chart of events/s into the first stream, and from it into the query."""
    quiet = not any(series.arriving) and not any(series.queried)
    return {
        **_base(_summary("Events of the first stream", series.arriving, "events per second")),
        "xAxis": _time_axis(len(series.arriving)),
        "yAxis": _value_axis(100 if quiet else None),
        "series": [
            _line("arriving", series.arriving, FLOW, areaStyle={"opacity": 0.14}),
            _line("read by the query", series.queried, READ, lineStyle={"width": 2, "type": [5, 3]}),
        ],
    }


def alerts_per_minute(series: Series) -> dict[str, Any]:
    """Return the chart of alerts per minute."""
    values = series.alerts_per_minute
    return {
        **_base(_summary("Alerts of the final table", values, "alerts per minute")),
        "xAxis": _time_axis(len(values)),
        "yAxis": _value_axis(None if any(values) else 5),
        "series": [_line("alerts per minute", values, ALERT, step="end", areaStyle={"opacity": 0.18})],
    }


def trace(samples: Trace, mine: Sequence[Episode], unit: str, title: str) -> dict[str, Any]:
    """Return a person's samples over time: the personal range as a band, the alerts' windows marked."""
    low, high = samples.personal_range or ((mine[0].last.low, mine[0].last.high) if mine else (0.0, 0.0))
    points = _parted(_thinned(samples.points))
    begin = points[0][0] if points else 0
    marked = [
        [{"xAxis": episode.since_ms, "itemStyle": {"color": ALERT, "opacity": 0.22}}, {"xAxis": episode.last.end_ms}]
        for episode in mine
        if episode.last.end_ms >= begin
    ]
    personal: list[Any] = [{"yAxis": low, "itemStyle": {"color": READ, "opacity": 0.14}}, {"yAxis": high}]
    reach = [*(value for _, value in points if value is not None), low, high]
    return {
        **_base(
            f"The person's {title} in {unit}, with the personal range {low:g} to {high:g} and {len(marked)} alerts."
        ),
        "xAxis": {
            "type": "time",
            "axisLabel": {**_TEXT, "hideOverlap": True, ":formatter": "v => new Date(v).toISOString().slice(11, 19)"},
            "axisLine": {"lineStyle": {"color": _FINE}},
        },
        "yAxis": {
            **_value_axis(),
            "min": int(np.floor(min(reach) / 20) * 20),
            "max": int(np.ceil(max(reach) / 20) * 20),
            "interval": 20,
        },
        "series": [
            # Points too: a single sample would not be visible as a line.
            _line(title, points, FLOW, symbol="circle", symbolSize=3),
            _mark("personal range", READ, [personal]),
            _mark("alert", ALERT, marked),
        ],
    }


def _mark(name: str, color: str, areas: list[Any]) -> dict[str, Any]:
    """Return a series that only marks areas, so the legend names them."""
    marks = {"silent": True, "data": areas}
    return {"name": name, "type": "line", "data": [], "color": color, "symbol": "rect", "markArea": marks}


def _thinned(points: Sequence[Any]) -> list[Any]:
    """Return every n-th point if there are more than a chart has room for."""
    return list(points[:: max(1, -(-len(points) // _MOST_DRAWN))])


def _parted(points: Sequence[tuple[int, float]]) -> list[tuple[int, float | None]]:
    """Return a line's points with a gap where far fewer samples arrived than elsewhere: nothing is known there."""
    times = np.array([at for at, _ in points], dtype=float)
    gaps = np.diff(times)
    longest = 5 * np.median(gaps) if len(gaps) else 0.0
    parted: list[tuple[int, float | None]] = list(points[:1])
    for (before, _), (at, value), gap in zip(points, points[1:], gaps, strict=False):
        if gap > longest:
            parted.append((before + 1, None))
        parted.append((at, value))
    return parted


def places(samples: Trace) -> dict[str, Any]:
    """Return where a person was, in metres from the median position."""
    if samples.samples.is_empty():
        return {**_base("Where the person was: no recent samples."), "series": []}
    north, east = samples.samples["north"].to_numpy(), samples.samples["east"].to_numpy()
    up = (north - np.median(north)) * _METRES_A_DEGREE
    right = (east - np.median(east)) * _METRES_A_DEGREE * np.cos(np.radians(np.median(north)))
    points = _thinned(np.round(np.column_stack([right, up]), 1).tolist())
    reach = _round_up(max(10.0, *(max(abs(x), abs(y)) for x, y in points)))
    axis = {
        "type": "value",
        "min": -reach,
        "max": reach,
        "interval": reach / 2,
        "axisLine": {"show": False},
        "axisTick": {"show": False},
        "axisLabel": {**_TEXT, "formatter": "{value} m", "hideOverlap": True},
        "splitLine": {"lineStyle": {"color": _FINE}},
    }
    path = {
        "type": "line",
        "data": points,
        "symbol": "none",
        "color": CALM,
        "lineStyle": {"width": 1, "opacity": 0.5},
    }
    last = {"name": "last", "type": "scatter", "data": points[-1:], "symbolSize": 12, "color": ALERT}
    return {
        **_base(f"Where the person was recently: within {reach:g} metres."),
        "tooltip": {"show": False},
        "grid": {"left": 8, "right": 20, "top": 36, "bottom": 8, "containLabel": True},
        "xAxis": axis,
        "yAxis": axis,
        "series": [
            {**path, "name": "path"},
            {"name": "sample", "type": "scatter", "data": points, "symbolSize": 5, "color": FLOW},
            last,
        ],
    }


def _round_up(reach: float) -> float:
    """Return the next larger round number: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(reach))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= reach))


def density(areas: Sequence[Area], with_alerts: Mapping[str, int], title: str) -> dict[str, Any]:
    """Return a schematic map: a bubble per area, sized by its people, and in it a bubble sized by those with an alert."""
    most = max((area.people for area in areas), default=1)
    alarmed = max([1, *with_alerts.values()])
    rows = [(area, with_alerts.get(area.name, 0)) for area in areas]
    axis = {
        "type": "value",
        "scale": True,
        "axisLabel": {"show": False},
        "axisTick": {"show": False},
        "axisLine": {"show": False},
        "splitLine": {"lineStyle": {"color": _FINE}},
    }

    def bubbles(name: str, color: str, opacity: float, sized: list[tuple[Area, int, float]]) -> dict[str, Any]:
        data = [
            {
                "name": f"{area.name}: {count:,} {name}",
                "value": [round(area.east, 4), round(area.north, 4)],
                "symbolSize": size,
            }
            for area, count, size in sized
        ]
        style = {"opacity": opacity}
        return {"name": name, "type": "scatter", "color": color, "itemStyle": style, "data": data}

    people = [(area, area.people, round(6 + 34 * (area.people / most) ** 0.5)) for area, _ in rows]
    ill = [(area, count, round(4 + 18 * (count / alarmed) ** 0.5)) for area, count in rows if count]
    total = sum(area.people for area in areas)
    return {
        **_base(
            f"{total:,} people in {len(areas)} areas by {title}, {sum(with_alerts.values()):,} of them with an alert."
        ),
        "tooltip": {**_TOOLTIP, "trigger": "item", "formatter": "{b}"},
        "xAxis": axis,
        "yAxis": axis,
        "series": [
            bubbles("people", FLOW, 0.35, people),
            bubbles("with an alert", ALERT, 0.85, ill),
        ],
    }
