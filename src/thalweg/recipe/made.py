"""What a recipe asks of its optimizer."""

from __future__ import annotations

import inspect

import torch

from thalweg.catalogue.names import Named, read
from thalweg.engine.averages import keeps_average
from thalweg.engine.optimizer import Optimizer
from thalweg.errors import ArgumentError
from thalweg.wrappers import SAM

SCHEDULE_FREE, GATE = "schedule_free", "skip_non_finite"


def named(who: str, text: str) -> Named:
    """What the text names, if it can step without a closure.

    Raises:
        ValueError: It cannot, or the name is unknown.
    """
    found = read(text)
    if wants_closure(found.cls):
        raise ArgumentError(
            f"{who} cannot train with {text!r}: its step evaluates the loss itself, and a recipe is given a "
            "loss for each batch"
        )
    return found


def wants_closure(cls: type[torch.optim.Optimizer]) -> bool:
    """Whether its step evaluates the loss itself; SAM's does so at a second place."""
    if issubclass(cls, SAM):
        return True
    closure = inspect.signature(cls.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an average of its own takes the place of a schedule that comes down."""
    return any(SCHEDULE_FREE in group.get("options", ()) for group in optimizer.param_groups)


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it keeps an average of the weights itself."""
    return isinstance(optimizer, Optimizer) and any(map(keeps_average, optimizer.param_groups))


def held_back(optimizer: torch.optim.Optimizer) -> int:
    """How many steps the option `SkipNonFinite` left out."""
    gated = any(GATE in group.get("options", ()) for group in optimizer.param_groups)
    return int(getattr(optimizer, "skipped_steps", 0)) if gated else 0
