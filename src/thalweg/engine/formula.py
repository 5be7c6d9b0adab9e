"""Formulas: a traced update as lines that a person reads, from the same graph that kernels are made of.

The graph is printed as it was traced, before lowering: `exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)`.
Lines stand in an order in which each can be read like a program: a name means what the last line above
gave it, and before that the value from before the step.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from string import ascii_lowercase
from types import FrameType
from typing import Any

from thalweg.engine.graph import Builder, Graph, Node, topological
from thalweg.engine.ops import REDUCTIONS
from thalweg.engine.option import OptionSpec
from thalweg.engine.rule import Rule
from thalweg.engine.trace import FRESH, Setting, Value, hyper_key, trace

OWN_LINE = 40
"""A value that its author named stands in a line of its own if it is longer than this, or used twice."""
WORTH_A_NAME = 24
"""A value that nobody named gets a letter if it is used twice and longer than this."""

_INFIX = {
    "or": ("or", 1), "and": ("and", 2), "lt": ("<", 4), "le": ("<=", 4), "gt": (">", 4), "ge": (">=", 4),
    "eq": ("==", 4), "ne": ("!=", 4), "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "div": ("/", 6),
    "mod": ("%", 6), "pow": ("^", 8),
}  # fmt: skip
_REGROUPS = {"or": ("or",), "and": ("and",), "add": ("add", "sub"), "mul": ("mul", "div")}
_CALL = 9
_FOLD = "fold_"
"""Before the name of a reduction whose operand is a reduction's result."""
_ROUND = "stored"
"""Rounds a number to what the state keeps of it: nothing that a formula says."""
_COUNTED = ("step", FRESH)
"""Outputs that say nothing: the step count, and what a gate keeps beside it."""


@dataclass(frozen=True)
class View:
    """How a node is written: a template, how tightly it binds, and its operands with what they need."""

    template: str
    binds: int
    operands: tuple[tuple[Node, int], ...] = ()


@dataclass(eq=False)
class Statement:
    """One line: a name and the value that it gets.

    Args:
        target: The name.
        node: The value.
        text: What stands behind the equals sign.
        uses: The named values and the inputs in the text.
        inputs: The names of those that are inputs.
        defines: Whether later lines call the value by this name.
        last: Whether it is what is stored under this name, so that no later line may give it another.
    """

    target: str
    node: Node
    text: str
    uses: frozenset[Node]
    inputs: frozenset[str]
    defines: bool
    last: bool


def formula(rule: Rule, specs: tuple[OptionSpec, ...], setting: Setting) -> str:
    """A rule with its options as text, one assignment a line.

    Args:
        rule: The rule.
        specs: Its options.
        setting: The value of every switch.
    """
    functions = [rule.function, *(stage.function for spec in specs for stage in spec.stages)]
    with _names_of_locals(functions) as given:
        graph = trace(rule, specs, setting)
    return Formula(graph, given, _hyper_names(rule, specs)).text()


def _hyper_names(rule: Rule, specs: tuple[OptionSpec, ...]) -> dict[str, str]:
    """What each of a group's numbers is called: its own name, with the option's where two share it."""
    owners = [("", rule), *((spec.name, spec) for spec in specs)]
    keys = {(h.name, hyper_key(h, label)) for label, owner in owners for h in owner.hypers}
    often = Counter(name for name, _ in keys)  # one that several read is still one
    return {
        hyper_key(h, label): h.name if often[h.name] == 1 else f"{label}_{h.name}".lstrip("_")
        for label, owner in owners
        for h in owner.hypers
    }


@contextmanager
def _names_of_locals(functions: Iterable[Callable[..., Any]]) -> Iterator[dict[Node, str]]:
    """Collect what the functions call the values they compute, as they return.

    A rule's author has named its parts (`mean`, `variance`): better than any name made up for them.
    """
    codes = {f.__code__ for f in functions}
    found: dict[Node, str] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code in codes:
            for name, value in frame.f_locals.items():
                if isinstance(value, Value):
                    found.setdefault(value.node, name)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)


@dataclass(eq=False)
class Formula:
    """The printer of one graph.

    Args:
        graph: As traced.
        given: Names that the authors of the rule and the options gave to values.
        hypers: Names of the group's numbers by their key.
    """

    graph: Graph
    given: Mapping[Node, str]
    hypers: Mapping[str, str]
    views: dict[Node, View] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    texts: dict[Node, str] = field(default_factory=dict)
    builder: Builder = field(default_factory=Builder)

    def text(self) -> str:
        """All lines, in an order in which they can be read."""
        outputs = {
            "p" if name == "param" else name: node
            for name, node in self.graph.outputs.items()
            if name not in _COUNTED
        }
        changed = {name: node for name, node in outputs.items() if self._input(node) != name}
        early_first = sorted(changed.values(), key=lambda node: len(topological([node])))
        visible = self._visible(early_first)
        kept: dict[Node, str] = {}
        while True:
            lines, stuck = _ordered(self._statements(visible, changed, kept))
            if stuck is None:
                return "\n".join(f"{s.target} = {s.text}" for s in lines)
            kept[stuck.node] = f"new_{stuck.target}"

    def _visible(self, roots: Iterable[Node]) -> list[Node]:
        """The nodes that appear in the text, operands first: those inside a recognised form do not."""
        order: list[Node] = []
        stack = [(root, False) for root in reversed(list(roots))]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
            elif node not in self.views:
                self.views[node] = self._view(node)
                stack.append((node, True))
                stack.extend((a, False) for a, _ in reversed(self.views[node].operands))
        return order

    def _statements(
        self, visible: list[Node], outputs: Mapping[str, Node], kept: Mapping[Node, str]
    ) -> list[Statement]:
        """Decide which values get a line, operands first, and write them."""
        used = Counter(a for node in visible for a, _ in self.views[node].operands)
        stored = {node: name for name, node in reversed(list(outputs.items()))} | dict(kept)
        letters = iter(sorted(set(ascii_lowercase) - set(self.given.values()) - set("gpt")))
        self.names.clear()
        found = []
        for node in visible:
            self.texts[node] = text = self._written(node)
            if _is_leaf(node) and node not in kept:
                continue
            name, named, shared = stored.get(node), self.given.get(node), used[node] > 1
            if name is None and named is not None and (shared or len(text) > OWN_LINE):
                name = named
            elif name is None and named is None and shared and len(text) > WORTH_A_NAME:
                name = next(letters)
            if name is not None:
                uses, last = self._used(node), outputs.get(name) is node
                found.append(Statement(name, node, text, uses, self._inputs(uses), True, last))
                self.names[node] = name
        for name, node in outputs.items():  # a second name for a value, or an input kept as it is
            if self.names.get(node) != name:
                text, uses = self.names.get(node, self.texts[node]), frozenset({node})
                found.append(Statement(name, node, text, uses, self._inputs(uses), False, True))
        return found

    def _inputs(self, uses: Iterable[Node]) -> frozenset[str]:
        return frozenset(
            str(self._input(n)) for n in uses if n.op == "input" and n not in self.names
        )

    def _used(self, node: Node) -> frozenset[Node]:
        """The named values and the inputs in a node's text."""
        found: set[Node] = {node} if _is_leaf(node) else set()
        stack = [a for a, _ in self.views[node].operands]
        while stack:
            x = stack.pop()
            if x in self.names or _is_leaf(x):
                found.add(x)
            else:
                stack.extend(a for a, _ in self.views[x].operands)
        return frozenset(found)

    def _written(self, node: Node) -> str:
        view = self.views[node]
        parts = []
        for a, needed in view.operands:
            if a in self.names:
                parts.append(self.names[a])
            else:
                loose = self.views[a].binds < needed
                parts.append(f"({self.texts[a]})" if loose else self.texts[a])
        return view.template.format(*parts)

    def _input(self, node: Node) -> str | None:
        """What an outside value is called."""
        if node.op != "input":
            return None
        kind, name = node.attr
        if kind == "count":
            return "count" if name == "tensor" else f"count({name})"
        return {"param": "p", "grad": "g"}.get(kind) or self.hypers.get(name) or name or str(kind)

    def _view(self, node: Node) -> View:
        if node.op == "input":
            return View(str(self._input(node)), _CALL)
        if node.op == "const":
            return View(_number(node.attr), _CALL if node.boolean or node.attr >= 0 else 5)
        form = self._lerp(node) or _norm(node) or _mean(node) or _clamp(node)
        return form or _plain(node)

    def _lerp(self, node: Node) -> View | None:
        """`lerp(a, b, w)` is traced from the nearer end; what it means is a + w * (b - a)."""
        if node.op != "add" or node.args[0].op != "select" or node.args[1].op != "mul":
            return None
        near, a, b = node.args[0].args
        share, difference = node.args[1].args
        if difference.op != "sub" or difference.args != (b, a):
            return None
        if share.op == "select" and share.args[0] is near:
            weight = share.args[1]
        elif share.op == "const" and near.op == "const":
            weight = share if near.attr else self.builder.const(share.attr + 1.0)
        else:
            return None
        return View("{0} + {1} * ({2} - {3})", 5, ((a, 5), (weight, 6), (b, 5), (a, 6)))


def _is_leaf(node: Node) -> bool:
    return node.op in ("input", "const")


def _number(value: float | bool) -> str:
    return str(value) if isinstance(value, bool) else f"{value:.12g}"


def _is_one(node: Node) -> bool:
    return node.op == "const" and not node.boolean and node.attr == 1.0


def _squared(node: Node) -> Node | None:
    return node.args[0] if node.op == "mul" and node.args[0] is node.args[1] else None


def _over(node: Node) -> str:
    """What a reduction runs over, as its last argument."""
    if node.op.removeprefix(_FOLD) not in REDUCTIONS or node.attr[0] == "tensor":
        return ""
    return f", {node.attr[0]}"


def _norm(node: Node) -> View | None:
    """The root of a sum of squares."""
    if node.op != "sqrt" or node.args[0].op != "sum":
        return None
    x = _squared(node.args[0].args[0])
    return View(f"norm({{0}}{_over(node.args[0])})", _CALL, ((x, 0),)) if x is not None else None


def _mean(node: Node) -> View | None:
    """A sum over how many there are."""
    if node.op != "div" or node.args[0].op != "sum" or node.args[1].op != "input":
        return None
    total, n = node.args
    if n.attr != ("count", str(total.attr[0])):
        return None
    return View(f"mean({{0}}{_over(total)})", _CALL, ((total.args[0], 0),))


def _clamp(node: Node) -> View | None:
    """Between two bounds."""
    if node.op != "minimum" or node.args[0].op != "maximum":
        return None
    (x, low), high = node.args[0].args, node.args[1]
    if max(low.lane, high.lane) >= x.lane:  # two limits of a value, not a value between two limits
        return None
    return View("clamp({0}, {1}, {2})", _CALL, ((x, 0), (low, 0), (high, 0)))


def _plain(node: Node) -> View:
    """Operators between their operands, everything else as a call."""
    square = _squared(node)
    if square is not None:
        return View("{0}^2", 8, ((square, _CALL),))
    if node.op == _ROUND or (node.op == "mul" and _is_one(node.args[1])):
        return View("{0}", 6, ((node.args[0], 6),))
    if node.op in _INFIX:
        sign, binds = _INFIX[node.op]
        right = node.args[1]
        if node.op == "pow":
            return View("{0}^{1}", binds, ((node.args[0], _CALL), (right, _CALL)))
        regroups = right.op in _REGROUPS.get(node.op, ())  # a * (b / c) is a * b / c to a reader
        needed = binds if regroups else binds + 1
        return View(f"{{0}} {sign} {{1}}", binds, ((node.args[0], binds), (right, needed)))
    if node.op == "neg":
        return View("-{0}", 7, ((node.args[0], 7),))
    if node.op == "not":
        return View("not {0}", 3, ((node.args[0], 3),))
    if node.op in ("where", "select"):
        condition, a, b = node.args
        return View("{0} if {1} else {2}", 0, ((a, 1), (condition, 1), (b, 0)))
    if node.op == "matrix":
        constants = "".join(f", {name}={value}" for name, value in node.attr.constants)
        return View(f"{node.attr.function.__name__}({{0}}{constants})", _CALL, ((node.args[0], 0),))
    places = ", ".join(f"{{{i}}}" for i in range(len(node.args)))
    name = node.op.removeprefix(_FOLD)
    return View(f"{name}({places}{_over(node)})", _CALL, tuple((a, 0) for a in node.args))


def _ordered(statements: list[Statement]) -> tuple[list[Statement], Statement | None]:
    """The statements in an order in which every name means the value that was meant.

    A line comes after those that give it its values, and before the one that gives a name it reads
    another value. Where there is no such order, the second result is a line whose value must wait
    under a name of its own.
    """
    after, waits = _constraints(statements)
    order: list[Statement] = []
    left = list(statements)
    while left:
        ready = next((s for s in left if not (after[s] | waits[s]) - set(order)), None)
        if ready is None:
            return order, next(s for s in left if waits[s] - set(order))
        order.append(ready)
        left.remove(ready)
    return order, None


def _constraints(
    statements: list[Statement],
) -> tuple[dict[Statement, set[Statement]], dict[Statement, set[Statement]]]:
    """For each line those that give it values, and those that still read what its name meant before."""
    gives = {s.node: s for s in statements if s.defines}
    after = {s: {gives[n] for n in s.uses if n in gives} - {s} for s in statements}
    waits: dict[Statement, set[Statement]] = {s: set() for s in statements}
    last: dict[str, Statement] = {}
    for s in sorted(statements, key=lambda s: s.last):
        before = last.get(s.target)
        if before is None:
            readers = {r for r in statements if s.target in r.inputs}
        else:
            readers = {r for r in statements if before.defines and before.node in r.uses}
        waits[s] = readers - {s}
        last[s.target] = s
    return after, waits
