"""Where numbers of a training go: TensorBoard, CSV; and the lr of each group by name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import SEEK_END, TextIOWrapper
from pathlib import Path
from typing import Any, Protocol

import torch


class Writer(Protocol):
    """Whatever takes numbers by name at a step."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...


def learning_rates(optimizer: torch.optim.Optimizer, prefix: str = "x/lr") -> dict[str, float]:
    """The lr of each group by name, `x/lr0`, `x/lr1`, ... as YOLOv5 logs them.

    Read it before `scheduler.step()`: afterwards the groups hold the next epoch's.

    Example:
        >>> import torch
        >>> from thalweg.recipe import learning_rates
        >>> learning_rates(torch.optim.SGD([torch.ones(1)], lr=0.1))
        {'x/lr0': 0.1}
    """
    return {f"{prefix}{i}": float(g["lr"]) for i, g in enumerate(optimizer.param_groups)}


class CSVWriter:
    """Append numbers to a file of lines `step,name,value`, each written through at once.

    Rows of one form can be appended whatever is measured when, and a training that is resumed goes on in
    the same file, on a new line if a crash left half of one. Floats are written with all their digits.

    Args:
        path: The file; folders are made, and a header if it is new.
    """

    HEADER = ("step", "name", "value")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Append a line for each number."""
        rows = [(step, name, repr(float(value))) for name, value in numbers.items()]
        with self.path.open("a+b") as raw, TextIOWrapper(raw, "utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            if raw.seek(0, SEEK_END) == 0:
                lines.writerow(self.HEADER)
            elif raw.seek(-1, SEEK_END) and raw.read(1) != b"\n":
                file.write("\n")
            lines.writerows(rows)


class TensorBoardWriter:
    """Write numbers as TensorBoard scalars; needs the package `tensorboard`.

    Args:
        target: A folder for a new event file, or a `SummaryWriter` that is there already.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, target: str | Path | Any) -> None:
        if isinstance(target, (str, Path)):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as e:
                raise ImportError(
                    "TensorBoardWriter needs TensorBoard: pip install tensorboard"
                ) from e
            target = SummaryWriter(str(target))
        self.target = target

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Add a scalar for each number."""
        for name, value in numbers.items():
            self.target.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what waits, and close the event file."""
        self.target.close()
