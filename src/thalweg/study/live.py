"""What is shown in the terminal: progress while training, the table at the end."""

from __future__ import annotations

import statistics
import textwrap

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from thalweg.study import report
from thalweg.study.comparison import Moment
from thalweg.study.paths import Trajectories, moments
from thalweg.study.rates import EffectiveRates
from thalweg.study.results import Comparison


class Live:
    """Progress bars, one per optimizer, drawn while the ``with`` block runs.

    Args:
        console: where to draw; what is not a terminal is left alone.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, moment: Moment) -> None:
        if moment.name not in self._tasks:
            self._tasks[moment.name] = self._bars.add_task(moment.name, stage="")
        self._bars.update(
            self._tasks[moment.name],
            completed=moment.done,
            total=moment.total,
            stage=f"{moment.stage}, loss {moment.loss:.3g}",
        )


def show_distances(found: Trajectories, console: Console) -> None:
    """Print how far each path is from the minimum at equal steps."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("step", justify="right")
    rows = [[str(step)] for step in moments(found.steps)]
    for path in found.paths:
        kinds = {"": path.points} if path.slow is None else {"fast": path.fast, "slow": path.slow}
        for kind, points in kinds.items():
            heading = "\n".join([*textwrap.wrap(path.name, 18), f"lr {path.lr:g}", kind]).strip()
            table.add_column(Text(heading), justify="right", overflow="fold")
            distances = found.surface.distance(points).tolist()
            for row, step in zip(rows, moments(found.steps), strict=True):
                row.append(f"{distances[step]:.2g}" if step < len(distances) else "diverged")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    x, y = found.surface.minimum
    ahead = any(path.slow is not None for path in found.paths)
    told = " Lookahead's fast weights before each pull, its slow ones after." if ahead else ""
    console.print(
        f"Distance to the minimum of {found.surface.title} at ({x:g}, {y:g})." + told,
        style="dim",
        highlight=False,
        markup=False,
    )


def show_rates(found: EffectiveRates, console: Console) -> None:
    """Print how far apart the weights' learning rates are in the end."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("optimizer", overflow="fold")
    for heading in ("lr", "1 %", "median", "99 %", "99 % / 1 %", "training loss"):
        table.add_column(heading, justify="right")
    for rates in found.rates:
        low, *_, high = rates.quantiles[-1].tolist()
        middle = rates.quantiles[-1].median().item()
        numbers = (low, middle, high, rates.spread[-1].item(), statistics.fmean(rates.losses[-16:]))
        table.add_row(Text(rates.name), f"{rates.lr:g}", *(f"{number:.2g}" for number in numbers))
    console.print(table)
    console.print(
        f"Step per unit of momentum of {found.parameters:,} weights after {found.steps} steps; "
        f"quantiles of those that moved, at least {100 * min(r.measured for r in found.rates):.0f} % "
        "in every step. Loss: mean of the last 16 batches.",
        style="dim",
        highlight=False,
        markup=False,
    )


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and its notes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    first, *others = report.header(comparison)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(textwrap.fill(name, 9), justify="right", no_wrap=True)
    for row in report.rows(comparison):
        table.add_row(*map(Text, row))  # as it is: a name may hold square brackets
    console.print(table)
    for note in report.notes(comparison):
        console.print(note, style="dim", highlight=False, markup=False)
