"""Averages of the weights: which option of a group keeps one, and where the weights stand meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.engine.groups import resolve
from thalweg.engine.rule import Group

TRAINING = "train_mode"
"""Key of a group: False while its parameters hold averages. Elsewhere it is not there."""
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
