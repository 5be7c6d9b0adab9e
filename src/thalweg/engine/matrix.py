"""Matrices: what functions of whole matrices work on, as stacks of those that have one shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.engine.ops import MatrixCall
from thalweg.errors import StepError

STACK = 1 << 26
"""Elements of a stack: what bounds the memory of a function's intermediates."""
ALIGNMENT = 64
"""Bytes: where a matrix begins in the buffer, so that kernels load whole vectors."""


class Stacks:
    """Room for a value per element of many parameters; equal shapes lie one after another.

    A pass writes the tensors in the parameters' storage order, a function gets the stacks, and a later
    pass reads the tensors again: both are views of one buffer, and nothing is gathered.

    Args:
        params: Of two or more dimensions; the first is the matrix's rows, all others its columns.
        call: What will be applied; it is tried on one matrix of each shape, since a step must not fail.

    Raises:
        StepError: The function fails, or gives something else than a stack of that shape.
    """

    def __init__(self, params: Sequence[Tensor], call: MatrixCall) -> None:
        dtype = call.dtype
        by_shape: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(params):
            rows = p.shape[0]
            by_shape.setdefault((rows, p.numel() // rows if rows else 0), []).append(i)
        pitch = ALIGNMENT // dtype.itemsize
        room = {(r, c): -(-r * c // pitch) * pitch for r, c in by_shape}
        total = sum(room[shape] * len(members) for shape, members in by_shape.items())
        buffer = torch.zeros(total, dtype=dtype, device=params[0].device)
        self.stacks: list[Tensor] = []
        found: dict[int, Tensor] = {}
        start = 0
        for (rows, columns), members in by_shape.items():
            step = room[rows, columns]
            if step:
                shape, strides = (len(members), rows, columns), (step, columns, 1)
                whole = buffer.as_strided(shape, strides, start)
                self.stacks += torch.split(whole, max(1, STACK // step))
                _try_out(call, whole[:1])
            for i in members:
                found[i] = buffer[start : start + rows * columns].view(params[i].shape)
                start += step
        self.tensors = [found[i] for i in range(len(params))]

    def apply(self, call: MatrixCall) -> None:
        """Replace every matrix by the function's result."""
        for stack in self.stacks:
            stack.copy_(call(stack))


def _try_out(call: MatrixCall, stack: Tensor) -> None:
    name = call.function.__name__
    try:
        result = call(stack.clone())
    except Exception as e:
        raise StepError(f"matrix function {name} fails: {type(e).__name__}: {e}") from e
    if not isinstance(result, Tensor) or result.shape != stack.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else repr(result)
        raise StepError(
            f"matrix function {name} of a stack of shape {tuple(stack.shape)} gives {got}; it must give a "
            "stack of the same shape"
        )
