"""The spread of effective learning rates: one panel for each optimizer, one scale for all."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from thalweg import house
from thalweg.study.rates import QUANTILES, EffectiveRates, Rates

BANDS = (
    (0, "1 % to 99 % of the weights", 0.18),
    (1, "10 % to 90 %", 0.3),
    (2, "half of them", 0.5),
)
ROOM = 1.6  # above and below what is drawn, as a factor
PANEL = 4.2  # inches


def effective_lr(found: EffectiveRates) -> Figure:
    """Return the picture of the rates of every weight through training."""
    count = len(found.rates)
    figure = Figure(
        figsize=(PANEL * count + 0.6, 5.4), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, count, sharey=True)).tolist()
    for index, (axes, rates) in enumerate(zip(panels, found.rates, strict=True)):
        _panel(axes, rates, house.COLOURS[index % len(house.COLOURS)])
    low = min(rates.quantiles[:, 0].min().item() for rates in found.rates)
    high = max(rates.quantiles[:, -1].max().item() for rates in found.rates)
    panels[0].set(ylim=(low / ROOM, high * ROOM), ylabel="step per unit of momentum")
    panels[0].yaxis.label.set(size=12, color=house.INK)
    figure.suptitle(
        f"{found.title}: the learning rate that each of {found.parameters:,} weights really gets",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        color=house.INK,
    )
    _legend(figure, any(rates.bounds is not None for rates in found.rates))
    return figure


def _panel(axes: Axes, rates: Rates, colour: str) -> None:
    steps = np.arange(1, len(rates.quantiles) + 1)
    for index, _, alpha in BANDS:
        low, high = rates.quantiles[:, index].numpy(), rates.quantiles[:, -1 - index].numpy()
        axes.fill_between(steps, low, high, color=colour, alpha=alpha, linewidth=0)
    middle = rates.quantiles[:, len(QUANTILES) // 2].numpy()
    axes.plot(steps, middle, color="white", linewidth=4)
    axes.plot(steps, middle, color=colour, linewidth=2.2)
    if rates.bounds is not None:
        for bound in rates.bounds.T.numpy():
            axes.plot(steps, bound, color=house.INK, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set(yscale="log", xlabel="optimizer step", xlim=(0, len(steps)))
    house.tidy(axes)
    axes.yaxis.set_major_locator(LogLocator())
    last = rates.spread[-1].item()
    detail = f"lr {rates.lr:g}; in the end 99 % / 1 % is {last:.2g}"
    house.title(axes, textwrap.fill(rates.name, 36), detail, 12.5, colour)


def _legend(figure: Figure, bounded: bool) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=house.SOFT, linewidth=2.2, label="median weight"),
        *(Patch(color=house.SOFT, alpha=alpha, label=label) for _, label, alpha in BANDS[::-1]),
    ]
    if bounded:
        bound = Line2D([], [], color=house.INK, linewidth=1.4, linestyle=(0, (4, 2)))
        bound.set_label("AdaBound's bounds")
        handles.append(bound)
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), int(figure.get_figwidth() / 2.2)),
        fontsize=10.5,
        labelcolor=house.INK,
        frameon=False,
    )
