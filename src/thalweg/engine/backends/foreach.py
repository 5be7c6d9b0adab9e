"""Programs interpreted list by list with `torch._foreach_*`: what runs where no kernel can.

Tensors are cut into pieces and taken a batch at a time, so that intermediates are bounded in memory (and
on the CPU stay in the cache) however large the model is. torch's own rounding applies: `_foreach_sqrt` on
the CPU is up to an ulp off.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import ByVector, Numbers
from thalweg.engine.backends.eager import Place, choose, reduce
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.ops import OPS
from thalweg.engine.passes import Body, Program
from thalweg.engine.tables import Bucket

name = "foreach"
BATCH = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Elements of a batch: what each intermediate may hold."""

Piece = tuple[int, int, int]
"""A tensor's index, and where the piece begins and ends in it."""


class Foreach(ByVector):
    """A bucket, run batch by batch."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.kind = bucket.kind
        self.batch = BATCH.get(bucket.kind.device.type, BATCH["cuda"])

    def prefetch(self, addresses: array[int]) -> None:
        """Nothing to gain beside the rest."""

    def take_gradients(self) -> None:
        """Nothing to note: gradients are read when they are needed."""

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run one pass."""
        program = self.kind.programs[index]
        tensors = range(len(self.bucket.params))
        sums: list[list[Tensor]] = [
            [torch.zeros(0, device="cpu")] * len(tensors) for _ in program.reductions
        ]
        chosen: dict[Body, list[int]] = {}
        for i in tensors:
            body = choose(program.tree, lambda node, i=i: bool(numbers.of(node, i) != 0))  # type: ignore[misc]
            chosen.setdefault(body, []).append(i)
        for body, members in chosen.items():
            if not body.is_empty:
                for batch in self._batches(program, members):
                    Batch(self.bucket, program, body, batch, numbers).run(sums)
        return [
            torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device="cpu")
            for parts in sums
        ]

    def _batches(self, program: Program, members: list[int]) -> Iterator[list[Piece]]:
        whole = bool(program.reductions or program.vectors) or self.kind.layout != "dense"
        batch: list[Piece] = []
        room = self.batch
        for i in members:
            n, begin = self.bucket.numel[i], 0
            while begin < n or n == 0:
                end = n if whole else min(n, begin + room)
                batch.append((i, begin, end))
                room -= end - begin
                if room <= 0:
                    yield batch
                    batch, room = [], self.batch
                begin = end
                if n == 0:
                    break
        if batch:
            yield batch


class Batch:
    """One body on a batch of pieces; intermediates go as soon as nothing needs them."""

    def __init__(
        self, bucket: Bucket, program: Program, body: Body, pieces: list[Piece], numbers: Numbers
    ) -> None:
        self.bucket, self.program, self.body = bucket, program, body
        self.pieces, self.numbers = pieces, numbers
        self.kind = bucket.kind
        self.places = [Place(bucket, i) for i, _, _ in pieces]
        self.values: dict[Node, list[Tensor]] = {}
        self.uses = Counter(a for n in body.nodes for a in n.args)
        self.uses.update((*body.stores.values(), *body.reduced))

    def run(self, sums: list[list[Tensor]]) -> None:
        """Compute, reduce and store."""
        for node in self.body.nodes:
            self.values[node] = self._apply(node)
            for a in set(node.args):
                self.uses[a] -= node.args.count(a)
                if not self.uses[a]:
                    self.values.pop(a, None)
        for found, reduction, x in zip(
            sums, self.program.reductions, self.body.reduced, strict=True
        ):
            for (i, _, _), part in zip(self.pieces, self._elements(x), strict=True):
                found[i] = reduce(self.bucket, reduction, part, i)
        # All is read before anything is written: a stored input may be another stream's old value.
        stored = {
            stream: [x.clone() for x in self._elements(node)]
            if node.op == "input"
            else self._elements(node)
            for stream, node in self.body.stores.items()
        }
        for stream, values in stored.items():
            self._store(stream, values)

    def _apply(self, node: Node) -> list[Tensor]:
        row = OPS[node.op]
        args = [self._operand(a) for a in node.args]
        first_is_list = isinstance(args[0], list) and isinstance(args[0][0], Tensor)
        if row.foreach is not None and first_is_list and not node.boolean:
            found: list[Tensor] = getattr(torch, row.foreach)(*args)
            return found
        tensors = [self._numbers(a) if a.is_scalar else self._elements(a) for a in node.args]
        return [row.eager(*operands) for operands in zip(*tensors, strict=True)]

    def _operand(self, node: Node) -> Any:
        """As foreach takes it: a list of tensors, or for host scalars a number or a list of numbers."""
        if not node.is_scalar:
            return self._elements(node)
        if node.op == "const":
            return float(node.attr)
        if node.lane == Lane.HOST:
            values = [float(self.numbers.of(node, i)) for i, _, _ in self.pieces]
            return values[0] if len(set(values)) == 1 else values
        return self._numbers(node)

    def _numbers(self, node: Node) -> list[Tensor]:
        """A scalar as a 0-dim tensor per piece."""
        found = []
        for i, _, _ in self.pieces:
            number = node.attr if node.op == "const" else self.numbers.of(node, i)
            x = torch.as_tensor(number, dtype=torch.float64, device=self.kind.device)
            found.append(x.bool() if node.boolean else x.to(self.kind.compute))
        return found

    def _elements(self, node: Node) -> list[Tensor]:
        """A value per element, per piece."""
        if node not in self.values:
            if node.lane == Lane.ELEMENT:
                self.values[node] = self._load(node)
            elif node.lane in VECTORS:
                self.values[node] = [self._spread(node, i) for i, _, _ in self.pieces]
            else:
                return [
                    x.expand(end - begin)
                    for x, (_, begin, end) in zip(self._numbers(node), self.pieces, strict=True)
                ]
        return self.values[node]

    def _load(self, node: Node) -> list[Tensor]:
        kind, name = node.attr
        stream = name or kind
        codec = self.kind.codecs[stream]
        return [
            codec.decode(p.load(stream)[begin:end], self.kind.compute)
            for p, (_, begin, end) in zip(self.places, self.pieces, strict=True)
        ]

    def _spread(self, node: Node, i: int) -> Tensor:
        x = self.bucket.extents.on_elements(self.numbers.device[node], node.lane, i)
        return x.bool() if node.boolean else x.to(self.kind.compute)

    def _store(self, stream: str, values: list[Tensor]) -> None:
        codec = self.kind.codecs[stream]
        for place, (i, begin, end), x in zip(self.places, self.pieces, values, strict=True):
            words = codec.encode(x)
            if begin == 0 and end == self.bucket.numel[i]:
                place.store(stream, words)
            else:
                place.load(stream)[begin:end].copy_(words)


def bind(bucket: Bucket) -> Foreach:
    """Nothing to build."""
    return Foreach(bucket)
