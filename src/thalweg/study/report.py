"""What is written down: rows of a table, Markdown, ``results.json``."""

from __future__ import annotations

import json
import math
import platform
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import thalweg
from thalweg.errors import ArgumentError
from thalweg.study.results import Comparison, Entry
from thalweg.study.train import Run

FILES = ("results.json", "table.md", "losses.png")
"""What ``save`` writes."""

NONE = "-"


def header(comparison: Comparison) -> list[str]:
    """Return the names of the table's columns."""
    return [
        "optimizer",
        "test accuracy",
        f"steps to {100 * comparison.target:g} % (validation)",
        "best lr",
        "rates tried",
        "time per step",
        "state per parameter",
    ]


def rows(comparison: Comparison) -> list[list[str]]:
    """Return the table's cells, one row for each optimizer whose search is finished."""
    return [_row(entry, comparison.target) for entry in comparison.finished]


def _row(entry: Entry, target: float) -> list[str]:
    steps = entry.steps_to(target)
    return [
        entry.name,
        _accuracy(entry),
        NONE if steps is None else f"{steps:g}",
        "diverged" if entry.best is None else f"{entry.best.lr:g}" + "*" * entry.on_edge,
        str(len(entry.trials)),
        NONE if entry.step_seconds is None else duration(entry.step_seconds),
        NONE if entry.state_bytes is None else f"{entry.state_bytes:.3g} B",
    ]


def _accuracy(entry: Entry) -> str:
    if entry.accuracy is None:
        return "diverged" if entry.runs else NONE
    lost = len(entry.runs) - len(entry.accuracies)
    return percent(entry) + (f" ({lost} of {len(entry.runs)} diverged)" if lost else "")


def percent(entry: Entry) -> str:
    """Return mean and spread of the test accuracy of an entry that has them."""
    spread = "" if entry.spread is None else f" ± {100 * entry.spread:.1f}"
    return f"{100 * (entry.accuracy or 0):.1f}{spread} %"


def duration(seconds: float) -> str:
    """Return a time with its unit, three digits.

    Example:
        >>> duration(0.000213)
        '213 us'
        >>> duration(0.00213)
        '2.13 ms'
    """
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences under the table: what was done, in numbers."""
    settings: Any = comparison.settings
    data, found = comparison.data, settings["search"]
    tests = {run.test[1] for entry in comparison.entries for run in entry.runs if run.test}
    test = "".join(f", {size} test" for size in tests)
    moved = [f"{e.name}: {e.centre:g}" for e in comparison.finished if e.centre != e.default_lr]
    lines = [
        f"{comparison.title}: {data['train']} training, {data['validation']} validation{test} "
        f"examples; {data['parameters']:,} parameters; {_count(settings['epochs'], 'epoch')} = "
        f"{settings['steps']} steps of {settings['batch']}, lr falling linearly to zero.",
        f"Test accuracy: {_over(len(settings['seeds']))}; the test split is read once per run, "
        f"after its last step{''.join(f'; one example is {100 / size:.2g} %' for size in tests)}.",
        f"Best lr: lowest validation loss, one more seed; {found['grid']} values a factor "
        f"{found['ratio']:.3g} apart around the optimizer's default"
        + (f" ({'; '.join(moved)})" if moved else "")
        + f", up to {found['extra_at_most']} more while the best lies on the edge.",
        f"Time per step: median of optimizer.step() alone, {settings['device']}, "
        f"{_count(settings['threads'], 'thread')}. State: without 0-dim step counters.",
    ]
    if any(entry.on_edge for entry in comparison.entries):
        lines.append("* still on the edge of what was tried: a better rate may lie beyond.")
    if comparison.interrupted:
        lines.append("Interrupted: this is what was finished by then.")
    return lines


def _over(seeds: int) -> str:
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def markdown(comparison: Comparison) -> str:
    """Return the table and its notes as Markdown."""
    head = header(comparison)
    cells = [head, ["---"] + ["---:"] * (len(head) - 1), *rows(comparison)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes(comparison))]) + "\n"


def results(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain data for strict JSON; all times are under keys ``timing``."""
    data: dict[str, Any] = {
        "format": 1,
        "interrupted": comparison.interrupted,
        "settings": comparison.settings,
        "data": {"title": comparison.title, **comparison.data},
        "versions": _versions(),
        "optimizers": [_entry(entry, comparison.target) for entry in comparison.entries],
        "timing": {"seconds": comparison.seconds},
    }
    return {key: _finite(value) for key, value in data.items()}


def _entry(entry: Entry, target: float) -> dict[str, Any]:
    return {
        "name": entry.name,
        "default_lr": entry.default_lr,
        "grid_centre": entry.centre,
        "searched": entry.searched,
        "best_lr": entry.best.lr if entry.best else None,
        "best_lr_on_edge": entry.on_edge,
        "test_accuracy": {"mean": entry.accuracy, "standard_deviation": entry.spread},
        "median_steps_to_target": entry.steps_to(target),
        "state_bytes_per_parameter": entry.state_bytes,
        "timing": {"step_seconds": entry.step_seconds},
        "trials": [_run(run, target) for run in entry.trials],
        "runs": [_run(run, target) for run in entry.runs],
    }


def _run(run: Run, target: float) -> dict[str, Any]:
    loss, accuracy = run.validation or (None, None)
    return {
        "lr": run.lr,
        "seed": run.seed,
        "diverged_at": run.diverged_at,
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "test_correct": run.test[0] if run.test else None,
        "test_examples": run.test[1] if run.test else None,
        "test_accuracy": run.test_accuracy,
        "steps_to_target": run.steps_to(target),
        "state_bytes_per_parameter": run.state_bytes,
        "training_loss": run.losses,
        "validation_curve": [list(point) for point in run.curve],
        "timing": {"step_seconds": run.step_seconds},
    }


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "numpy", "scikit-learn")}
    return {
        "thalweg": thalweg.__version__,
        **packages,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def _finite(value: Any) -> Any:
    """Replace what JSON cannot say: an infinity or a NaN becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


PICTURES = (".png", ".gif", ".jpg", ".jpeg", ".svg", ".pdf")


def check_folder(folder: Path) -> None:
    """Make sure that a folder can be made and written to; leave nothing behind.

    Raises:
        ArgumentError: if it cannot, or its name is that of a picture.
    """
    if folder.suffix.lower() in PICTURES and not folder.is_dir():
        raise ArgumentError(
            f"The output {folder} is the name of a picture, and needed is that of a folder, in which "
            f"pictures have their own names: {folder.with_suffix('')}, say."
        )
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArgumentError(f"Cannot write to the output folder {folder}: {reason}.") from error
    finally:
        for made in missing:
            with suppress(OSError):
                made.rmdir()  # made again by what writes: a run that fails leaves no empty folder


def save(comparison: Comparison, folder: Path) -> None:
    """Write ``FILES`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    from thalweg.study.figures import draw  # Matplotlib takes a second to import

    data, table, picture = (folder / name for name in FILES)
    text = json.dumps(results(comparison), indent=1, allow_nan=False, ensure_ascii=False)
    data.write_text(text + "\n", encoding="utf-8")
    table.write_text(markdown(comparison), encoding="utf-8")
    draw(comparison, picture)
