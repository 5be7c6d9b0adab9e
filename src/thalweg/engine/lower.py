"""Lowering: what is equal in exact arithmetic is brought into one form, and every backend computes that form.

Lowering is part of an update's meaning (eager runs the lowered graph too): division by a scalar becomes
multiplication by its inverse, scalar factors gather in the scalar lane (float64), and constants fold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from thalweg.engine.graph import Builder, Graph, Lane, MatrixStage, Node, join, rewrite
from thalweg.engine.ops import FOLDS, OPS, REDUCTIONS


def _is(node: Node, value: float) -> bool:
    return (
        node.op == "const"
        and not node.boolean
        and node.attr == value
        and math.copysign(1.0, node.attr) > 0
    )


class Folder(Builder):
    """A builder that simplifies as it makes."""

    def make(self, op: str, *args: Node) -> Node:
        if all(a.op == "const" for a in args):
            return self.const(OPS[op].scalar(*(a.attr for a in args)))
        fold = getattr(self, f"_{op}", None)
        found = fold(*args) if fold is not None else None
        return found if found is not None else super().make(op, *args)

    def _mul(self, a: Node, b: Node) -> Node | None:
        if _is(b, 1.0):
            return a
        if _is(a, 1.0):
            return b
        if a.is_scalar and not b.is_scalar:
            a, b = b, a  # the scalar stands second
        if not b.is_scalar or a.is_scalar:
            return None
        return self._scaled(a, b)

    def _scaled(self, x: Node, s: Node) -> Node:
        """X times the scalar s, scalar factors gathered: (y*r)*s = y*(r*s), (y*r/z)*s = y*(r*s)/z."""
        if x.op == "mul" and x.args[1].is_scalar:
            return self.make("mul", x.args[0], self.make("mul", x.args[1], s))
        if x.op == "div" and x.args[0].op == "mul" and x.args[0].args[1].is_scalar:
            return self.make("div", self.make("mul", x.args[0], s), x.args[1])
        return Builder.make(self, "mul", x, s)

    def _div(self, a: Node, b: Node) -> Node | None:
        if _is(b, 1.0):
            return a
        if b.is_scalar and not a.is_scalar:
            return self.make("mul", a, self.make("div", self.const(1.0), b))
        return None

    def _where(self, condition: Node, a: Node, b: Node) -> Node | None:
        if a is b:
            return a
        if condition.op == "const":
            return a if condition.attr else b
        if condition.op == "not":
            return self.make("where", condition.args[0], b, a)
        return None

    def _select(self, condition: Node, a: Node, b: Node) -> Node | None:
        if a is b:
            return a
        if condition.op == "const":
            return a if condition.attr else b
        return None


def _rebuild(
    builder: Builder, node: Node, args: tuple[Node, ...], matrices: list[MatrixStage]
) -> Node:
    if (
        node.op == "matrix"
    ):  # what a pass leaves in memory and the next one loads, as if it were a slot
        stage = MatrixStage(f"matrix_{len(matrices)}", args[0], node.attr)
        matrices.append(stage)
        return builder.input("slot", stage.stream, Lane.ELEMENT, level=args[0].level + 1)
    if node.op == "input":
        kind, name = node.attr
        return builder.input(kind, name, node.lane, boolean=node.boolean)
    if node.op == "const":
        return builder.const(node.attr)
    if node.op in REDUCTIONS:
        return builder.reduce(node.op, args[0], *node.attr)
    if node.op in FOLDS.values():
        return builder.fold(node.op, args[0], node.attr[0])
    return builder.make(node.op, *args)


def lower(graph: Graph) -> Graph:
    """The form that backends compute; unused nodes are gone, as only outputs hold nodes."""
    folder = Folder()
    matrices: list[MatrixStage] = []
    outputs = rewrite(graph.outputs, lambda node, args: _rebuild(folder, node, args, matrices))
    return Graph(outputs, graph.streams, graph.vectors, tuple(matrices))


def specialise(outputs: Mapping[str, Node], assumed: Mapping[Node, bool]) -> dict[str, Node]:
    """The outputs as they are where these scalar conditions have these values.

    Everything else stays the very node it was: only branches on the conditions are decided, and
    reductions are values that an earlier pass has left.
    """
    builder = _Reuse()

    def visit(node: Node, args: tuple[Node, ...]) -> Node:
        if node.op == "where" and node.lane == Lane.ELEMENT and node.args[0] in assumed:
            return args[1] if assumed[node.args[0]] else args[2]
        return builder.rebuilt(node, args)

    return rewrite(outputs, visit, reductions_are_leaves=True)


class _Reuse:
    """Rebuilds a node only where an operand changed, so that untouched scalars keep their columns."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Node] = {}

    def rebuilt(self, node: Node, args: tuple[Node, ...]) -> Node:
        if all(a is b for a, b in zip(node.args, args, strict=True)):
            return node
        key = (id(node), *map(id, args))
        if key not in self.known:
            lane = join(a.lane for a in args)
            self.known[key] = Node(node.op, args, node.attr, lane, node.level, node.boolean)
        return self.known[key]
