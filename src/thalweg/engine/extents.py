"""Extents: how the tensors of a bucket fall into rows, matrices, lines and columns.

Numbers per row (matrix, line, column) of all tensors of a bucket stand in one vector, tensor after tensor.
A tensor of shape (..., R, C) is a stack of matrices with R lines and C columns; what is not there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from thalweg.engine.graph import VECTORS, Lane
from thalweg.engine.sums import tree_sum


class Extents:
    """Of tensors of these shapes.

    Args:
        shapes: One per tensor.
        device: Where index vectors are to lie.
        parts: Numbers in an element: two of a complex one.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], device: torch.device, parts: int = 1
    ) -> None:
        self.shapes, self.device, self.parts = shapes, device, parts
        self._owner: dict[Lane, Tensor] = {}
        self._matrix: dict[Lane, Tensor] = {}

    @cached_property
    def stacks(self) -> list[tuple[int, int, int]]:
        """Of each tensor: matrices, lines of each, columns of each."""
        padded = [(1, 1, *s) for s in self.shapes]
        return [(prod(s[:-2]), s[-2], s[-1]) for s in padded]

    @cached_property
    def count(self) -> dict[Lane, list[int]]:
        """By lane: how many rows, matrices, lines, columns each tensor has."""
        return {
            Lane.ROW: [s[0] if len(s) else 1 for s in self.shapes],
            Lane.MATRIX: [n for n, _, _ in self.stacks],
            Lane.LINE: [n * lines for n, lines, _ in self.stacks],
            Lane.COLUMN: [n * columns for n, _, columns in self.stacks],
        }

    @cached_property
    def size(self) -> dict[Lane, list[int]]:
        """By lane: how many numbers each row, matrix, line, column of a tensor has."""
        rows = [prod(s[1:]) * self.parts for s in self.shapes]
        return {
            Lane.ROW: rows,
            Lane.MATRIX: [lines * columns * self.parts for _, lines, columns in self.stacks],
            Lane.LINE: [columns * self.parts for _, _, columns in self.stacks],
            Lane.COLUMN: [lines * self.parts for _, lines, _ in self.stacks],
        }

    @cached_property
    def base(self) -> dict[Lane, list[int]]:
        """By lane: where each tensor's numbers begin in the bucket's vector."""
        return {lane: exclusive_sums(self.count[lane]) for lane in VECTORS}

    @cached_property
    def total(self) -> dict[Lane, int]:
        """By lane: how long the bucket's vector is."""
        return {lane: sum(self.count[lane]) for lane in VECTORS}

    def owner(self, lane: Lane) -> Tensor:
        """Per number of the lane, the index of its tensor."""
        if lane not in self._owner:
            counts = torch.tensor(self.count[lane], device=self.device)
            each = torch.arange(len(self.shapes), device=self.device)
            self._owner[lane] = torch.repeat_interleave(each, counts, output_size=self.total[lane])
        return self._owner[lane]

    def matrix(self, lane: Lane) -> Tensor:
        """Per line or column, the index of its matrix."""
        if lane not in self._matrix:
            of_tensor = torch.tensor(
                [s[1 if lane == Lane.LINE else 2] for s in self.stacks], device=self.device
            )
            counts = of_tensor[self.owner(Lane.MATRIX)]
            each = torch.arange(self.total[Lane.MATRIX], device=self.device)
            self._matrix[lane] = torch.repeat_interleave(each, counts, output_size=self.total[lane])
        return self._matrix[lane]

    def lift(self, x: Tensor, source: Lane, target: Lane) -> Tensor:
        """A tensor's or a matrix's number, for each of its rows, lines or columns."""
        if source == target or x.numel() == 1 or target not in VECTORS:
            return x
        return x[self.matrix(target) if source == Lane.MATRIX else self.owner(target)]

    def parts_of(self, x: Tensor, lane: Lane) -> tuple[Tensor, ...]:
        """A bucket's vector, cut into its tensors' parts."""
        return torch.split(x, self.count[lane])

    def on_elements(self, x: Tensor, lane: Lane, i: int) -> Tensor:
        """The numbers of tensor i out of the bucket's vector, one for each element."""
        mine = x[self.base[lane][i] :][: self.count[lane][i]]
        if lane != Lane.COLUMN:
            return mine.repeat_interleave(self.size[lane][i])
        matrices, _, columns = self.stacks[i]
        return mine.view(matrices, 1, columns).expand(self.stacks[i]).reshape(-1)

    def fold(self, x: Tensor, lane: Lane, op: str) -> Tensor:
        """Numbers per line or column, folded to one per matrix; matrices of one size together."""
        lengths = self.size[Lane.COLUMN if lane == Lane.LINE else Lane.LINE]
        parts = self.parts_of(x, lane)
        alike: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            alike.setdefault(length, []).append(i)
        found: dict[int, Tensor] = {}
        for length, members in alike.items():
            counts = [self.stacks[i][0] for i in members]
            every = torch.cat([parts[i] for i in members]).view(sum(counts), length)
            found |= zip(members, torch.split(tree_sum(every, op), counts), strict=True)
        return torch.cat([found[i] for i in range(len(parts))])


def exclusive_sums(counts: Sequence[int]) -> list[int]:
    """Where each part begins if parts of these sizes stand one after another."""
    sums, total = [], 0
    for n in counts:
        sums.append(total)
        total += n
    return sums
