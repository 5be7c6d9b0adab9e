"""What all pictures share: colours, dashes, titles, names at the ends of lines."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

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


def title(axes: Axes, title: str, detail: str, size: float = 14, color: str = INK) -> None:
    """Write a title and, smaller, what it needs said, above the left edge."""
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=color, pad=25)
    text = axes.annotate(
        detail,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=min(size, 10.5),
        color=SOFT,
    )
    text.set_in_layout(False)


def tidy(axes: Axes) -> None:
    """Leave of a frame with a logarithmic y axis what helps to read it."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    frame(axes)


def frame(axes: Axes) -> None:
    """Leave of a frame what helps to read it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(which="both", labelsize=10.5, colors=SOFT)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.label.set(size=12, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of at most 256 colours: a third of the bytes, and nobody sees it."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Return places near sorted values, no two nearer than a gap, crowds spread evenly about them.

    Example:
        >>> apart([0.0, 5.0, 5.0], gap=2.0)
        [0.0, 4.0, 6.0]
    """
    crowds: list[list[float]] = []
    for value in values:
        crowds.append([value])
        while len(crowds) > 1 and _spread(crowds[-1], gap)[0] - _spread(crowds[-2], gap)[-1] < gap:
            crowds[-2:] = [crowds[-2] + crowds[-1]]
    return [place for crowd in crowds for place in _spread(crowd, gap)]


def _spread(crowd: list[float], gap: float) -> list[float]:
    middle, half = sum(crowd) / len(crowd), (len(crowd) - 1) / 2
    return [middle + (index - half) * gap for index in range(len(crowd))]


def label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name at the end of its line, pushed apart where they would overlap."""
    low, high = (math.log(y) for y in axes.get_ylim())
    ends = sorted(ends)
    places = apart([value for value, _, _ in ends], 0.065 * (high - low))
    for place, (_, name, colour) in zip(places, ends, strict=True):
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
