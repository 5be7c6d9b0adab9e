"""What a torch scheduler will do to its optimizer, found out on a copy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from thalweg.errors import ArgumentError, ArgumentTypeError
from thalweg.schedules import fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Sequence[float] | Callable[[int], float]


class _Shadow(Optimizer):
    """What a scheduler sees of an optimizer: copies of its groups' numbers, and no parameters."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.defaults = copy.deepcopy(optimizer.defaults)
        self.state = {}  # type: ignore[assignment]
        self.param_groups = [
            {"params": [], **copy.deepcopy({k: v for k, v in g.items() if k != "params"})}
            for g in optimizer.param_groups
        ]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def lr_curve(
    optimizer: Optimizer,
    scheduler: LRScheduler,
    epochs: int,
    *,
    metrics: Metrics | None = None,
    field: str = "lr",
) -> list[list[float]]:
    """What each group's lr will be in the coming epochs; optimizer and scheduler stay as they are.

    Args:
        optimizer: The optimizer.
        scheduler: Any torch scheduler that drives it, chained ones and ReduceLROnPlateau too.
        epochs: How often the scheduler will step, >= 1.
        metrics: For ReduceLROnPlateau what it will be told, a list or a function of the epoch; None: the
            same number each time, a loss that improves no more.
        field: Another field of the groups, "momentum".

    Returns:
        For each group `epochs` values, the first as it is now.

    Raises:
        TypeError: It is no torch scheduler.
        ValueError: It drives another optimizer, or there is no such field.

    Example:
        >>> import torch, thalweg
        >>> optimizer = thalweg.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        >>> thalweg.schedules.lr_curve(optimizer, scheduler, 3)
        [[1.0, 1.0, 0.1]]
    """
    _check(optimizer, scheduler, epochs, field)
    _check_metrics(metrics, epochs)
    shadow = _Shadow(optimizer)
    originals = {id(optimizer), *(id(s.optimizer) for s in _all(scheduler))}
    copied = copy.deepcopy(scheduler, dict.fromkeys(originals, shadow))
    found: list[list[float]] = [[] for _ in shadow.param_groups]
    rng = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer steps in between
        for epoch in range(epochs):
            for i, (values, group) in enumerate(zip(found, shadow.param_groups, strict=True)):
                values.append(fields.number(group, i, field))
            if epoch + 1 < epochs:
                _step(copied, epoch, metrics)
    torch.set_rng_state(rng)
    return found


def plot_lr(
    optimizer: Optimizer,
    scheduler: LRScheduler,
    epochs: int,
    output: str | Path | None = None,
    *,
    metrics: Metrics | None = None,
    field: str = "lr",
) -> Figure:
    """Draw what each group's lr will be in the coming epochs (needs Matplotlib).

    Optimizer and scheduler stay as they are. Groups that do the same share a line.

    Args:
        optimizer: The optimizer.
        scheduler: As in `lr_curve`.
        epochs: How often the scheduler will step.
        output: A file to write: .png, .svg, .pdf; None: none.
        metrics: As in `lr_curve`.
        field: Of the groups.

    Raises:
        TypeError, ValueError: As in `lr_curve`.
    """
    from thalweg.schedules.figures import draw_groups

    curves = lr_curve(optimizer, scheduler, epochs, metrics=metrics, field=field)
    names = [str(g.get("param_group", f"group {i}")) for i, g in enumerate(optimizer.param_groups)]
    detail = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau) and metrics is None:
        detail += ", if the loss improves no more"
    return draw_groups(names, curves, field, detail, output)


def _check(optimizer: Any, scheduler: Any, epochs: int, field: str) -> None:
    if not isinstance(optimizer, Optimizer) or not isinstance(scheduler, LRScheduler):
        raise ArgumentTypeError(
            f"plot_lr takes a torch optimizer and a torch scheduler, got {type(optimizer).__name__} and "
            f"{type(scheduler).__name__}; a schedule alone is drawn by schedule.plot()"
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ArgumentError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if not any(g is h for g in scheduler.optimizer.param_groups for h in optimizer.param_groups):
        raise ArgumentError("the scheduler drives another optimizer than the one given")
    for i, group in enumerate(optimizer.param_groups):
        if fields.split(field)[0] not in group:
            raise ArgumentError(f"group {i} has no {field!r}; it has {', '.join(map(str, group))}")
        fields.number(group, i, field)


def _check_metrics(metrics: Metrics | None, epochs: int) -> None:
    if metrics is not None and not callable(metrics) and len(metrics) < epochs - 1:
        raise ArgumentError(
            f"metrics has {len(metrics)} values, and {epochs} epochs need {epochs - 1}: one at the end of "
            "each but the last"
        )


def _all(scheduler: LRScheduler) -> list[LRScheduler]:
    return [scheduler, *(s for each in getattr(scheduler, "_schedulers", ()) for s in _all(each))]


def _step(scheduler: LRScheduler, epoch: int, metrics: Metrics | None) -> None:
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
    elif metrics is None:
        scheduler.step(0.0)
    else:
        scheduler.step(metrics(epoch) if callable(metrics) else metrics[epoch])
