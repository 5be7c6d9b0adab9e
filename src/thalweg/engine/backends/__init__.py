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
from thalweg.engine.tables import Bucket

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
        where: The device on which those are.
    """

    row_of: Sequence[int]
    host: Mapping[Node, Sequence[float]]
    device: Mapping[Node, Tensor]
    where: torch.device

    def of(self, node: Node, tensor: int) -> float | Tensor:
        """One tensor's value of a scalar."""
        if node.lane == Lane.HOST:
            return self.host[node][self.row_of[tensor]]
        vector = self.device[node]
        return vector[tensor if vector.numel() > 1 else 0]

    def per_tensor(self, node: Node) -> Tensor:
        """All tensors' values in float64: an entry per tensor, or one for all."""
        if node.lane != Lane.HOST:
            return self.device[node]
        return spread(self.host[node], self.row_of, self.where)


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


def spread(values: Sequence[float], row_of: Sequence[int], where: torch.device) -> Tensor:
    """Host values of rows in float64 for each tensor; a single one stands for all."""
    x = upload(values, torch.float64, where)
    return x if len(values) == 1 else x[upload(row_of, torch.int64, where)]


class Bound(Protocol):
    """A backend with a bucket's tables built."""

    def asks(self, index: int) -> Sequence[Node]:
        """What pass `index` needs of the scalar lane; of -1, what `finish` needs."""

    def prefetch(self, addresses: array[int]) -> None:
        """Have these cache lines brought near, if it can: objects that are about to be looked at."""

    def take_gradients(self) -> None:
        """Note where `bucket.grads` are now."""

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run pass `index`; return its reductions, float64: per tensor, or per row, line, column."""

    def finish(self, numbers: Numbers) -> None:
        """After the last pass: write the slots that have a number per line or column."""


class ByVector:
    """Numbers per row, matrix, line and column as the scalar lane computes them, vector by vector."""

    bucket: Bucket

    def asks(self, index: int) -> Sequence[Node]:
        """What pass `index` needs of the scalar lane; of -1, what `finish` needs."""
        if index < 0:
            return tuple(self.bucket.kind.graph.kept.values())
        program = self.bucket.kind.programs[index]
        return (*program.columns, *program.vectors)

    def finish(self, numbers: Numbers) -> None:
        """After the last pass: write the slots that have a number per line or column."""
        extents, graph = self.bucket.extents, self.bucket.kind.graph
        for name, node in graph.kept.items():
            lane = graph.vectors[name]
            x = extents.lift(numbers.per_tensor(node), node.lane, lane).expand(extents.total[lane])
            slots = [slot.view(-1) for slot in self.bucket.slots[name]]
            if self.bucket.kind.layout == "differentiable":
                for slot, part in zip(slots, extents.parts_of(x, lane), strict=True):
                    slot.copy_(part)
            else:
                torch._foreach_copy_(slots, list(extents.parts_of(x, lane)))
