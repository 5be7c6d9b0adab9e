"""Graphs: a traced update as a straight line of nodes, frozen, printable, and compared by their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

from thalweg.engine.ops import FOLDS, OPS, REDUCTIONS, MatrixCall


class Lane(IntEnum):
    """What a value has one of; a node has one of what all its operands are the same for (`join`).

    The last two dimensions of a tensor make its matrices, which have lines (along the last dimension) and
    columns (along the last but one). A dimension that is not there has size one.
    """

    HOST = 0
    """A number per (group, step count, first): known on the host before anything runs."""
    TENSOR = 1
    """A number per tensor, or one for all: known on the device once reductions below it are done."""
    ROW = 2
    """A number per row of a tensor (all dimensions but the first): what a sum over "row" leaves."""
    MATRIX = 3
    """A number per matrix."""
    LINE = 4
    """A number per line of a matrix: what a sum over -1 leaves."""
    COLUMN = 5
    """A number per column of a matrix: what a sum over -2 leaves."""
    ELEMENT = 6
    """A number per element: what kernels compute."""


VECTORS = (Lane.ROW, Lane.MATRIX, Lane.LINE, Lane.COLUMN)
"""Lanes of several numbers per tensor that are no elements: kernels read them, the scalar lane makes them."""
LEFT_BY: dict[Any, Lane] = {"row": Lane.ROW, -1: Lane.LINE, -2: Lane.COLUMN}
"""The lane of what a reduction over this leaves; over anything else it is one number per tensor."""


def join(lanes: Iterable[Lane]) -> Lane:
    """The lane of an operation on these: a line's and a column's number meet in an element."""
    found = set(lanes)
    vectors = found.intersection(VECTORS)
    if Lane.ELEMENT in found or not vectors:
        return max(found)
    if len(vectors) == 2 and Lane.ROW not in vectors:
        vectors.discard(Lane.MATRIX)
    return vectors.pop() if len(vectors) == 1 else Lane.ELEMENT


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation. Nodes of one builder are unique, so identity is equality.

    Args:
        op: A row of the vocabulary, or "input", "const", "sum", "max", "fold_sum", "fold_max", "matrix".
        args: Operands.
        attr: Of an input (kind, name); of a const its value; of a reduction or fold (over, tag); of a matrix
            function the call.
        lane: What there is one value of.
        level: How many reductions and matrix functions lie below it: pass `level` can compute it.
        boolean: Whether it is a truth value.
    """

    op: str
    args: tuple[Node, ...]
    attr: Any
    lane: Lane
    level: int
    boolean: bool

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number per tensor: what may steer a branch."""
        return self.lane <= Lane.TENSOR

    def __repr__(self) -> str:
        if self.op == "const":
            return repr(self.attr)
        if self.op == "input":
            kind, name = self.attr
            along = f"[{self.lane.name.lower()}]" if self.lane in VECTORS else ""
            return f"{kind}.{name}{along}" if name else str(kind)
        return f"{self.op}({', '.join(repr(a) if not a.args else a.op for a in self.args)})"


class Builder:
    """Makes nodes, each distinct one once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Node] = {}

    def input(
        self, kind: str, name: str, lane: Lane, *, boolean: bool = False, level: int = 0
    ) -> Node:
        """A value that comes from outside, from the given level on."""
        return self._node("input", (), (kind, name), lane, level, boolean)

    def const(self, value: float | bool) -> Node:
        """A number that the rule wrote down."""
        if not isinstance(value, bool):
            value = float(value)
        return self._node("const", (), value, Lane.HOST, 0, isinstance(value, bool))

    def make(self, op: str, *args: Node) -> Node:
        """An operation of the vocabulary."""
        lane = join(a.lane for a in args)
        level = max(a.level for a in args)
        boolean = OPS[op].boolean or (op in ("where", "select") and args[1].boolean)
        return self._node(op, args, None, lane, level, boolean)

    def reduce(self, op: str, arg: Node, over: str | int, tag: str) -> Node:
        """A reduction of elements: a value of a lower lane, one level up."""
        lane = LEFT_BY.get(over, Lane.TENSOR)
        return self._node(op, (arg,), (over, tag), lane, arg.level + 1, False)

    def matrix(self, arg: Node, call: MatrixCall) -> Node:
        """A function of whole matrices: a value per element, one level up."""
        return self._node("matrix", (arg,), call, Lane.ELEMENT, arg.level + 1, False)

    def fold(self, op: str, arg: Node, over: int) -> Node:
        """A reduction of a number per line or column to one per matrix; no pass is needed for it."""
        return self._node(op, (arg,), (over, ""), Lane.MATRIX, arg.level, False)

    def _node(
        self, op: str, args: tuple[Node, ...], attr: Any, lane: Lane, level: int, boolean: bool
    ) -> Node:
        key = (op, tuple(map(id, args)), attr.__class__, repr(attr), lane)
        node = self._known.get(key)
        if node is None:
            node = self._known[key] = Node(op, args, attr, lane, level, boolean)
        return node


def topological(roots: Iterable[Node], *, reductions_are_leaves: bool = False) -> tuple[Node, ...]:
    """Every node below the roots, operands first; iterative, so that long rules do not overflow.

    Args:
        roots: Where to begin.
        reductions_are_leaves: Whether a reduction is a value that is there already.
    """
    order: list[Node] = []
    done: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(tuple(roots))]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready or (reductions_are_leaves and node.op in REDUCTIONS):
            done.add(id(node))
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))
    return tuple(order)


def down_to(roots: Iterable[Node], is_known: Callable[[Node], bool]) -> tuple[Node, ...]:
    """The roots and what lies below them down to what is known, operands first; reductions are values.

    Args:
        roots: Where to begin.
        is_known: Whether a node is a value that is there already: it is among the found, and what lies below
            it is not asked for.
    """
    roots = tuple(roots)
    needed: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) not in needed:
            needed.add(id(node))
            if node.op not in REDUCTIONS and not is_known(node):
                stack.extend(node.args)
    return tuple(n for n in topological(roots, reductions_are_leaves=True) if id(n) in needed)


@dataclass(frozen=True, slots=True)
class MatrixStage:
    """A function of whole matrices between two passes.

    Args:
        stream: Where an earlier pass leaves its argument, and a later one finds its result.
        source: Its argument.
        call: The function.
    """

    stream: str
    source: Node
    call: MatrixCall


@dataclass(frozen=True, eq=False)
class Graph:
    """The outputs of an update by name: "param", slots and scalars as they are stored.

    Args:
        outputs: What is written.
        streams: Which of the outputs have a number per element ("param" and slots).
        vectors: The lane of those that have one per line or column (slots again); all others are scalars.
        matrices: Functions of whole matrices, the earlier ones first.
    """

    outputs: Mapping[str, Node]
    streams: tuple[str, ...]
    vectors: Mapping[str, Lane] = field(default_factory=dict)
    matrices: tuple[MatrixStage, ...] = ()

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, operands first."""
        return topological((*(m.source for m in self.matrices), *self.outputs.values()))

    @cached_property
    def kept(self) -> Mapping[str, Node]:
        """Outputs with a number per line or column, but those that stay what they were."""
        found = {name: self.outputs[name] for name in self.vectors}
        return {name: n for name, n in found.items() if n.attr != ("slot", name)}

    @cached_property
    def text(self) -> str:
        """One line per node; two graphs are the same if their texts are."""
        names = {id(n): f"%{i}" for i, n in enumerate(self.nodes)}

        def operand(n: Node) -> str:
            return repr(n) if n.op in ("const", "input") else names[id(n)]

        lines = []
        for n in self.nodes:
            if n.op in ("const", "input"):
                continue
            attr = f" over {n.attr[0]}" if n.op in REDUCTIONS or n.op in FOLDS.values() else ""
            lines.append(
                f"{names[id(n)]} = {n.op}({', '.join(map(operand, n.args))}){attr}"
                f"  # {n.lane.name.lower()}{f', pass {n.level}' if n.level else ''}"
            )
        lines += [f"{m.stream} <- {m.call!r} of {operand(m.source)}" for m in self.matrices]
        lines += [f"{name} <- {operand(n)}" for name, n in self.outputs.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.text == other.text


def rewrite(
    outputs: Mapping[str, Node],
    visit: Callable[[Node, tuple[Node, ...]], Node],
    *,
    reductions_are_leaves: bool = False,
) -> dict[str, Node]:
    """Rebuild bottom up: `visit` gets each node with its rebuilt operands and returns what replaces it.

    Args:
        outputs: What to rebuild.
        visit: Makes the new node.
        reductions_are_leaves: Whether reductions stay the very nodes they are, whatever lies below them.
    """
    new: dict[int, Node] = {}
    for node in topological(outputs.values(), reductions_are_leaves=reductions_are_leaves):
        if reductions_are_leaves and node.op in REDUCTIONS:
            new[id(node)] = node
        else:
            new[id(node)] = visit(node, tuple(new[id(a)] for a in node.args))
    return {name: new[id(node)] for name, node in outputs.items()}
