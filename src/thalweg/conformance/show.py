"""The report in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thalweg.conformance.report import FAIL, PASS, Outcome, Report

STYLES = {PASS: "green", FAIL: "bold red"}


def show(report: Report, console: Console, *, everything: bool = False) -> None:
    """Print what failed with what was expected and got, what was not asked and why, and the counts.

    Args:
        report: What was found.
        console: Where to print.
        everything: Whether to list what passed too, with the reason of each check.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for title in ("status", "check", "expected and got, and who relies on it; or why not asked"):
        table.add_column(title, overflow="fold")
    for o in report.outcomes:
        if everything or o.status != PASS:
            status = Text(o.status, style=STYLES.get(o.status, "dim"))
            table.add_row(status, o.name, _said(o))
    if table.row_count:
        console.print(table)
    console.print(f"{report.summary()}; {report.seconds:.1f} s", highlight=False, markup=False)


def _said(outcome: Outcome) -> Text:
    if outcome.status == FAIL:
        return Text.assemble(outcome.message, "\n", (outcome.reason, "dim"))
    return Text(outcome.message or outcome.reason)
