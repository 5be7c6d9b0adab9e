"""What a preset prints: what it chose."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.made import averages
from thalweg.recipe.recipe import Recipe

NUMBERS = ("lr", "momentum", "betas", "nesterov")


def announce(title: str, *lines: str) -> None:
    """Print a title with lines below it, in the first process only."""
    if not (distributed.is_available() and distributed.is_initialized()) or not (
        distributed.get_rank()
    ):
        print("\n  ".join((title, *lines)))


def spelled(optimizer: torch.optim.Optimizer) -> str:
    """The optimizer with the numbers that it got."""
    group: dict[str, Any] = {**optimizer.param_groups[0]}
    group["lr"] = float(group.get("initial_lr", group["lr"]))
    group["momentum"] = optimizer.defaults.get("momentum")  # a warm-up drives the group's
    values = ", ".join(f"{k}={group[k]}" for k in NUMBERS if group.get(k) not in (None, False))
    options = "".join(f" + {option}" for option in group.get("options", ()))
    return f"{type(optimizer).__name__}({values}){options}"


def said(accumulate: Accumulate) -> str:
    """How many batches make a step."""
    batches = accumulate.batches(accumulate.warmup)
    if batches == 1:
        return "each batch is one"
    ramp = f", rising from 1 over {accumulate.warmup}" if accumulate.warmup else ""
    return f"{batches} batches a step{ramp}, their {accumulate.reduction}"


def said_rest(recipe: Recipe) -> str:
    """Precision, clipping, average."""
    clip = "not clipped" if recipe.clip is None else f"clipped to {recipe.clip:g}"
    average = "the optimizer's own" if averages(recipe.optimizer) else "none"
    if recipe.average is not None:
        kind, *numbers = recipe.average.settings.items()
        average = ", ".join([str(kind[1]), *(f"{k}={v}" for k, v in numbers)])
    return f"{recipe.precision.name}; gradients {clip}; average: {average}"
