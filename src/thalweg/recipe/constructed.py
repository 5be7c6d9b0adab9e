"""What an optimizer and a scheduler were made with, as plain values that a checkpoint is recognized by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from thalweg.schedules import Scheduler

NO_NUMBERS = frozenset(("foreach", "fused", "capturable", "differentiable"))
"""Arguments that change no result."""

MOVING = frozenset(("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "base_lrs"))
"""What torch's schedulers remember of the way; all else they were made with. Bases are the groups'."""


def of_groups(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Each argument of the groups: one value if all have the same, else one for each group.

    What a schedule drives is its base value. Keys that are no arguments are the optimizer's own counts, or
    what the user likes to write there.
    """
    groups, found = optimizer.param_groups, {}
    for name in (*optimizer.defaults, "rule", "lr_scale"):
        if name in NO_NUMBERS or not any(name in g for g in groups):
            continue
        values = [plain(g.get(f"initial_{name}", g.get(name))) for g in groups]
        found[name] = values[0] if all(x == values[0] for x in values) else values
    return found


def of_scheduler(scheduler: LRScheduler | None, prefix: str = "scheduler") -> dict[str, Any]:
    """Its type and its constants, of those within it too; the schedules of ours compare themselves."""
    if scheduler is None:
        return {}
    found: dict[str, Any] = {prefix: type(scheduler).__name__}
    if isinstance(scheduler, Scheduler):
        return found
    for name, value in vars(scheduler).items():
        if name == "_schedulers":
            for i, each in enumerate(value):
                found |= of_scheduler(each, f"{prefix}.{i}")
        elif name == "lr_lambdas" or not (name.startswith("_") or name in {*MOVING, "optimizer"}):
            found[f"{prefix}.{name}"] = plain(value)
    return found


def plain(value: Any) -> Any:
    """A value as numbers, texts and containers of them; what is none of these by its name."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(x) for k, x in value.items()}
    if isinstance(value, Sequence):
        return [plain(x) for x in value]
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    text = repr(value)
    return f"<{type(value).__qualname__}>" if " at 0x" in text else text


def progress(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A torch scheduler's state with how far another has come, and its own constants."""
    found = {k: given[k] if k in MOVING and k in given else x for k, x in own.items()}
    if "_schedulers" in own:
        pairs = zip(own["_schedulers"], given["_schedulers"], strict=True)
        found["_schedulers"] = [progress(a, b) for a, b in pairs]
    return found
