"""Backends: they know programs and buffers, and no optimizer by name.

A backend binds a bucket once, which is where everything that can fail happens, and then runs its passes.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.engine.graph import Lane, Node

LAYOUTS: Mapping[str, str] = {
    "strided": "the parameter has holes in its storage, or its rows or lines are not stretches of it",
    "rows": "the gradient is sparse",
    "differentiable": "differentiable=True",
}
"""Why kernels do not take a layout; the only one they take is "dense"."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The scalars of one pass.

    Args:
        row_of: Per tensor, the index of its row of host values.
        host: By node, a value per row.
        device: By node, float64: an entry per tensor, one for all tensors, or one per row, line, ... of each.
    """

    row_of: Sequence[int]
    host: Mapping[Node, Sequence[float]]
    device: Mapping[Node, Tensor]

    def of(self, node: Node, tensor: int) -> float | Tensor:
        """One tensor's value of a scalar."""
        if node.lane == Lane.HOST:
            return self.host[node][self.row_of[tensor]]
        vector = self.device[node]
        return vector[tensor if vector.numel() > 1 else 0]


def upload(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on the device, without waiting for the copy.

    The buffer that the device copies from is a fresh one, which torch gives out again only when the copy
    is done; a captured graph copies from it at every replay, so there it is kept for good.

    Args:
        values: Python numbers, nested as the tensor is to be.
        dtype: To store them in.
        device: Where.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    host = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=True)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(host)
    return host.to(device, non_blocking=True)


_captured: list[Tensor] = []


class Bound(Protocol):
    """A backend with a bucket's tables built."""

    def prefetch(self, addresses: array[int]) -> None:
        """Have these cache lines brought near, if it can: objects that are about to be looked at."""

    def take_gradients(self) -> None:
        """Note where `bucket.grads` are now."""

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run pass `index`; return its reductions, float64: per tensor, or per row, line, column."""
