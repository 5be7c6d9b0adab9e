"""Backends: they know programs and buffers, and no optimizer by name.

A backend binds a bucket once, which is where everything that can fail happens, and then runs its passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from thalweg.engine.graph import Lane, Node
from thalweg.engine.tables import Bucket


@dataclass(frozen=True, eq=False)
class Numbers:
    """The scalars of one pass.

    Args:
        row_of: Per tensor, the index of its row of host values.
        host: By node, a value per row.
        device: By node, float64: an entry per tensor, one for all tensors, or an entry per row of a tensor.
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


class Bound(Protocol):
    """A backend with a bucket's tables built."""

    def take_gradients(self) -> None:
        """Note where `bucket.grads` are now."""

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run pass `index`; return its reductions, float64: per tensor, or per row for those over rows."""


class Backend(Protocol):
    """A way of running programs."""

    name: str

    def bind(self, bucket: Bucket) -> Bound:
        """Build the tables and whatever must be compiled; everything that can fail."""
