"""Pictures of schedules."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thalweg import house
from thalweg.schedules.schedule import Schedule
from thalweg.schedules.text import shown_steps

POINTS = 4000  # more cannot be told apart


def draw_schedule(
    schedule: Schedule, steps: int | None, output: str | Path | None, base: float
) -> Figure:
    """Return the picture of one schedule; `Schedule.plot` says the rest."""
    last = int(shown_steps(schedule, steps))
    xs = sorted({*range(0, last, max(1, last // POINTS)), *_breaks(schedule, last), last})
    ys = [base * schedule(x) for x in xs]
    lowest, highest = min(ys), max(ys)
    detail = f"from {ys[0]:.4g} to {ys[-1]:.4g} in {last:,} steps, between {lowest:.4g} and {highest:.4g}"
    name = textwrap.shorten(repr(schedule), 88, placeholder=" ...")
    ylabel = "factor" if base == 1 else f"value, from a base of {base:g}"
    return _draw([(name, xs, ys)], name, detail, ("step", ylabel), output)


def draw_groups(
    names: Sequence[str],
    curves: Sequence[Sequence[float]],
    field: str,
    detail: str,
    output: str | Path | None,
) -> Figure:
    """Return the picture of all groups; those that do the same share a line."""
    sharing: dict[tuple[float, ...], list[str]] = {}
    for name, values in zip(names, curves, strict=True):
        sharing.setdefault(tuple(values), []).append(name)
    lines = [(_listed(same), list(range(len(ys))), list(ys)) for ys, same in sharing.items()]
    epochs = len(curves[0])
    return _draw(lines, f"{field} over the next {epochs} epochs", detail, ("epoch", field), output)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{names[0]} and {len(names) - 1} more"


def _breaks(schedule: Schedule, last: int) -> list[int]:
    """Steps beside which the curve may jump."""
    begins = getattr(schedule, "at", ()) or getattr(schedule, "milestones", ())
    return [x for b in begins for x in (int(b) - 1, int(b)) if 0 <= x <= last]


def _draw(
    lines: Sequence[tuple[str, list[int], list[float]]],
    title: str,
    detail: str,
    labels: tuple[str, str],
    output: str | Path | None,
) -> Figure:
    figure = Figure(figsize=(9, 4.6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (name, xs, ys) in enumerate(lines):
        look = house.style(index)
        axes.plot(
            xs, ys, color=look["color"], linestyle=look["linestyle"], linewidth=2.4, label=name
        )
    house.frame(axes)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, max(1, lines[0][1][-1])))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.yaxis.label.set(size=12, color=house.INK)
    house.title(axes, title, detail, 13)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=10.5, labelcolor=house.INK)
    if output is not None:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            house.save(figure, path)
        else:
            figure.savefig(path)
    return figure
