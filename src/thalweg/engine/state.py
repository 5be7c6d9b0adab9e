"""State: slots and scalars of parameters, made before a step and published when it runs.

Nothing here changes `optimizer.state`: a failed allocation leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.rule import Slot
from thalweg.errors import StepError


def is_dense(x: Tensor) -> bool:
    """Whether its elements fill one stretch of storage, each once, in whatever order of dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def same_layout(x: Tensor, like: Tensor) -> bool:
    """Whether the same element stands at the same place of both; strides of single elements do not matter."""
    if x.shape != like.shape:
        return False
    return x.stride() == like.stride() or all(
        n == 1 or a == b for n, a, b in zip(like.shape, x.stride(), like.stride(), strict=True)
    )


def lines_are_innermost(x: Tensor) -> bool:
    """Whether each line (along the last dimension) is one stretch of storage, and the next one follows it."""
    return x.is_contiguous()


def rows_are_outermost(x: Tensor) -> bool:
    """Whether each row (all dimensions but the first) is one stretch of storage."""
    return x.ndim < 2 or x.shape[0] <= 1 or x.numel() == 0 or x.stride(0) * x.shape[0] == x.numel()


@dataclass(frozen=True, slots=True)
class Missing:
    """A slot that is yet to be made."""

    dtype: torch.dtype
    init: float | Tensor
    shape: tuple[int, ...] | None = None
    """Of a slot that has a number per line or column."""


@dataclass(eq=False)
class ParameterState:
    """What one parameter's state will be once the step runs.

    Args:
        slots: By key.
        is_new: Whether none of the rule's own slots was there.
        pending: Entries to publish in `optimizer.state[p]`.
    """

    slots: dict[str, Tensor | Missing] = field(default_factory=dict)
    is_new: bool = False
    pending: dict[str, Any] = field(default_factory=dict)


def slots_of(
    p: Tensor,
    grad: Tensor,
    old: Mapping[str, Any],
    wanted: Mapping[str, tuple[Slot, torch.dtype, float | str]],
    own: Sequence[str],
    where: str,
) -> ParameterState:
    """The slots of a parameter: those that are there, laid out as the parameter is, and what is missing.

    Args:
        p: The parameter.
        grad: Its gradient, dense.
        old: `optimizer.state[p]`, or nothing.
        wanted: By key: the slot, the dtype to store a new one in, and its initial value.
        own: Keys of the rule's own slots ("step" where there are none): without any of them, state is new.
        where: The parameter's name, for messages.

    Raises:
        StepError: A slot that is there has another shape or device than the parameter asks for.
    """
    found = ParameterState(is_new=all(old.get(key) is None for key in own))
    for key, (slot, dtype, init) in wanted.items():
        there, shape = old.get(key), slot.shape(p.shape)
        if there is None:
            start = {"param": p, "grad": grad}[init] if isinstance(init, str) else init
            found.slots[key] = Missing(dtype, start, None if slot.over is None else shape)
            continue
        _check(there, p, shape, key, where)
        if slot.over is not None:
            if not there.is_contiguous():
                there = found.pending[key] = there.contiguous()
        elif not same_layout(there, p) and is_dense(p):
            there = found.pending[key] = torch.empty_like(p, dtype=there.dtype).copy_(there)
        found.slots[key] = there
    return found


ALIGNMENT = 64
"""Bytes: where a slot begins in a buffer that it shares, so that no two share a cache line."""


def make_slots(
    params: Sequence[Tensor], missing: Sequence[Missing], *, dense: bool
) -> list[Tensor]:
    """Make a slot of many parameters.

    Those of dense parameters are views of one buffer: one version counter then stands for all of them, and
    memory that a kernel writes is never freed behind its back.

    Args:
        params: Laid out as the slots are to be.
        missing: What each is to hold; of one dtype.
        dense: Whether each parameter fills one stretch of storage.
    """
    dtype = missing[0].dtype
    with (
        torch.no_grad() if dense else nullcontext()
    ):  # a differentiable step sees what a slot began as
        if dense:
            step = ALIGNMENT // dtype.itemsize
            starts = [0, *accumulate(-(-p.numel() // step) * step for p in params)]
            buffer = torch.zeros(starts[-1], dtype=dtype, device=params[0].device)
            new = [
                buffer.as_strided(p.shape, p.stride(), at)
                for p, at in zip(params, starts, strict=False)
            ]
        else:
            new = [
                torch.zeros_like(p, dtype=dtype, requires_grad=False)
                if m.shape is None
                else torch.zeros(m.shape, dtype=dtype, device=p.device)
                for p, m in zip(params, missing, strict=True)
            ]
        for x, m in zip(new, missing, strict=True):
            if isinstance(m.init, Tensor):
                x.copy_(m.init)
            elif m.init != 0.0:
                (torch.view_as_real(x) if x.is_complex() else x).fill_(m.init)  # both parts alike
    return new


def _check(there: Any, p: Tensor, shape: tuple[int, ...], key: str, where: str) -> None:
    alike = isinstance(there, Tensor) and there.is_complex() == p.is_complex()
    if not alike or there.shape != shape:
        got = f"{there.dtype} {tuple(there.shape)}" if isinstance(there, Tensor) else repr(there)
        raise StepError(
            f"state {key!r} of {where} has {got}, and the parameter has {p.dtype} {tuple(p.shape)}: it was "
            "replaced by one of another kind; remove its entry from optimizer.state or make a new optimizer"
        )
    if there.device != p.device:
        raise StepError(
            f"state {key!r} of {where} is on {there.device} and the parameter on {p.device}: the model was "
            "moved after the first step; move it before, or load optimizer.state_dict() into an "
            "optimizer made afterwards"
        )


def scalar_dtype() -> torch.dtype:
    """What torch stores step counts in."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


WIDE_FROM = 2.0**23
"""Counts from here on are kept in float64: in float32, which torch's are, x + 1 is x at 2^24."""


class Scalars:
    """A scalar of many parameters, kept in one vector: a step adds to it, or writes it, as a whole.

    `state[p][key]` is an element of the vector, and stays one through deepcopy and torch.save. A bucket may
    use some elements of a longer vector, in any order.

    Args:
        vector: Holds the numbers.
        places: Where in it those of the bucket stand; None for all, in order.
    """

    def __init__(self, vector: Tensor, places: Tensor | None = None) -> None:
        self.vector, self.places = vector, places

    def read(self) -> Tensor:
        """The numbers, one per parameter."""
        return self.vector if self.places is None else self.vector[self.places]

    def write(self, values: Tensor) -> None:
        """Replace them."""
        if self.places is None:
            self.vector.copy_(values)
        else:
            self.vector[self.places] = values.to(self.vector.dtype)

    def increment(self) -> None:
        """Add one to each."""
        if self.places is None:
            self.vector.add_(1.0)
        else:
            self.vector[self.places] += 1.0


def elements_of_one(there: Sequence[Any], device: torch.device) -> Scalars | None:
    """Scalars whose tensors already are elements of one vector there, to which ones can be added."""
    base = there[0]._base if there and isinstance(there[0], Tensor) else None
    if base is None or base.device != device or base.ndim != 1:
        return None
    if not all(isinstance(x, Tensor) and x._base is base for x in there):
        return None
    if counting_dtype(base.dtype, float(base.max())) != base.dtype:
        return None
    places = [x.storage_offset() - base.storage_offset() for x in there]
    whole = places == list(range(len(base)))
    return Scalars(base, None if whole else torch.tensor(places, device=device))


def scalar_views(values: Sequence[Any], device: torch.device, *, wide: bool) -> list[Tensor]:
    """Numbers and 0-dim tensors as the elements of one new vector, in float64 where they are `wide`.

    Where autograd is on (a differentiable step) it sees through them.
    """
    dtypes = [x.dtype for x in values if isinstance(x, Tensor) and x.is_floating_point()]
    dtypes.append(torch.float64 if wide else scalar_dtype())
    dtype = counting_dtype(dtypes[0], max(map(float, values), default=0.0))
    if not torch.is_grad_enabled():
        return list(torch.tensor([float(x) for x in values], dtype=dtype, device=device).unbind())
    every = [torch.as_tensor(x, dtype=dtype, device=device).reshape(()) for x in values]
    vector = torch.stack(every)
    return [vector[i] for i in range(len(every))]  # autograd follows no write below unbind's views


def counting_dtype(stored: torch.dtype, largest: float) -> torch.dtype:
    """What numbers were stored in, or more if ones could not be added to them in it."""
    return torch.promote_types(stored, torch.float64 if largest >= WIDE_FROM else torch.float32)
