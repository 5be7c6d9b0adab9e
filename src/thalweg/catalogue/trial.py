"""Trials: an optimizer is made over a throw-away tensor and asked what it does, instead of being believed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.catalogue.names import read
from thalweg.engine.formula import formula
from thalweg.engine.groups import Resolved, resolve
from thalweg.engine.optimizer import Optimizer
from thalweg.errors import TraceError

MATRIX = (128, 128)
"""Large enough that what is kept per row or column hardly counts."""
REFUSALS = (RuntimeError, ValueError, TypeError)
"""What an optimizer raises that does not take something."""


@dataclass(frozen=True)
class Trial:
    """An optimizer's name with arguments, over one parameter of a shape and a dtype."""

    text: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = MATRIX
    dtype: torch.dtype = torch.float32

    @property
    def accepts(self) -> frozenset[str]:
        """The names of the class's arguments."""
        return frozenset(inspect.signature(read(self.text).cls).parameters)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made once, as the reference that runs tensor by tensor where it has that."""
        p = torch.nn.Parameter(torch.ones(self.shape, dtype=self.dtype, device="cpu"))
        plain = {"foreach": False, "fused": False}
        known = {k: v for k, v in plain.items() if k in self.accepts}
        return read(self.text).made([p], **{**known, **self.arguments})

    @property
    def parameter(self) -> Tensor:
        """The only parameter."""
        found: Tensor = self.optimizer.param_groups[0]["params"][0]
        return found

    @property
    def resolved(self) -> Resolved | None:
        """Its rule and options, if it is made of them."""
        made_of_rule = isinstance(self.optimizer, Optimizer)
        return resolve(self.optimizer.param_groups[0]) if made_of_rule else None

    def is_possible(self) -> bool:
        """Whether it can be made at all."""
        with _refusals() as refused:
            self.optimizer  # noqa: B018
        return not refused

    def takes(self, *, sparse: bool = False) -> bool:
        """Whether it takes a step with a gradient of this kind."""
        with _refusals() as refused:
            self.step(sparse=sparse)
        return not refused

    def step(self, *, sparse: bool = False) -> None:
        """Take one step on a tenth of the weights, which begin as ones, for a gradient."""

        def evaluate() -> Tensor:
            p = self.parameter
            gradient = p.detach() * 0.1
            p.grad = gradient.to_sparse(1) if sparse else gradient
            return (p.detach() ** 2).sum() * 0.05

        evaluate()
        if self.needs_closure:
            self.optimizer.step(evaluate)  # type: ignore[arg-type]
        else:
            self.optimizer.step()

    @property
    def needs_closure(self) -> bool:
        """Whether `step()` cannot be called without one."""
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        return closure is not None and closure.default is inspect.Parameter.empty

    def state(self) -> dict[str, float]:
        """Bytes per element of what steps leave in the state; single numbers are left out.

        A list is a history, and counts as long as its group's `history_size` lets it grow.
        """
        if not self.takes():
            self.step(sparse=True)
        p = self.parameter
        longest = self.optimizer.param_groups[0].get("history_size", 1)
        held = {
            key: (_bytes(x[-1]) * longest if isinstance(x, list) and x else _bytes(x)) / p.numel()
            for key, x in self.optimizer.state[p].items()
        }
        return {key: size for key, size in held.items() if size}

    def formula(self) -> str | None:
        """Its traced update as text, or None where there is none to trace."""
        resolved = self.resolved
        if resolved is None:
            return None
        try:
            setting = resolved.setting(self.parameter, frozenset())
            return formula(resolved.rule, resolved.specs, setting)
        except TraceError:  # a rule that runs eagerly
            return None


def _bytes(x: Any) -> int:
    """The size of a tensor; nothing for a single number."""
    return x.numel() * x.element_size() if isinstance(x, Tensor) and x.numel() > 1 else 0


@contextmanager
def _refusals() -> Iterator[list[Exception]]:
    """Collect what is raised by something that does not take what it is given, and keep warnings quiet."""
    refused: list[Exception] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield refused
        except REFUSALS as error:
            refused.append(error)
