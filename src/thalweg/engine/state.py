"""State: slots and scalars of a parameter, made before a step and published when it runs.

Nothing here changes `optimizer.state`: a failed allocation leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


def rows_are_outermost(x: Tensor) -> bool:
    """Whether each row (all dimensions but the first) is one stretch of storage."""
    return x.ndim < 2 or x.shape[0] <= 1 or x.numel() == 0 or x.stride(0) * x.shape[0] == x.numel()


@dataclass(eq=False)
class ParameterState:
    """What one parameter's state will be once the step runs.

    Args:
        slots: By key.
        is_new: Whether none of the rule's own slots was there.
        pending: Entries to publish in `optimizer.state[p]`.
    """

    slots: dict[str, Tensor] = field(default_factory=dict)
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
    """The slots of a parameter: those that are there, laid out as the parameter is, and new ones.

    Args:
        p: The parameter.
        grad: Its gradient, dense.
        old: `optimizer.state[p]`, or nothing.
        wanted: By key: the slot, the dtype to store a new one in, and its initial value.
        own: Keys of the rule's own slots ("step" where there are none): without any of them, state is new.
        where: The parameter's name, for messages.

    Raises:
        StepError: A slot that is there has another shape or device than the parameter.
    """
    found = ParameterState(is_new=all(old.get(key) is None for key in own))
    for key, (_, dtype, init) in wanted.items():
        there = old.get(key)
        if there is None:
            there = found.pending[key] = _fresh(p, grad, dtype, init)
        else:
            _check(there, p, key, where)
            if not same_layout(there, p) and is_dense(p):
                there = found.pending[key] = torch.empty_like(p, dtype=there.dtype).copy_(there)
        found.slots[key] = there
    return found


def _fresh(p: Tensor, grad: Tensor, dtype: torch.dtype, init: float | str) -> Tensor:
    with torch.no_grad():
        new = torch.empty_like(p, dtype=dtype, requires_grad=False)
        if isinstance(init, str):
            return new.copy_(p if init == "param" else grad)
        return new.fill_(init)


def _check(there: Any, p: Tensor, key: str, where: str) -> None:
    alike = isinstance(there, Tensor) and there.is_complex() == p.is_complex()
    if not alike or there.shape != p.shape:
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


def scalar_vector(
    key: str, initial: Sequence[float], states: Sequence[Mapping[str, Any]], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """One vector for a scalar of many parameters, and its 0-dim views.

    A step then adds to one vector; `state[p]["step"]` is an element of it, and stays one through deepcopy
    and torch.save. If the parameters' numbers already are the elements of one vector, that vector it is,
    unless ones can no longer be added in its dtype.
    """
    there = [state.get(key) for state in states]
    values = [start if x is None else float(x) for x, start in zip(there, initial, strict=True)]
    dtype = _counting_dtype(there, values)
    base = there[0]._base if there and isinstance(there[0], Tensor) else None
    if base is not None and (base.device, base.shape, base.dtype) == (device, (len(there),), dtype):
        start, size = base.data_ptr(), base.element_size()
        if all(
            isinstance(x, Tensor) and x._base is base and x.data_ptr() == start + i * size
            for i, x in enumerate(there)
        ):
            return base, [x for x in there if isinstance(x, Tensor)]
    vector = torch.tensor(values, dtype=dtype, device=device)
    return vector, list(vector.unbind())


def _counting_dtype(there: Sequence[Any], values: Sequence[float]) -> torch.dtype:
    """What these numbers were stored in, or more if ones could not be added to them in it."""
    stored = next(
        (x.dtype for x in there if isinstance(x, Tensor) and x.is_floating_point()), scalar_dtype()
    )
    wide = max(values, default=0.0) >= WIDE_FROM
    return torch.promote_types(stored, torch.float64 if wide else torch.float32)
