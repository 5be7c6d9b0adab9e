"""The optimizer under examination: how it is made, and how it is walked over a few seeded parameters."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

Factory = Callable[..., Optimizer]
"""factory(params, **overrides): anybody's; the overrides are its own arguments, such as lr."""

SHAPES: tuple[tuple[int, ...], ...] = ((7,), (6, 5), (2, 3, 2, 2))
PATIENT = 8
"""Steps after which something must have moved: rectified warm-ups begin with five that may not."""
MATRICES: tuple[tuple[int, ...], ...] = ((7, 4), (6, 5), (3, 8))


@dataclass
class Walk:
    """What is known of an optimizer that took steps.

    Args:
        optimizer: Kept, so that no other gets its id.
        steps: How many steps it took with gradients that are not all zero, over float32 or wider.
        moved: Whether any of them changed a weight.
    """

    optimizer: Optimizer
    steps: int = 0
    moved: bool = False


@dataclass(frozen=True)
class Subject:
    """A factory and what its author declares of it.

    Args:
        factory: Makes the optimizer.
        declared: Names of `CAPABILITIES`.
        walks: What its optimizers did, by id: two that never move agree about everything.
    """

    factory: Factory
    declared: frozenset[str] = frozenset()
    walks: dict[int, Walk] = field(default_factory=dict, compare=False, repr=False)

    def make(self, params: Iterable[Any], **overrides: Any) -> Optimizer:
        """Build it; one that knows train and eval modes is put into train mode, as trainers do."""
        return training(self.factory(params, **overrides))

    def parameters(
        self,
        dtype: torch.dtype = torch.float32,
        shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> list[Parameter]:
        """Fresh parameters of shapes that it takes; the same numbers every time."""
        if shapes is None:
            shapes = MATRICES if "matrix-only" in self.declared else SHAPES
        generator = torch.Generator().manual_seed(0)
        return [Parameter(draw(s, dtype, generator)) for s in shapes]

    def gradients(self, params: Sequence[Tensor], t: int) -> list[Tensor]:
        """The gradients of a step, of the layout that it takes: functions of the step and the shapes."""
        generator = torch.Generator().manual_seed(1000 + t)
        found = []
        for p in params:
            grad = torch.empty_like(p, requires_grad=False).copy_(draw(p.shape, p.dtype, generator))
            found.append(self.as_taken(grad))
        return found

    def as_taken(self, grad: Tensor) -> Tensor:
        """A gradient in the layout that it takes."""
        return grad.to_sparse(1) if "sparse-only" in self.declared else grad

    def step(
        self, optimizer: Optimizer, params: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> None:
        """Take a step with these gradients."""
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        if not any(g is not None and _tells(g) for g in grads):
            self.step_with_what_is_there(optimizer)
            return
        with self.watched(optimizer, params):
            self.step_with_what_is_there(optimizer)

    @contextmanager
    def watched(self, optimizer: Optimizer, params: Sequence[Tensor]) -> Iterator[None]:
        """Note whether the step inside moves these parameters; one that raises is none."""
        before = [p.detach().clone() for p in params]
        yield
        walk = self.walks.setdefault(id(optimizer), Walk(optimizer))
        walk.steps += 1
        walk.moved |= not all(map(torch.equal, (p.detach() for p in params), before))

    def first_move(self) -> int | None:
        """The first step that moves a weight, counted from 1; None if the first few move none."""
        params = self.parameters()
        optimizer = self.make(params)
        for t in range(2 * PATIENT):
            before = [p.detach().clone() for p in params]
            self.run(optimizer, params, t, 1)
            if not all(map(torch.equal, (p.detach() for p in params), before)):
                return t + 1
        return None

    def step_with_what_is_there(self, optimizer: Optimizer) -> None:
        """Take a step with the gradients that are there; with a closure only if one is required.

        The closure sets them at each call, as a backward does after zero_grad: SAM clears them between.
        """
        if "closure-required" not in self.declared:
            optimizer.step()
            return
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [p.grad for p in params]

        def closure() -> float:
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            return 1.0

        optimizer.step(closure)

    def run(
        self, optimizer: Optimizer, params: Sequence[Tensor], first: int, count: int
    ) -> Optimizer:
        """Take steps `first` to `first + count - 1`."""
        for t in range(first, first + count):
            self.step(optimizer, params, self.gradients(params, t))
        return optimizer

    def run_new(self, count: int, **overrides: Any) -> tuple[Optimizer, list[Parameter]]:
        """Build it over fresh parameters and take this many steps."""
        params = self.parameters()
        return self.run(self.make(params, **overrides), params, 0, count), params

    def declares(self, optimizer: Optimizer, argument: str) -> bool:
        """Whether the optimizer has this argument, by its groups or its signature."""
        signature = inspect.signature(type(optimizer).__init__).parameters
        return argument in optimizer.param_groups[0] or argument in signature


def _tells(grad: Tensor) -> bool:
    """Whether a step with this gradient has to show: bfloat16 may round it away."""
    return grad.element_size() >= 4 and bool(grad.detach().to_dense().any())


def training(optimizer: Optimizer) -> Optimizer:
    """Put an optimizer that knows train and eval modes into train mode."""
    train = getattr(optimizer, "train", None)
    if callable(train):
        train()
    return optimizer


def draw(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw in float64 and round, so that every precision sees the same numbers."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), dtype=wide, generator=generator).to(dtype)


def copies(grads: Sequence[Tensor]) -> list[Tensor]:
    """The same gradients for a second optimizer: one that writes to its own must not reach them."""
    return [g.clone() for g in grads]


def clones(params: Sequence[Tensor]) -> list[Parameter]:
    """Leaf copies of parameters, without gradients."""
    return [Parameter(p.detach().clone()) for p in params]


def through_bytes(x: Any, *, weights_only: bool = False) -> Any:
    """What torch.save and torch.load make of it."""
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)
