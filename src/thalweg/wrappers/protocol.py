"""What an optimizer must have to be wrapped, and the sentence for each thing that it lacks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from thalweg.errors import ArgumentTypeError, CheckpointError, StepError

_MADE_BY_INIT = ("defaults", "state", "param_groups", "_optimizer_step_pre_hooks")


def check_optimizer(title: str, optimizer: Any) -> None:
    """Refuse what is no optimizer, or one that was never set up.

    Raises:
        ArgumentTypeError: It is a class, no `torch.optim.Optimizer`, or lacks what torch's constructor makes.
    """
    if isinstance(optimizer, type):
        name = optimizer.__name__
        raise ArgumentTypeError(
            f"{title} wraps an optimizer and was given the class {name}: write "
            f"{title}({name}(model.parameters(), lr=...))"
        )
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentTypeError(
            f"{title} wraps a torch.optim.Optimizer, and {name} is none: derive it from "
            "torch.optim.Optimizer, so that schedulers and scalers take it too"
        )
    if complaint := not_set_up(optimizer):
        raise ArgumentTypeError(f"{title} cannot wrap {name}: {complaint}")
    if not isinstance(optimizer.state, MutableMapping):
        raise ArgumentTypeError(
            f"{title} cannot wrap {name}: its state is a {type(optimizer.state).__name__}, which lacks "
            "entries by parameter; torch.optim.Optimizer's constructor makes defaultdict(dict)"
        )
    for i, group in enumerate(optimizer.param_groups):
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            raise ArgumentTypeError(
                f"{title} cannot wrap {name}: its param_groups[{i}] is no dict with a list 'params'"
            )


def not_set_up(optimizer: torch.optim.Optimizer) -> str | None:
    """Say what an optimizer lacks whose constructor did not call torch's, or None."""
    lacks = [key for key in _MADE_BY_INIT if not hasattr(optimizer, key)]
    if not lacks:
        return None
    return (
        f"it lacks {', '.join(lacks)}, which torch.optim.Optimizer's constructor makes; "
        f"{type(optimizer).__name__}.__init__ must call super().__init__(params, defaults)"
    )


def accepts_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step(closure)` can be called."""
    return _binds(optimizer, lambda: 0.0)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step()` cannot."""
    return not _binds(optimizer)


def _binds(optimizer: torch.optim.Optimizer, *arguments: Any) -> bool:
    try:
        # The class's: a scheduler puts a step of another signature on the object.
        inspect.signature(type(optimizer).step).bind(optimizer, *arguments)
    except TypeError:
        return False
    return True


def check_accepts_closure(optimizer: torch.optim.Optimizer) -> None:
    """Refuse to pass a closure to a step that takes none.

    Raises:
        StepError: It takes none.
    """
    if not accepts_closure(optimizer):
        raise StepError(
            f"{type(optimizer).__name__}.step() lacks the argument closure=None: evaluate the closure "
            "yourself and call step() without one"
        )


def check_layout(name: str, saved: Any) -> None:
    """Refuse a state_dict that is not laid out as torch's.

    Raises:
        CheckpointError: It is not.
    """
    lacks = [
        key
        for key in ("state", "param_groups")
        if not isinstance(saved, Mapping) or key not in saved
    ]
    if lacks:
        got = ", ".join(map(repr, list(saved)[:3])) if isinstance(saved, Mapping) else repr(saved)
        raise CheckpointError(
            f"{name} lacks {' and '.join(map(repr, lacks))}: a state_dict has 'state' by parameter "
            f"and 'param_groups', and this has {got or 'nothing'}"
        )
