"""The picture: training loss on the left, how the learning rate was chosen on the right."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from thalweg.study.report import percent
from thalweg.study.results import Comparison, Entry

# Okabe and Ito 2008: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":")
INK, SOFT, FAINT = "#222222", "#666666", "#e6e6e6"
WINDOW = 24  # steps of the moving average
LINE = 125  # letters of legend that fit side by side

Style = dict[str, Any]


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture as a PNG."""
    picture(comparison).savefig(path)


def picture(comparison: Comparison) -> Figure:
    """Return the picture; Matplotlib's global state and backend stay as they are."""
    labels = [_label(entry) for entry in comparison.finished]
    columns = _columns(labels)
    height = 4.8 + 0.26 * math.ceil(len(labels) / columns)
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    styles = {entry.name: _style(index) for index, entry in enumerate(comparison.entries)}
    _losses(left, comparison, styles)
    _rates(right, comparison, styles)
    _tidy(left)
    _tidy(right)
    legend = figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        title="optimizer and test accuracy",
        fontsize=11.5,
        labelcolor=INK,
        frameon=False,
    )
    legend.get_title().set(size=10.5, color=SOFT)
    return figure


def _columns(labels: list[str]) -> int:
    """Return how many legend entries fit side by side."""
    if sum(len(label) + 6 for label in labels) <= LINE:
        return len(labels)
    return max(1, LINE // max(len(label) + 6 for label in labels))


def _style(index: int) -> Style:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def _losses(axes: Axes, comparison: Comparison, styles: dict[str, Style]) -> None:
    ends = []
    for entry in comparison.finished:
        curves = [smooth(run.losses) for run in entry.runs if run.validation]
        if not curves:
            continue
        style = {**styles[entry.name], "marker": None}
        steps = np.arange(1, len(curves[0]) + 1)
        logs = np.log(np.maximum(curves, 1e-12))
        middle = np.exp(logs.mean(0))
        axes.plot(steps, middle, linewidth=2.4, zorder=3, **style)
        low, high = np.exp(logs.min(0)), np.exp(logs.max(0))
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ends.append((math.log(middle[-1]), short(entry.name), style["color"]))
    seeds = max((len(entry.runs) for entry in comparison.finished), default=0)
    detail = f"mean of {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    _title(axes, f"{comparison.title}: training loss", f"{detail}, smoothed over {WINDOW} steps")
    axes.set(yscale="log", xlabel="optimizer step")
    _label_ends(axes, ends)


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean over a window around each step, of what there is of it at the ends."""
    steps = np.arange(len(losses))
    total = np.concatenate([[0.0], np.cumsum(losses)])
    low = np.maximum(steps - WINDOW // 2, 0)
    high = np.minimum(steps + WINDOW // 2, len(losses))
    mean: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return mean


def short(name: str) -> str:
    """Return a name without its arguments and its module.

    Example:
        >>> short("lion(betas=(0.95, 0.98)) + cautious"), short("my.module:Own")
        ('lion + cautious', 'Own')
    """
    while (stripped := re.sub(r"\([^()]*\)", "", name)) != name:
        name = stripped
    return name.rpartition(":")[2].strip()


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name at the end of its line, pushed apart where they would overlap."""
    low, high = (math.log(y) for y in axes.get_ylim())
    gap, place = 0.065 * (high - low), -math.inf
    for value, name, colour in sorted(ends):
        place = max(value, place + gap)
        axes.annotate(
            name if len(name) <= 18 else name[:17] + "…",
            (1, math.exp(place)),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=colour,
            fontsize=11.5,
            fontweight="bold",
        )


def _rates(axes: Axes, comparison: Comparison, styles: dict[str, Style]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="learning rate")
    detail = "validation loss of one run each; ring: chosen"
    for entry in comparison.finished:
        style = styles[entry.name]
        trials = sorted(entry.trials, key=lambda run: run.lr)
        points = [(run.lr, run.validation[0]) for run in trials if run.validation]
        lrs, losses = [lr for lr, _ in points], [loss for _, loss in points]
        axes.plot(lrs, losses, label=_label(entry), linewidth=1.8, markersize=7, **style)
        if entry.best and entry.best.validation:
            ring = {"facecolor": "none", "edgecolor": style["color"], "linewidth": 2}
            axes.scatter(entry.best.lr, entry.best.validation[0], s=210, zorder=3, **ring)
        lost = [run.lr for run in trials if not run.validation]
        if lost:
            detail = "validation loss; ring: chosen; cross: diverged"
            where = axes.get_xaxis_transform()  # learning rate across, share of the height up
            axes.plot(lost, [0.97] * len(lost), "x", color=style["color"], transform=where)
    _title(axes, "Search for the learning rate", detail)


def _label(entry: Entry) -> str:
    if entry.accuracy is None:
        return f"{entry.name}   {'-' if entry.best else 'diverged'}"
    return f"{entry.name}   {percent(entry)}"


def _title(axes: Axes, title: str, detail: str) -> None:
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=25)
    text = axes.text(0, 1.025, detail, transform=axes.transAxes, fontsize=10.5, color=SOFT)
    text.set_in_layout(False)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", labelsize=10.5, colors=SOFT)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.label.set(size=12, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
