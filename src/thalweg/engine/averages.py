"""Averages of the weights: which option of a group keeps one, and where the weights stand meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.engine.groups import TRAINING, resolve
from thalweg.engine.rule import Group
from thalweg.errors import CheckpointError

WEIGHTS = "train_weights"
"""Key of a parameter's state: its weights while it holds its average."""


def keeps_average(group: Group) -> bool:
    """Whether an option of the group, or its rule, averages weights."""
    resolved = resolve(group)
    return bool(resolved.rule.averages) or any(s.averages is not None for s in resolved.specs)


def average_of(p: Tensor, state: Mapping[str, Any], group: Group) -> Tensor | None:
    """A parameter's average, or None if it has none (yet)."""
    resolved = resolve(group)
    found = state.get(resolved.rule.averages) if resolved.rule.averages else None
    for spec in resolved.specs:
        if callable(spec.averages):
            known = any(f"{spec.name}_{s.name}" in state for s in spec.slots)
            found = spec.averages(p, state, group) if known else found
        elif spec.averages is not None:
            found = state.get(f"{spec.name}_{spec.averages}", found)
    return found


def check_weights(p: Tensor, state: Mapping[str, Any], group: Group, where: str) -> None:
    """Refuse a checkpoint that was taken while parameters held averages and has lost their weights.

    Raises:
        CheckpointError: It is one; flat distributed checkpoints leave out what the new optimizer lacks.
    """
    if (
        group.get(TRAINING, True)
        or WEIGHTS in state
        or not keeps_average(group)
        or average_of(p, state, group) is None
    ):
        return
    raise CheckpointError(
        f"the checkpoint was taken while the parameters held their averages, and {where} has no {WEIGHTS!r} "
        "to go on from: call optimizer.train() before taking it (flatten_optimizer_state_dict loads only "
        "entries that the new optimizer has already)"
    )
