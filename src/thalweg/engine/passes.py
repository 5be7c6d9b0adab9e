"""Passes: a graph split at its reductions into programs over elements, one sweep of memory each.

Pass k computes the elements that have k reductions below them. Every pass but the last writes nothing
except partial sums, and what functions of whole matrices work on; parameters, slots and scalars are
written in the last one, recomputed from old values. Reductions over rows, lines and columns sweep in
their own way, so at one level each is a program of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Union

from thalweg.engine.graph import LEFT_BY, VECTORS, Graph, Lane, MatrixStage, Node, topological
from thalweg.engine.lower import specialise
from thalweg.engine.ops import REDUCTIONS

MOST_BODIES = 16
"""Beyond so many leaves a branch stays a select: text grows by the leaf, time does not shrink further."""


@dataclass(frozen=True, eq=False)
class Body:
    """Straight-line work on elements, once every branch is decided.

    Args:
        nodes: Element operations, operands first.
        loads: Names of the streams it reads: "param", "grad", slots.
        stores: What it writes, by stream; an output equal to its own input is not there.
        reduced: The elements that each reduction of the program adds up.
    """

    nodes: tuple[Node, ...]
    loads: tuple[str, ...]
    stores: Mapping[str, Node]
    reduced: tuple[Node, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.stores and not self.reduced


@dataclass(frozen=True, eq=False)
class Branch:
    """A decision on a scalar, the same for a whole tensor."""

    condition: Node
    yes: Tree
    no: Tree


Tree = Union[Branch, Body]  # noqa: UP007 - a string's forward reference has no |


def bodies(tree: Tree) -> Iterator[Body]:
    """The leaves."""
    if isinstance(tree, Branch):
        yield from bodies(tree.yes)
        yield from bodies(tree.no)
    else:
        yield tree


def conditions(tree: Tree) -> Iterator[Node]:
    """What the tree decides on."""
    if isinstance(tree, Branch):
        yield tree.condition
        yield from conditions(tree.yes)
        yield from conditions(tree.no)


@dataclass(frozen=True, eq=False)
class Program:
    """One sweep over the elements of a bucket.

    Args:
        tree: What to do, under which scalar conditions.
        reductions: The reduction nodes whose partial sums it makes, in the order of `Body.reduced`.
        sweep: How it goes: by LINE or ROW, one after another, by COLUMN, or through all elements (ELEMENT).
        is_last: Whether it writes parameters and slots.
        matrices: What is to be done to whole matrices after it.
    """

    tree: Tree
    reductions: tuple[Node, ...]
    sweep: Lane
    is_last: bool
    matrices: tuple[MatrixStage, ...] = ()

    @property
    def by_row(self) -> bool:
        """Whether each row, or line, is a stretch that is reduced by itself."""
        return self.sweep in (Lane.ROW, Lane.LINE)

    @cached_property
    def loads(self) -> tuple[str, ...]:
        """Streams that some body reads."""
        return _unique(name for body in bodies(self.tree) for name in body.loads)

    @cached_property
    def stores(self) -> tuple[str, ...]:
        """Streams that some body writes."""
        return _unique(name for body in bodies(self.tree) for name in body.stores)

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """Streams that it touches."""
        return _unique((*self.loads, *self.stores))

    @cached_property
    def columns(self) -> tuple[Node, ...]:
        """Scalars that it needs, one number per tensor: conditions, and operands of elements."""
        return _unique((*conditions(self.tree), *(n for n in self._outside() if n.is_scalar)))

    @cached_property
    def vectors(self) -> tuple[Node, ...]:
        """Numbers that it needs per row, matrix, line or column."""
        return _unique(n for n in self._outside() if n.lane in VECTORS)

    def along(self, lane: Lane) -> tuple[Node, ...]:
        """Those of a lane."""
        return tuple(n for n in self.vectors if n.lane == lane)

    @property
    def lanes(self) -> frozenset[Lane]:
        """By what, smaller than tensors, it goes or reads numbers."""
        return frozenset((self.sweep, *(n.lane for n in self.vectors))) - {Lane.ELEMENT}

    def _outside(self) -> Iterator[Node]:
        for body in bodies(self.tree):
            used = (a for n in body.nodes for a in n.args)
            yield from (
                n
                for n in (*used, *body.stores.values(), *body.reduced)
                if n.lane != Lane.ELEMENT and n.op != "const"
            )


def _unique(items: Iterator[str] | Sequence[str] | Iterator[Node] | Sequence[Node]) -> tuple:  # type: ignore[type-arg]
    return tuple(dict.fromkeys(items))


def split(graph: Graph) -> tuple[Program, ...]:
    """The programs of a lowered graph, in the order in which they run.

    Only the last one stores the outputs. A reduction that nothing but a scalar output needs is made in it
    too.
    """
    elements = {name: graph.outputs[name] for name in graph.streams}
    reductions = [n for n in graph.nodes if n.op in REDUCTIONS]
    last = max([n.level for n in elements.values()] + [r.args[0].level for r in reductions])
    programs = []
    for level in range(last + 1):
        here = [r for r in reductions if r.args[0].level == level]
        for sweep in (Lane.ROW, Lane.LINE, Lane.COLUMN):
            found = tuple(r for r in here if r.lane == sweep)
            if found:
                programs.append(_program({}, found, sweep, is_last=False))
        flat = tuple(r for r in here if r.lane not in LEFT_BY.values())
        if level == last:
            programs.append(_program(elements, flat, Lane.ELEMENT, is_last=True))
        else:
            matrices = tuple(m for m in graph.matrices if m.source.level == level)
            kept = {m.stream: m.source for m in matrices}
            if flat or kept:
                programs.append(
                    _program(kept, flat, Lane.ELEMENT, is_last=False, matrices=matrices)
                )
    return tuple(programs)


def _program(
    stores: Mapping[str, Node],
    reductions: tuple[Node, ...],
    sweep: Lane,
    *,
    is_last: bool,
    matrices: tuple[MatrixStage, ...] = (),
) -> Program:
    roots = dict(stores) | {f"{i}": r.args[0] for i, r in enumerate(reductions)}
    return Program(_grow(roots, len(reductions), [1]), reductions, sweep, is_last, matrices)


def _grow(roots: Mapping[str, Node], reduced: int, leaves: list[int]) -> Tree:
    """Decide the outermost branch first: what it rules out need not be decided."""
    condition = next((c for c in _branches(roots) if leaves[0] < MOST_BODIES), None)
    if condition is None:
        return _body(roots, reduced)
    leaves[0] += 1
    yes, no = (
        _grow(specialise(roots, {condition: taken}), reduced, leaves) for taken in (True, False)
    )
    return Branch(condition, yes, no)


def _branches(roots: Mapping[str, Node]) -> Iterator[Node]:
    for node in reversed(topological(roots.values(), reductions_are_leaves=True)):
        if node.op == "where" and node.lane == Lane.ELEMENT and node.args[0].is_scalar:
            yield node.args[0]


def _body(roots: Mapping[str, Node], reduced: int) -> Body:
    sums = tuple(roots[f"{i}"] for i in range(reduced))
    stores = {
        n: node
        for n, node in roots.items()
        if not n.isdigit() and not (node.op == "input" and _stream(node) == n)
    }
    nodes = [
        n
        for n in topological((*stores.values(), *sums), reductions_are_leaves=True)
        if n.lane == Lane.ELEMENT
    ]
    loads = _unique(_stream(n) for n in nodes if n.op == "input")
    return Body(tuple(n for n in nodes if n.op != "input"), loads, stores, sums)


def _stream(node: Node) -> str:
    kind, name = node.attr
    return str(name or kind)
