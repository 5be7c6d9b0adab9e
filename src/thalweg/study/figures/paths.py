"""Paths over a surface: a map for each optimizer, and the distances to the minimum beside them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from torch import Tensor

from thalweg import house
from thalweg.study.paths import Trajectories, Trajectory, moments
from thalweg.study.surfaces import Surface

SIDE = 3.1  # inches of a square map
BESIDE = 3.4  # inches of the distances beside them
TICKS, NAMES, TITLES = 0.65, 2.1, 1.15  # inches for what is written around them
LEVELS = 10  # heights between two contours cover about equal areas
LEAST = 1e-3  # distances below it are drawn there
FRAMES, HELD, RATE = 50, 14, 10  # of the animation: moving, at rest, a second
GROUND = LinearSegmentedColormap.from_list("ground", ["#ffffff", "#d3d9e0"])

Reveal = Callable[[int], None]  # draws what has happened up to a step


def save(found: Trajectories, folder: Path, *, gif: bool = False) -> None:
    """Write the picture, and the animation if wanted, into a folder that exists."""
    for name in names(found, gif=gif):
        if name.endswith(".gif"):
            animate(found, folder / name)
        else:
            house.save(trajectories(found), folder / name)


def names(found: Trajectories, *, gif: bool = False) -> list[str]:
    """Return the names of the files that ``save`` writes."""
    return [f"{found.surface.name}.{kind}" for kind in (("png", "gif") if gif else ("png",))]


def trajectories(found: Trajectories, dpi: int = 130) -> Figure:
    """Return the picture of all paths from beginning to end."""
    figure, reveals = _stage(found, dpi)
    for reveal in reveals:
        reveal(found.steps)
    return figure


def animate(found: Trajectories, path: Path) -> None:
    """Write a GIF in which the paths grow together, step by step."""
    figure, reveals = _stage(found, 72)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once: nothing may jump
    moving = np.unique(np.linspace(0, found.steps, FRAMES).round().astype(int)).tolist()

    def show(step: int) -> list[Line2D]:
        for reveal in reveals:
            reveal(step)
        return []

    frames = [*moving, *[found.steps] * HELD]
    film = FuncAnimation(figure, show, frames=frames, init_func=list)
    film.save(path, writer=PillowWriter(fps=RATE))


def _stage(found: Trajectories, dpi: int) -> tuple[Figure, list[Reveal]]:
    """Return the figure without its paths, and what draws them."""
    (left, right), (low, high) = found.surface.across, found.surface.up
    aspect = (right - left) / (high - low)
    columns, rows = _grid(len(found.paths), aspect)
    wide, tall = SIDE * math.sqrt(aspect), SIDE / math.sqrt(aspect)
    size = (columns * (wide + TICKS) + BESIDE + NAMES, max(rows * (tall + TITLES), 3.9) + 0.8)
    layout = ConstrainedLayoutEngine(h_pad=0.09)
    figure = Figure(figsize=size, dpi=dpi, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[wide] * columns + [BESIDE])
    labels = _labels(found.paths)
    reveals = []
    for index, path in enumerate(found.paths):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        _ground(axes, found.surface)
        reveals.append(_path(axes, found, path, house.style(index)))
    beside = figure.add_subplot(grid[:, columns])
    reveals.append(_distances(beside, found, labels))
    figure.suptitle(
        f"{found.surface.title}: {found.steps} steps from the same start",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
        color=house.INK,
    )
    _legend(figure, found)
    return figure, reveals


def _grid(count: int, aspect: float) -> tuple[int, int]:
    """Return columns and rows of maps: few empty places, together about as wide as high."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        return columns * rows - count + abs(math.log(columns * aspect / rows / 1.3))

    columns = min(range(1, count + 1), key=cost)
    return columns, math.ceil(count / columns)


def _labels(paths: list[Trajectory]) -> list[str]:
    """Return a short name for each path, or the whole one where the short ones are alike."""
    shorts = [house.short(path.name) for path in paths]
    pairs = zip(paths, shorts, strict=True)
    return [path.name if shorts.count(short) > 1 else short for path, short in pairs]


def _ground(axes: Axes, surface: Surface) -> None:
    across = torch.linspace(*surface.across, 241, dtype=torch.float64)
    up = torch.linspace(*surface.up, 241, dtype=torch.float64)
    y, x = torch.meshgrid(up, across, indexing="ij")
    heights = surface.height(x, y).numpy()
    levels = np.quantile(heights, np.linspace(0, 1, LEVELS + 1) ** 1.5)
    shades = GROUND(np.linspace(0, 1, LEVELS))  # a shade per level, whatever the heights
    axes.contourf(across, up, heights, levels=levels, colors=shades)
    axes.contour(across, up, heights, levels=levels[1:-1], colors="#b4bcc6", linewidths=0.5)
    axes.set(xlim=surface.across, ylim=surface.up, aspect="equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=9, colors=house.SOFT, length=0)
    axes.set_xlabel("x", fontsize=9, color=house.SOFT, labelpad=1)
    axes.set_ylabel("y", fontsize=9, color=house.SOFT, labelpad=1, rotation=0)
    axes.plot(*surface.minimum, "x", color=house.INK, markersize=17, markeredgewidth=1.8, zorder=5)
    axes.plot(*surface.start, **_HOLLOW, zorder=5)


_HOLLOW: house.Style = {
    "marker": "o",
    "color": house.INK,
    "markerfacecolor": "white",
    "markeredgewidth": 1.5,
    "markersize": 7,
    "linestyle": "none",
}


def _path(axes: Axes, found: Trajectories, path: Trajectory, style: house.Style) -> Reveal:
    """Prepare one path on its map; return what draws it up to a step."""
    house.title(axes, _wrapped(path.name, axes), _detail(found, path), 11.5, style["color"])
    colour, dots = style["color"], moments(found.steps)
    main = path.points if path.slow is None else path.slow
    line = axes.plot([], [], color=colour, linewidth=2, zorder=3, solid_joinstyle="round")[0]
    spots = axes.plot([], [], ".", color=colour, markersize=7, zorder=3)[0]
    head = axes.plot([], [], style["marker"], color=colour, markersize=9, zorder=6)[0]
    head.set(markeredgecolor="white", markeredgewidth=1)
    pieces = [] if path.slow is None else path.rounds
    fast = [axes.plot([], [], **_FAST, color=colour)[0] for _ in pieces]
    starts = [0, *path.syncs]

    def reveal(step: int) -> None:
        done = min(step, len(path.points) - 1)
        seen = main[: done + 1]
        _set(line, seen)
        _set(spots, seen[[dot for dot in dots if dot <= done]])
        _set(head, seen[-1:])
        for thread, piece, start in zip(fast, pieces, starts, strict=False):
            _set(thread, piece[: max(0, done - start + 1)])

    return reveal


_FAST: house.Style = {"linewidth": 1.0, "linestyle": (0, (3, 1.5)), "alpha": 0.85, "zorder": 2}


def _set(line: Line2D, points: Tensor) -> None:
    line.set_data(points[:, 0].numpy(), points[:, 1].numpy())


def _wrapped(name: str, axes: Axes) -> str:
    """Break a name into lines that are no wider than the map."""
    figure = axes.figure
    wide = axes.get_position().width * figure.get_figwidth()  # type: ignore[union-attr]
    return textwrap.fill(name, max(20, int(10.5 * wide)))


def _detail(found: Trajectories, path: Trajectory) -> str:
    rate = f"lr {path.lr:g}" + (" (searched)" if path.chosen else "")
    if path.diverged_at:
        return f"{rate}, diverged in step {path.diverged_at}"
    end = path.points if path.slow is None else path.slow
    return f"{rate}, ends {found.surface.distance(end[-1:]).item():.2g} away"


def _distances(axes: Axes, found: Trajectories, labels: list[str]) -> Reveal:
    """Prepare the distances; return what draws them up to a step."""
    lines, ends = [], []
    for index, (path, label) in enumerate(zip(found.paths, labels, strict=True)):
        style = {**house.style(index), "marker": None}
        main = path.points if path.slow is None else path.slow
        values = _drawn(found.surface, main)
        style["drawstyle"] = "default" if path.slow is None else "steps-post"
        lines.append((axes.plot(values, linewidth=2.2, zorder=3, **style)[0], values))
        ends.append((math.log(values[-1]), label, style["color"]))
    axes.set(yscale="log", xlabel="step", xlim=(0, found.steps))
    house.tidy(axes)
    house.title(axes, "Distance to the minimum", _floored(found), 11.5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # as it is with all of the lines, also while they grow
    if high < 30 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    house.label_ends(axes, ends)

    def reveal(step: int) -> None:
        for line, values in lines:
            seen = values[: step + 1]
            line.set_data(np.arange(len(seen)), seen)

    return reveal


def _drawn(surface: Surface, points: Tensor) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = surface.distance(points).clamp_min(LEAST).numpy()
    return drawn


def _floored(found: Trajectories) -> str:
    below = any(bool((found.surface.distance(p.points) < LEAST).any()) for p in found.paths)
    notes = ["Lookahead: of its slow weights"] if _has_slow(found) else []
    return "; ".join([*notes, f"below {LEAST:g} drawn there"] if below else notes)


def _has_slow(found: Trajectories) -> bool:
    return any(path.slow is not None for path in found.paths)


def _legend(figure: Figure, found: Trajectories) -> None:
    gap = moments(found.steps)[1]
    grey: house.Style = {"color": house.SOFT}
    ground: house.Style = {"facecolor": GROUND(0.9), "edgecolor": "#b4bcc6", "linewidth": 0.5}
    handles: list[Line2D | Patch] = [
        Line2D([], [], **{**_HOLLOW, "label": "start"}),
        Line2D([], [], **grey, marker="o", linestyle="none", markersize=9, label="end"),
        Line2D(
            [], [], color=house.INK, marker="x", markersize=10, linestyle="none", label="minimum"
        ),
        Patch(**ground, label="darker is higher"),
    ]
    if gap > 1:
        label = f"a dot every {gap} steps"
        handles.insert(
            1, Line2D([], [], **grey, marker=".", markersize=7, linewidth=2, label=label)
        )
    if _has_slow(found):
        handles.append(Line2D([], [], **grey, linewidth=2, label="slow weights"))
        handles.append(Line2D([], [], **grey, **_FAST, label="fast weights"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(len(handles), int(figure.get_figwidth() / 1.5)),
        fontsize=10,
        labelcolor=house.INK,
        frameon=False,
    )
