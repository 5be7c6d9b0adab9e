"""What all pictures share: colours, dashes, titles, names at the ends of lines."""

from __future__ import annotations

import math
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito 2008: told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":")
INK, SOFT, FAINT = "#222222", "#666666", "#e6e6e6"
LINE = 125  # letters of legend that fit side by side

Style = dict[str, Any]


def style(index: int) -> Style:
    """Return colour, marker and dash of the line with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def short(name: str) -> str:
    """Return a name without its arguments and its module.

    Example:
        >>> short("lion(betas=(0.95, 0.98)) + cautious"), short("my.module:Own")
        ('lion + cautious', 'Own')
    """
    while (stripped := re.sub(r"\([^()]*\)", "", name)) != name:
        name = stripped
    return name.rpartition(":")[2].strip()


def columns(labels: list[str]) -> int:
    """Return how many legend entries fit side by side."""
    if sum(len(label) + 6 for label in labels) <= LINE:
        return len(labels)
    return max(1, LINE // max(len(label) + 6 for label in labels))


def title(axes: Axes, title: str, detail: str) -> None:
    """Write a title and, smaller, what it needs said, above the left edge."""
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=25)
    text = axes.text(0, 1.025, detail, transform=axes.transAxes, fontsize=10.5, color=SOFT)
    text.set_in_layout(False)


def tidy(axes: Axes) -> None:
    """Leave of a frame with a logarithmic y axis what helps to read it."""
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


def label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
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
