"""The scalar lane: what depends on no element, in IEEE float64, one interpreter for all backends.

Host scalars (hyper-parameters, step counts, what follows from them) are Python floats, computed once per
row of a table: a row per distinct (group, step count, first). Scalars that depend on a reduction, or on a
tensor that only the device holds, are float64 tensors with an entry per tensor; so are numbers per row,
matrix, line or column, slots that hold such numbers among them. Nothing synchronises.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

from torch import Tensor

from thalweg.engine.extents import Extents
from thalweg.engine.graph import Lane, Node, down_to, topological
from thalweg.engine.ops import FOLDS, OPS

_FOLDED = {fold: op for op, fold in FOLDS.items()}


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
    """Evaluates nodes between the host's and the elements' lane as float64 vectors.

    Args:
        wanted: The nodes.
    """

    def __init__(self, wanted: Sequence[Node]) -> None:
        self.wanted = tuple(wanted)
        self._order = down_to(self.wanted, lambda n: n.lane == Lane.HOST)
        self.host = tuple(n for n in self._order if n.lane == Lane.HOST)
        self.inputs = tuple(n for n in self._order if n.op == "input" and n.lane != Lane.HOST)

    def __call__(
        self, values: MutableMapping[Node, Tensor], extents: Extents
    ) -> dict[Node, Tensor]:
        """Compute the wanted nodes.

        Args:
            values: Host nodes (0-dim or one entry per tensor), inputs, and reductions; what is computed on
                the way is added, since nothing that it depends on changes within a step.
            extents: How a tensor's number reaches its rows, lines, columns.
        """
        for node in self._order:
            if node in values:
                continue
            if node.op in _FOLDED:
                (arg,) = node.args
                values[node] = extents.fold(_wide(values[arg]), arg.lane, _FOLDED[node.op])
            else:
                args = [extents.lift(values[a], a.lane, node.lane) for a in node.args]
                like = args[1:] if node.op == "stored" else []  # asked for its dtype alone
                wide = map(_wide, args[: len(args) - len(like)])
                values[node] = _vector_op(node.op, [*wide, *like])
        return {n: _wide(values[n]) for n in self.wanted}


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
