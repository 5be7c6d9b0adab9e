"""Averages of the weights: which option of a group keeps one, and where the weights stand meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends.toolchain import step_threads
from thalweg.engine.groups import TRAINING, resolve
from thalweg.engine.rule import Group
from thalweg.errors import ArgumentError, CheckpointError, StepError

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


def keeps_slow(group: Group) -> bool:
    """Whether an option of the group keeps slow weights, and nothing in it an average."""
    return any(s.shows is not None for s in resolve(group).specs) and not keeps_average(group)


def slow_weights(groups: Iterable[Group], state: Mapping[Any, Any]) -> dict[Tensor, Tensor]:
    """The slow weights of every parameter that has some and whose group averages nothing."""
    found: dict[Tensor, Tensor] = {}
    for group in filter(keeps_slow, groups):
        keys = [f"{s.name}_{s.shows}" for s in resolve(group).specs if s.shows is not None]
        for p in group["params"]:
            found.update((p, state[p][key]) for key in keys if key in state.get(p, ()))
    return found


@contextmanager
def holding(values: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Within the block parameters hold these values, and after it what they held before, bit for bit.

    Values are copied, never pointers.
    """
    with step_threads():
        kept = {p: p.detach().clone() for p in values}
    try:
        _fill(values)
        yield
    finally:
        _fill(kept)


def _fill(values: Mapping[Tensor, Tensor]) -> None:
    with torch.no_grad(), step_threads():
        for p, value in values.items():
            p.copy_(value)


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


class Averaging:
    """The part of an optimizer that shows what averages weights: `eval()`, `train()` and `averaged()`."""

    param_groups: list[dict[str, Any]]
    state: Any
    _shows_slow = False

    @torch.no_grad()
    def eval(self) -> None:
        """Let the parameters hold their averages, until `train()`: values are copied, never pointers.

        The weights stand aside in `state[p]["train_weights"]`, so that a checkpoint taken now goes on from
        them. Without an option that averages, or if they hold them already, nothing happens.
        """
        with step_threads():
            for group in self.param_groups:
                if group.get(TRAINING, True):
                    self._exchange(group)

    def _exchange(self, group: dict[str, Any]) -> None:
        for p in dict.fromkeys(group["params"]):
            average = average_of(p, self.state.get(p, {}), group)
            if average is not None:
                self.state[p][WEIGHTS] = p.detach().clone()
                p.copy_(average)
                group[TRAINING] = False

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights back where `eval()` put averages, bit for bit."""
        with step_threads():
            for group in self.param_groups:
                for p in group["params"]:
                    if WEIGHTS in self.state.get(p, {}):
                        p.copy_(self.state[p].pop(WEIGHTS))
                if TRAINING in group:
                    group[TRAINING] = True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters hold their averages: `eval()`, and then `train()`.

        Where a group averages nothing and has `Lookahead`, they hold its slow weights, values copied: within
        the block there is then no checkpoint and no copy of the optimizer, as of the wrapper's. A parameter
        that has neither (it never stepped) is left as it is.

        Raises:
            ArgumentError: No group has an option that averages, or Lookahead.
            StepError: The parameters hold their averages already.
        """
        if not any(keeps_average(group) or keeps_slow(group) for group in self.param_groups):
            raise ArgumentError(
                "averaged() needs an option that averages: options=[thalweg.options.Average(0.999)]"
            )
        self.check_training("averaged()")
        self.eval()
        try:
            slow = slow_weights(self.param_groups, self.state)
            with holding(slow):
                self._shows_slow = bool(slow)
                yield
        finally:
            self._shows_slow = False
            self.train()

    def check_fast(self, what: str) -> None:
        if self._shows_slow:
            raise StepError(
                f"{what} inside averaged(): the parameters hold the slow weights; leave the with block first"
            )

    def check_training(self, what: str) -> None:
        self.check_fast(what)
        if not all(group.get(TRAINING, True) for group in self.param_groups):
            raise StepError(
                f"{what} while the parameters hold their averages: call train(), or leave the averaged() "
                "block, first"
            )
