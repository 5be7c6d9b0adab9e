"""The picture: training loss on the left, how the learning rate was chosen on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from thalweg import house
from thalweg.study.report import percent
from thalweg.study.results import Comparison, Entry

WINDOW = 24  # steps of the moving average


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture as a PNG."""
    picture(comparison).savefig(path)


def picture(comparison: Comparison) -> Figure:
    """Return the picture; Matplotlib's global state and backend stay as they are."""
    labels = [_label(entry) for entry in comparison.finished]
    columns = house.columns(labels)
    height = 4.8 + 0.26 * math.ceil(len(labels) / columns)
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    styles = {entry.name: house.style(index) for index, entry in enumerate(comparison.entries)}
    _losses(left, comparison, styles)
    _rates(right, comparison, styles)
    house.tidy(left)
    house.tidy(right)
    legend = figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        title="optimizer and test accuracy",
        fontsize=11.5,
        labelcolor=house.INK,
        frameon=False,
    )
    legend.get_title().set(size=10.5, color=house.SOFT)
    return figure


def _losses(axes: Axes, comparison: Comparison, styles: dict[str, house.Style]) -> None:
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
        ends.append((math.log(middle[-1]), house.short(entry.name), style["color"]))
    seeds = max((len(entry.runs) for entry in comparison.finished), default=0)
    detail = f"mean of {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    house.title(
        axes, f"{comparison.title}: training loss", f"{detail}, smoothed over {WINDOW} steps"
    )
    axes.set(yscale="log", xlabel="optimizer step")
    house.label_ends(axes, ends)


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean over a window around each step, of what there is of it at the ends."""
    steps = np.arange(len(losses))
    total = np.concatenate([[0.0], np.cumsum(losses)])
    low = np.maximum(steps - WINDOW // 2, 0)
    high = np.minimum(steps + WINDOW // 2, len(losses))
    mean: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return mean


def _rates(axes: Axes, comparison: Comparison, styles: dict[str, house.Style]) -> None:
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
    house.title(axes, "Search for the learning rate", detail)


def _label(entry: Entry) -> str:
    if entry.accuracy is None:
        return f"{entry.name}   {'-' if entry.best else 'diverged'}"
    return f"{entry.name}   {percent(entry)}"
