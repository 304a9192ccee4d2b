"""Draws the dashboard of etc/grafana from what a Prometheus has, for docs: Grafana itself is not in Debian.

A panel is a plot, in its place of the grid; its queries are asked of Prometheus as they stand. Needs matplotlib (the
extra ``docs``).
"""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

_COLUMNS, _CELL_W, _CELL_H = 24, 0.62, 0.36  # inches
_STEPS = 120
_RATE = "60s"  # what Grafana would fill in for a short run
_BACKGROUND, _PANEL, _TEXT = "#111217", "#181b1f", "#ccccdc"
_COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d")


def _filled(query: str) -> str:
    return query.replace("$__rate_interval", _RATE).replace("$node", ".*")


def _ask(address: str, path: str, **arguments: Any) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=30) as answer:
        return list(json.load(answer)["data"]["result"])


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / (1 << 20):.3g} MiB"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g}" + ("/s" if unit == "ops" else "")


def _legend(pattern: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        pattern = pattern.replace(f"{{{{{name}}}}}", value)
    return pattern


def _plot(axes: Axes, panel: dict[str, Any], address: str, began: float, ended: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    curves = []
    for target in panel["targets"]:
        step = max(2.0, (ended - began) / _STEPS)
        for found in _ask(address, "query_range", query=_filled(target["expr"]), start=began, end=ended, step=step):
            points = [((at - began) / 60, float(value)) for at, value in found["values"] if value != "NaN"]
            if points:
                curves.append((_legend(target["legendFormat"], found["metric"]), *zip(*points, strict=True)))
    curves = [curve for curve in curves if any(curve[2])] or curves  # what is 0 all the time would cover the others
    is_stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    base: dict[float, float] = {}
    for number, (name, at, values) in enumerate(sorted(curves)):
        colour = _COLOURS[number % len(_COLOURS)]
        low = [base.get(moment, 0.0) if is_stacked else 0.0 for moment in at]
        high = [below + value for below, value in zip(low, values, strict=True)]
        base.update(zip(at, high, strict=True))
        axes.plot(at, high, color=colour, linewidth=1, label=name)
        axes.fill_between(at, low, high, color=colour, alpha=0.25 if is_stacked else 0.05, linewidth=0)
    axes.set_xlim(0, (ended - began) / 60)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _shown(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    axes.grid(color="#2c3035", linewidth=0.5)
    axes.tick_params(colors=_TEXT, labelsize=6, length=0)
    if curves:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncol=4,
            fontsize=6,
            frameon=False,
            labelcolor=_TEXT,
            handlelength=1,
            columnspacing=1,
        )
    else:
        axes.text(0.5, 0.5, "none", color=_TEXT, ha="center", va="center", transform=axes.transAxes, fontsize=8)


def _stat(axes: Axes, panel: dict[str, Any], address: str, ended: float) -> None:
    found = _ask(address, "query", query=_filled(panel["targets"][0]["expr"]), time=ended)
    value = float(found[0]["value"][1]) if found else math.nan
    if panel["fieldConfig"]["defaults"]["unit"] == "short":
        value = round(value) if not math.isnan(value) else value
    colour = "green"
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    paint = {"green": _COLOURS[0], "orange": _COLOURS[3], "red": _COLOURS[4]}[colour]
    text = _shown(value, panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.42, text, color=paint, ha="center", va="center", transform=axes.transAxes, fontsize=17)
    axes.set_xticks([])
    axes.set_yticks([])


def draw(board: Path, address: str, began: float, ended: float, file: Path) -> None:
    """Draw the dashboard *board* of those seconds since the epoch into *file*; the suffix says in which format."""
    panels = json.loads(board.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = _COLUMNS * _CELL_W, rows * _CELL_H
    figure = plt.figure(figsize=(width, height), facecolor=_BACKGROUND)
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] * _CELL_W, place["y"] * _CELL_H
        if panel["type"] == "row":
            figure.text(
                (left + 0.1) / width, 1 - (top + 0.26) / height, panel["title"], color=_TEXT, fontsize=9, weight="bold"
            )
            continue
        is_stat = panel["type"] == "stat"
        inset_x, inset_top, inset_bottom = (0.08, 0.08, 0.08) if is_stat else (0.72, 0.42, 0.62)
        box = (
            (left + inset_x) / width,
            1 - (top + place["h"] * _CELL_H - inset_bottom) / height,
            (place["w"] * _CELL_W - inset_x - 0.15) / width,
            (place["h"] * _CELL_H - inset_top - inset_bottom) / height,
        )
        axes = figure.add_axes(box, facecolor=_PANEL)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(
            panel["title"], color=_TEXT, fontsize=8, loc="left", y=0.8 if is_stat else 1.0, x=0.02 if is_stat else 0
        )
        if is_stat:
            _stat(axes, panel, address, ended)
        else:
            _plot(axes, panel, address, began, ended)
    figure.savefig(file, facecolor=_BACKGROUND, dpi=80)
    plt.close(figure)
