"""The order of sums: one, whatever the backend and the number of threads, so that sums are equal to the bit.

Elements in a stretch (a tensor, a row, a line): blocks of 4096, in each 16 float64 lanes in turn, folded by
halves; then the blocks as a binary tree of neighbours. Columns: blocks of 64 lines, in each the lines one
after another; then the blocks as that tree. What the scalar lane folds (numbers per line or column to one
per matrix), and what stands for whole tensors: that tree alone. The same for maxima.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.engine.ops import OPS

SUM_BLOCK = 4096
"""Elements that one partial sum covers, in every backend that promises the same bits."""
LANES = 16
"""Accumulators of a partial sum."""
COLUMN_BLOCK = 64
"""Lines that one partial sum of a column covers."""


def _start(op: str) -> float:
    return 0.0 if op == "sum" else float("-inf")


def _join(op: str) -> Callable[..., Tensor]:
    return torch.add if op == "sum" else OPS["maximum"].eager


def tree_sum(x: Tensor, op: str = "sum") -> Tensor:
    """Fold the last dimension as a binary tree of neighbours."""
    if not x.shape[-1]:
        return x.new_full(x.shape[:-1], _start(op))
    leaves, join = 1 << (x.shape[-1] - 1).bit_length(), _join(op)
    x = torch.nn.functional.pad(x, (0, leaves - x.shape[-1]), value=_start(op))
    while x.shape[-1] > 1:
        x = join(x[..., 0::2], x[..., 1::2])
    return x[..., 0]


def block_sums(x: Tensor, op: str = "sum") -> Tensor:
    """Fold the last dimension in float64: blocks of 4096, 16 lanes, halves, neighbours."""
    fill, join = _start(op), _join(op)
    n = x.shape[-1]
    if n == 0:
        return x.new_full(x.shape[:-1], fill, dtype=torch.float64)
    whole = SUM_BLOCK if n > SUM_BLOCK else LANES
    x = torch.nn.functional.pad(x.double(), (0, -n % whole), value=fill)
    blocks = -(-n // SUM_BLOCK)
    x = x.reshape(*x.shape[:-1], blocks, x.shape[-1] // (blocks * LANES), LANES)
    total = torch.full_like(x[..., 0, :], fill)
    for i in range(x.shape[-2]):
        total = join(total, x[..., i, :])
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = join(total[..., :half], total[..., half:])
    return tree_sum(total[..., 0], op)


def column_sums(x: Tensor, op: str = "sum") -> Tensor:
    """Fold the last but one dimension in float64: blocks of 64 lines one after another, neighbours."""
    fill, join = _start(op), _join(op)
    n = x.shape[-2]
    blocks = -(-n // COLUMN_BLOCK)
    each = min(n, COLUMN_BLOCK)
    x = torch.nn.functional.pad(x.double(), (0, 0, 0, blocks * each - n), value=fill)
    x = x.reshape(*x.shape[:-2], blocks, each, x.shape[-1])
    total = x.new_full((*x.shape[:-2], x.shape[-1]), fill)
    for i in range(each):
        total = join(total, x[..., i, :])
    return tree_sum(total.transpose(-1, -2), op)
