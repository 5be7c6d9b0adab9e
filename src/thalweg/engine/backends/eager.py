"""The reference: programs interpreted tensor by tensor in plain torch, every operation IEEE-rounded.

It also takes what no kernel takes: tensors with holes in their storage, sparse gradients row by row, and
steps that autograd differentiates.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.engine.backends import ByVector, Numbers
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.ops import OPS
from thalweg.engine.passes import Body, Branch, Program, Tree
from thalweg.engine.sums import block_sums, column_sums
from thalweg.engine.tables import Bucket

name = "eager"


class Eager(ByVector):
    """A bucket, run tensor by tensor."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.kind = bucket.kind
        self.compute = bucket.kind.compute

    def prefetch(self, addresses: array[int]) -> None:
        """Nothing to gain beside the rest."""

    def take_gradients(self) -> None:
        """Nothing to note: gradients are read when they are needed."""

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run one pass over every tensor."""
        program = self.kind.programs[index]
        parts: list[list[Tensor]] = [[] for _ in program.reductions]
        for i in range(len(self.bucket.params)):
            for found, part in zip(parts, self._tensor(program, i, numbers), strict=True):
                found.append(part)
        return [
            torch.cat(p) if p else torch.zeros(0, dtype=torch.float64, device="cpu") for p in parts
        ]

    def _tensor(self, program: Program, i: int, numbers: Numbers) -> list[Tensor]:
        values: dict[Node, Tensor] = {}
        body = choose(program.tree, lambda node: bool(numbers.of(node, i) != 0))
        place = Place(self.bucket, i)

        def value(node: Node) -> Tensor:
            if node not in values:
                values[node] = self._outside(node, i, numbers, place)
            return values[node]

        for node in body.nodes:
            values[node] = OPS[node.op].eager(*(value(a) for a in node.args))
        n = place.numel
        sums = [
            reduce(self.bucket, r, value(x).expand(n), i)
            for r, x in zip(program.reductions, body.reduced, strict=True)
        ]
        # All is read before anything is written: a stored input may be another stream's old value.
        stored = {
            name: value(node).clone() if node.op == "input" else value(node)
            for name, node in body.stores.items()
        }
        for stream, x in stored.items():
            place.store(stream, self.kind.codecs[stream].encode(x.expand(n)))
        return sums

    def _outside(self, node: Node, i: int, numbers: Numbers, place: Place) -> Tensor:
        if node.lane == Lane.ELEMENT:
            kind, name = node.attr
            return self.kind.codecs[name or kind].decode(place.load(name or kind), self.compute)
        if node.lane in VECTORS:
            x = self.bucket.extents.on_elements(numbers.device[node], node.lane, i)
        else:
            number = node.attr if node.op == "const" else numbers.of(node, i)
            x = torch.as_tensor(number, dtype=torch.float64, device=self.kind.device)
        return x.bool() if node.boolean else x.to(self.compute)


def reduce(bucket: Bucket, node: Node, x: Tensor, i: int) -> Tensor:
    """A reduction of tensor i's elements: a number per row, line or column, or one."""
    extents = bucket.extents
    if node.lane == Lane.COLUMN:
        return column_sums(x.view(extents.stacks[i]), node.op).view(-1)
    if node.lane in (Lane.ROW, Lane.LINE):
        return block_sums(x.view(extents.count[node.lane][i], extents.size[node.lane][i]), node.op)
    return block_sums(x, node.op).view(1)


class Place:
    """Where one tensor's streams are read and written, as flat real vectors."""

    def __init__(self, bucket: Bucket, i: int) -> None:
        self.bucket, self.i = bucket, i
        self.layout = bucket.kind.layout
        self.rows: tuple[Tensor, ...] | None = None
        if self.layout == "rows":
            grad = bucket.grads[i].coalesce()
            self.rows, self.touched = grad.indices().unbind(), grad.values()

    @property
    def numel(self) -> int:
        """How many numbers there are to work on."""
        if self.rows is None:
            return self.bucket.numel[self.i]
        return self.touched.numel() * (2 if self.touched.is_complex() else 1)

    def _tensor(self, stream: str) -> Tensor:
        return self.bucket.tensors(stream)[self.i]

    def load(self, stream: str) -> Tensor:
        """The words of a stream."""
        x = self._tensor(stream)
        if self.rows is not None:
            return (
                self.touched.reshape(-1) if stream == "grad" else x.detach()[self.rows].reshape(-1)
            )
        if self.layout == "differentiable":
            # a clone, so that writing the parameter later leaves what autograd saved as it was
            return _real(x).reshape(-1).clone()
        return self._flat(x.detach())

    def _flat(self, x: Tensor) -> Tensor:
        x = _real(x)
        return x.as_strided((x.numel(),), (1,)) if self.layout == "dense" else x.reshape(-1)

    def store(self, stream: str, words: Tensor) -> None:
        """Write the words of a stream."""
        x = self._tensor(stream)
        if self.layout == "differentiable":
            values = words.view(*x.shape, 2) if x.is_complex() else words.view(x.shape)
            x.copy_(torch.view_as_complex(values) if x.is_complex() else values)
        elif self.rows is not None:
            x.detach()[self.rows] = words.view(self.touched.shape)
        elif self.layout == "dense":
            self._flat(x.detach()).copy_(words)
        else:
            real = _real(x.detach())
            real.copy_(words.view(real.shape))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def choose(tree: Tree, holds: Callable[[Node], bool]) -> Body:
    """The body that scalar conditions lead to."""
    while isinstance(tree, Branch):
        tree = tree.yes if holds(tree.condition) else tree.no
    return tree


def bind(bucket: Bucket) -> Eager:
    """Nothing to build."""
    return Eager(bucket)
