"""The scalar lane: what depends on no element, in IEEE float64, one interpreter for all backends.

Host scalars (hyper-parameters, step counts, what follows from them) are Python floats, computed once per
row of a table: a row per distinct (group, step count, first). Scalars that depend on a reduction, or on a
tensor that only the device holds, are float64 tensors with an entry per tensor or per row of a tensor;
nothing synchronises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from thalweg.engine.graph import Lane, Node, topological
from thalweg.engine.ops import OPS, REDUCTIONS

SUM_BLOCK = 4096
"""Elements that one partial sum covers, in every backend that promises the same bits."""
LANES = 16
"""Accumulators of a partial sum."""


class HostScalars:
    """Evaluates host nodes; `inputs` are the (kind, name) pairs that it asks for."""

    def __init__(self, wanted: Sequence[Node]) -> None:
        self.wanted = tuple(wanted)
        order = [n for n in topological(self.wanted) if n.lane == Lane.HOST]
        place = {id(n): i for i, n in enumerate(order)}
        self._constants = [float(n.attr) if n.op == "const" else 0.0 for n in order]
        self._inputs = [(place[id(n)], n.attr) for n in order if n.op == "input"]
        self._steps: list[tuple[int, Callable[..., float], tuple[int, ...]]] = [
            (place[id(n)], OPS[n.op].scalar, tuple(place[id(a)] for a in n.args))
            for n in order
            if n.op not in ("input", "const")
        ]
        self._out = [place[id(n)] for n in self.wanted]

    def __call__(self, read: Callable[[tuple[str, str]], float]) -> list[float]:
        """The wanted values of one row."""
        values = self._constants.copy()
        for i, source in self._inputs:
            values[i] = read(source)
        for i, function, args in self._steps:
            values[i] = function(*[values[a] for a in args])
        return [values[i] for i in self._out]


class DeviceScalars:
    """Evaluates nodes of the tensor and row lanes as float64 vectors.

    Args:
        wanted: The nodes.
    """

    def __init__(self, wanted: Sequence[Node]) -> None:
        self.wanted = tuple(wanted)
        # A reduction is a value that is there already: what lies below it is not asked for again.
        self._order = _above_reductions(self.wanted)
        self.host = tuple(n for n in self._order if n.lane == Lane.HOST)
        self.inputs = tuple(n for n in self._order if n.op == "input" and n.lane != Lane.HOST)

    def __call__(
        self, known: Mapping[Node, Tensor], row_tensor: Callable[[], Tensor]
    ) -> dict[Node, Tensor]:
        """Compute the wanted nodes.

        Args:
            known: Host nodes (0-dim or one entry per tensor), inputs, and reductions.
            row_tensor: Gives, per row, the index of its tensor: how a tensor's number reaches its rows.
        """
        values = dict(known)
        for node in self._order:
            if node in values:
                continue
            args = [self._in_lane(values[a], a, node, row_tensor) for a in node.args]
            like = args[1:] if node.op == "stored" else []  # asked for its dtype alone
            values[node] = _vector_op(node.op, [*map(_wide, args[: len(args) - len(like)]), *like])
        return {n: _wide(values[n]) for n in self.wanted}

    @staticmethod
    def _in_lane(x: Tensor, arg: Node, node: Node, row_tensor: Callable[[], Tensor]) -> Tensor:
        if node.lane == Lane.ROW and arg.lane != Lane.ROW and x.numel() > 1:
            return x[row_tensor()]
        return x


def _above_reductions(wanted: Iterable[Node]) -> list[Node]:
    """What must be computed or known on the way to the wanted nodes; host nodes come ready."""
    needed: dict[int, Node] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if id(node) not in needed:
            needed[id(node)] = node
            if node.op not in REDUCTIONS and node.lane != Lane.HOST:
                stack.extend(node.args)
    return [n for n in topological(wanted, reductions_are_leaves=True) if id(n) in needed]


def _wide(x: Tensor) -> Tensor:
    """The vector in float64: the state's numbers come in as they are stored."""
    return x.double() if x.is_floating_point() else x


def _vector_op(op: str, args: list[Tensor]) -> Tensor:
    row = OPS[op]
    if op in ("where", "select"):
        args = [args[0].bool(), *args[1:]]
    elif op in ("and", "or", "not"):
        args = [a.bool() for a in args]
    return row.eager(*args)


def tree_sum(x: Tensor, op: str = "sum") -> Tensor:
    """Fold the last dimension as a binary tree of neighbours: the order over blocks and over tensors."""
    fill = 0.0 if op == "sum" else float("-inf")
    if not x.shape[-1]:
        return x.new_full(x.shape[:-1], fill)
    leaves = 1 << (x.shape[-1] - 1).bit_length()
    x = torch.nn.functional.pad(x, (0, leaves - x.shape[-1]), value=fill)
    while x.shape[-1] > 1:
        a, b = x[..., 0::2], x[..., 1::2]
        x = a + b if op == "sum" else OPS["maximum"].eager(a, b)
    return x[..., 0]
