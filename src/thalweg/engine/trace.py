"""Tracing: a rule and its options run once on recording values and become one graph.

A tracer of our own, over the vocabulary alone: torch.fx takes milliseconds a rule, accepts what no
kernel can compute, and its messages name its own insides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from thalweg.engine.graph import LEFT_BY, Builder, Graph, Lane, Node, join, topological
from thalweg.engine.ops import FOLDS, REDUCTIONS, MatrixCall, Over, Traced, where
from thalweg.engine.option import OptionSpec, Stage, Station, stages_of
from thalweg.engine.rule import Declared, Hyper, Rule, Scalar, Slot
from thalweg.errors import DeclarationError, ThalwegError, TraceError

FRESH = "fresh"
"""Key of the scalar that says, under a gate, whether a parameter's first step is still to come."""


class Value(Traced):
    """A node being recorded."""

    __slots__ = ("node", "tracer")

    def __init__(self, tracer: Tracer, node: Node) -> None:
        self.tracer = tracer
        self.node = node

    def _record(self, op: str, *operands: Any) -> Value:
        return self.tracer.record(op, *operands)

    def __repr__(self) -> str:
        return f"<traced {self.node}>"


@dataclass(frozen=True)
class Setting:
    """What a trace depends on besides the rule and the options: the key of a graph.

    Args:
        switches: Value of every switch, by (label, name); the rule's label is "".
        on_device: Names of host scalars ("t", "lr", a hyper's key) that only the device knows.
    """

    switches: Mapping[tuple[str, str], Any]
    on_device: frozenset[str] = frozenset()


@dataclass
class Tracer:
    """Records operations, and hands a function what it asks for."""

    setting: Setting
    builder: Builder = field(default_factory=Builder)
    owner: str = ""
    reductions: int = 0

    def slot(self, key: str, slot: Slot) -> Value:
        """A slot's old value: a number per element, or per line or column."""
        lane = Lane.ELEMENT if slot.over is None else LEFT_BY[slot.over]
        return Value(self, self.builder.input("slot", key, lane))

    def input(self, kind: str, name: str = "") -> Value:
        """An outside value: element inputs, and scalars in the lane where they are known."""
        if kind in ("param", "grad"):
            lane = Lane.ELEMENT
        elif kind in ("scalar", "count") or (name or kind) in self.setting.on_device:
            lane = Lane.TENSOR
        else:
            lane = Lane.HOST
        return Value(self, self.builder.input(kind, name, lane, boolean=kind == "first"))

    def record(self, op: str, *operands: Any) -> Value:
        """Record one operation."""
        if op in REDUCTIONS or op == "count":
            return self._reduce(op, *operands)
        if op == "matrix":
            return self._matrix(*operands)
        nodes = [self._node(op, x) for x in operands]
        self._check(op, nodes)
        if op == "pow" and max(n.lane for n in nodes) == Lane.ELEMENT:
            return self._power(operands[0], nodes[1])
        if op == "stored" and (nodes[1].op != "input" or nodes[1].attr[0] != "scalar"):
            raise TraceError(
                f"{self.owner}: as_stored(x, scalar) takes a declared Scalar, as it came, not {nodes[1]}"
            )
        if op == "mod" and max(n.lane for n in nodes) == Lane.ELEMENT:
            raise TraceError(f"{self.owner}: % works on scalars (t % k), not on elements")
        return Value(self, self.builder.make(op, *nodes))

    def _node(self, op: str, x: Any) -> Node:
        if isinstance(x, Value):
            if x.tracer is not self:
                raise TraceError(
                    f"{self.owner}: a value of an earlier trace is used again; "
                    "a rule keeps nothing between calls"
                )
            return x.node
        if isinstance(x, (bool, int, float)):
            return self.builder.const(x)
        if isinstance(x, torch.Tensor):
            raise TraceError(
                f"{self.owner}: a tensor from outside meets a traced value in {op}; "
                "declare it as a Slot or a Hyper"
            )
        raise TraceError(
            f"{self.owner}: {op} got {x!r} ({type(x).__name__}); "
            "values and numbers are what a rule computes with"
        )

    def _check(self, op: str, nodes: list[Node]) -> None:
        truths = [n.boolean for n in nodes]
        if op in ("where", "select"):
            if not truths[0]:
                raise TraceError(
                    f"{self.owner}: where() needs a condition, such as x > 0, not the number {nodes[0]}"
                )
            if truths[1] != truths[2]:
                raise TraceError(
                    f"{self.owner}: the two sides of where() are a number and a truth value"
                )
        elif op in ("and", "or", "not"):
            if not all(truths):
                raise TraceError(f"{self.owner}: & | ~ combine conditions, not numbers")
        elif any(truths):
            raise TraceError(
                f"{self.owner}: {op} of a condition; make a number of it with where(condition, 1.0, 0.0)"
            )

    def _power(self, base: Value, exponent: Node) -> Value:
        """Powers of an element: the few that are arithmetic; the rest no kernel computes alike."""
        known: dict[float, Callable[[], Any]] = {
            1.0: lambda: base,
            2.0: lambda: base * base,
            3.0: lambda: base * base * base,
            -1.0: lambda: 1.0 / base,
            0.5: lambda: self.record("sqrt", base),
            -0.5: lambda: 1.0 / self.record("sqrt", base),
        }
        if exponent.op != "const" or exponent.attr not in known:
            raise TraceError(
                f"{self.owner}: an element to the power {exponent}; written-down exponents "
                f"{', '.join(f'{k:g}' for k in known)} are in the vocabulary (for others: exp and log)"
            )
        return known[exponent.attr]()  # type: ignore[no-any-return]

    def _reduce(self, op: str, x: Any, over: Over) -> Value:
        node = self._node(op, x)
        if op == "count":
            return self.input("count", str(over))
        if node.is_scalar or node.boolean:
            raise TraceError(
                f"{self.owner}: {op}() adds up numbers of elements, not "
                f"{'conditions (use where(condition, 1.0, 0.0))' if node.boolean else f'the scalar {node}'}"
            )
        if node.lane != Lane.ELEMENT:
            return self._fold(op, node, over)
        self.reductions += over == "all"
        tag = f"{self.owner}.{self.reductions}" if over == "all" else ""
        return Value(self, self.builder.reduce(op, node, over, tag))

    def _matrix(self, x: Any, call: MatrixCall) -> Value:
        node = self._node("matrix", x)
        if node.lane != Lane.ELEMENT or node.boolean:
            raise TraceError(f"{self.owner}: matrix() works on elements, not on {node}")
        return Value(self, self.builder.matrix(node, call))

    def _fold(self, op: str, node: Node, over: Over) -> Value:
        """What a sum over one of the last two dimensions left, summed over the other."""
        if (node.lane, over) not in ((Lane.LINE, -2), (Lane.COLUMN, -1)):
            raise TraceError(
                f"{self.owner}: {op}(over={over!r}) of {node}, which is one number per "
                f"{node.lane.name.lower()}; what a sum over -1 left can be summed over -2, and the other way"
            )
        assert isinstance(over, int)
        return Value(self, self.builder.fold(FOLDS[op], node, over))

    @contextmanager
    def owned_by(self, name: str) -> Iterator[None]:
        """While a function of that name runs: messages and reductions carry it."""
        self.owner, self.reductions = name, 0
        yield
        self.owner = ""

    def scalar(self, scalar: Scalar, label: str) -> Value:
        """A number that lives across steps, as it was before this one."""
        kind = "hyper" if scalar.is_shared else "scalar"
        return self.input(kind, scalar_key(scalar, label))

    def numbers(
        self, owner: Declared, asks: frozenset[str], label: str, **values: Any
    ) -> dict[str, Any]:
        """The keywords that a function asks for."""
        hypers = {h.name: h for h in owner.hypers}
        switches = {s.name for s in owner.switches}
        scalars = {s.name: s for s in owner.scalars}
        tuples = owner.tuples()
        found: dict[str, Any] = {}
        for name in asks:
            if name in values:
                found[name] = values[name]
            elif name in hypers:
                found[name] = self.input("hyper", hyper_key(hypers[name], label))
            elif name in tuples:
                keys = [hyper_key(h, label) for h in tuples[name]]
                found[name] = tuple(self.input("hyper", key) for key in keys)
            elif name in switches:
                found[name] = self.setting.switches[label, name]
            elif name in scalars and name != "step":
                found[name] = self.scalar(scalars[name], label)
            else:
                found[name] = self.input(
                    "hyper" if name == "lr" else name, "lr" if name == "lr" else ""
                )
        return found


def scalar_key(scalar: Scalar, label: str) -> str:
    """A scalar's key in the state or the group; the step count is one for all."""
    return f"{label}_{scalar.name}" if label and scalar.name != "step" else scalar.name


def state_keys(owner: Declared, label: str) -> list[str]:
    """Everything that a rule or an option keeps in the state or the group, but for the step count."""
    slots = [f"{label}_{s.name}" if label else s.name for s in owner.slots]
    return slots + [scalar_key(s, label) for s in owner.scalars if s.name != "step"]


def shared_scalars(rule: Rule, specs: Iterable[OptionSpec]) -> dict[str, tuple[Declared, Scalar]]:
    """The scalars that stand in the group, by key, and who declares each."""
    labelled: list[tuple[str, Declared]] = [("", rule), *((spec.name, spec) for spec in specs)]
    return {
        scalar_key(s, label): (owner, s)
        for label, owner in labelled
        for s in owner.scalars
        if s.is_shared
    }


def hyper_key(hyper: Hyper, label: str) -> str:
    """The name that a graph has for a group's number: its place in the group."""
    key, index = hyper.place(label)
    return key if index is None else f"{key}[{index}]"


def active_slots(
    owner: Declared, label: str, switches: Mapping[tuple[str, str], Any]
) -> dict[str, Slot]:
    """The slots that exist under these switches, by their key in the state."""
    return {
        f"{label}_{s.name}" if label else s.name: s
        for s in owner.slots
        if s.exists(lambda name: switches[label, name])
    }


class Weaver:
    """Runs a rule and its options in the table's order on recording values."""

    def __init__(self, rule: Rule, specs: tuple[OptionSpec, ...], setting: Setting) -> None:
        self.rule, self.specs = rule, specs
        self.tracer = Tracer(setting)
        self.outputs: dict[str, Value] = {}
        self.values: dict[str, Any] = {}

    def weave(self) -> dict[str, Value]:
        """Trace everything and return the outputs by name."""
        tracer = self.tracer
        old = self.values["p"] = tracer.input("param")
        raw = g = tracer.input("grad")
        begins = any(s.init == "grad" for s in self.rule.slots)
        asks_first = any("first" in asks for asks in self._rule_asks())
        if stages_of(self.specs, "gate") and (begins or asks_first):
            # A step that is held back has not used up its being the first.
            self.values["first"] = tracer.input("scalar", FRESH) > 0.0
            self.outputs[FRESH] = Value(tracer, tracer.builder.const(0.0))
        g = self._stations("gradient", g)
        u, moved = self._rule(g)
        u = self._stations("direction", u, g=g)
        lr = self.tracer.input("hyper", "lr")
        for s in self.rule.scalars:
            if s.name == self.rule.lr_scale:
                lr = lr * self.tracer.scalar(s, "")
        step = u if "lr" in self.rule.asks else lr * u
        p, more = self._stage(*stages_of(self.specs, "apply")[0], old, step, lr=lr)
        moved["param"] = p = self._stations("after", p)
        self.outputs |= moved | more | self._followers(p)
        if self._counts_steps():
            self.outputs["step"] = self.tracer.input("t")
        return self._gated(raw)

    def _rule(self, g: Value) -> tuple[Value, dict[str, Value]]:
        keys = [s.name for s in self.rule.slots if s.follows is None]
        return self._call(
            self.rule,
            self.rule.function,
            self.rule.asks,
            "",
            (g,),
            keys,
            tuple(s.name for s in self.rule.scalars if s.name != "step"),
        )

    def _rule_asks(self) -> list[frozenset[str]]:
        return [self.rule.asks, *(asks for _, asks in self.rule.followers.values())]

    def _followers(self, p: Value) -> dict[str, Value]:
        """The rule's slots that follow the parameter as it now is."""
        active = active_slots(self.rule, "", self.tracer.setting.switches)
        return {
            key: self._call(
                self.rule, function, asks, "", (p, self.tracer.slot(key, active[key])), [], ()
            )[0]
            for key, (function, asks) in self.rule.followers.items()
            if key in active
        }

    def _stations(self, station: Station, value: Value, **values: Any) -> Value:
        for spec, stage in stages_of(self.specs, station):
            value, moved = self._stage(spec, stage, value, **values)
            self.outputs |= moved
        return value

    def _stage(
        self, spec: OptionSpec, stage: Stage, *leading: Value, **values: Any
    ) -> tuple[Value, dict[str, Value]]:
        slots = [s.name for s in spec.slots] if stage.station in ("after", "apply") else []
        scalars = (
            tuple(s.name for s in spec.scalars if s.name != "step")
            if stage.station in ("apply", "after", "gate")
            else ()
        )
        return self._call(
            spec, stage.function, stage.asks, spec.name, leading, slots, scalars, **values
        )

    def _call(
        self,
        owner: Declared,
        function: Callable[..., Any],
        asks: frozenset[str],
        label: str,
        leading: tuple[Value, ...],
        slots: list[str],
        scalars: tuple[str, ...],
        **values: Any,
    ) -> tuple[Value, dict[str, Value]]:
        """Call one function with what it asks for; sort what it returns by the state's keys."""
        active = active_slots(owner, label, self.tracer.setting.switches)
        keys = [f"{label}_{s}" if label else s for s in slots]
        tensors = [self._slot(active[k], k) if k in active else None for k in keys]
        with self.tracer.owned_by(owner.name):
            numbers = self.tracer.numbers(owner, asks, label, **(self.values | values))
            try:
                result = function(*leading, *tensors, **numbers)
            except ThalwegError as e:
                if str(e).startswith(f"{owner.name}:") or str(e).startswith(f"{owner.name} "):
                    raise
                raise type(e)(f"{owner.name}: {e}") from None
            except Exception as e:
                hint = "; a rule computes with thalweg.ops" if "Value" in str(e) else ""
                raise TraceError(
                    f"{owner.name} cannot be traced: {type(e).__name__}: {e}{hint}"
                ) from e
        expected = 1 + len(keys) + len(scalars)
        results = result if isinstance(result, tuple) else (result,)
        wanted = f"a value{''.join(f', {s}' for s in (*slots, *scalars))}"
        if len(results) != expected:
            raise DeclarationError(
                f"{owner.name} returns {len(results)} value(s); its declaration needs {expected}: {wanted}"
            )
        moved = {}
        for key, value in zip(
            (*keys, *(f"{label}_{s}" if label else s for s in scalars)), results[1:], strict=True
        ):
            if (key in keys and key not in active) != (value is None):
                raise DeclarationError(
                    f"{owner.name}: slot {key!r} is {'off' if value is not None else 'on'} here, "
                    f"and the rule returns {value!r} for it"
                )
            if value is not None:
                moved[key] = self._value(owner, key, value)
        return self._value(owner, "its first value", results[0]), moved

    def _slot(self, slot: Slot, key: str) -> Value:
        """A slot as it was; one that begins as the gradient, as the gradient of the first step kept."""
        old = self.tracer.slot(key, slot)
        if slot.init == "grad" and "first" in self.values:
            return where(self.values["first"], self.tracer.input("grad"), old)  # type: ignore[no-any-return]
        return old

    def _value(self, owner: Declared, what: str, value: Any) -> Value:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = Value(self.tracer, self.tracer.builder.const(value))
        if not isinstance(value, Value):
            raise DeclarationError(
                f"{owner.name} returns {value!r} for {what}; "
                "it must return what it computed from its arguments"
            )
        return value

    def _counts_steps(self) -> bool:
        stages = [stage.asks for spec in self.specs for stage in spec.stages]
        declared = [s.name for d in (self.rule, *self.specs) for s in d.scalars]
        if self._uses_first() and not active_slots(self.rule, "", self.tracer.setting.switches):
            return True  # something in the state must tell that it is not new any more
        return "step" in declared or any("t" in asks for asks in (*self._rule_asks(), *stages))

    def _uses_first(self) -> bool:
        nodes = topological(value.node for value in self.outputs.values())
        return any(n.attr == ("first", "") for n in nodes)

    def _gated(self, raw: Value) -> dict[str, Value]:
        """Where a gate says no, everything stays: parameter, slots, scalars and step count."""
        for spec, stage in stages_of(self.specs, "gate"):
            keep, counters = self._stage(spec, stage, raw)
            for name, new in self.outputs.items():
                self.outputs[name] = where(keep, new, self._old(name))
            self.outputs |= counters
        return self.outputs

    def _old(self, name: str) -> Value:
        if name == "param":
            return self.tracer.input("param")
        if name == "step":
            return self.tracer.input("t") - 1.0  # type: ignore[no-any-return]
        if name in shared_scalars(self.rule, self.specs):
            return self.tracer.input("hyper", name)
        slots = self.slots()
        return (
            self.tracer.slot(name, slots[name])
            if name in slots
            else self.tracer.input("scalar", name)
        )

    def slots(self) -> dict[str, Slot]:
        """Every slot that exists, by its key in the state."""
        labelled = [("", self.rule), *((spec.name, spec) for spec in self.specs)]
        switches = self.tracer.setting.switches
        return {
            key: slot
            for label, owner in labelled
            for key, slot in active_slots(owner, label, switches).items()
        }


def _of_one_parameter(root: Node) -> Iterator[Node]:
    """What below a scalar differs from parameter to parameter; a sum over all tensors does not."""
    for node in topological([root], reductions_are_leaves=True):
        if node.op in REDUCTIONS and node.attr[0] != "all":
            yield node
        if node.op == "input" and node.attr not in (("count", "all"),) and node.attr[0] != "hyper":
            yield node


def trace(rule: Rule, specs: tuple[OptionSpec, ...], setting: Setting) -> Graph:
    """The graph of a rule with its options under a setting of the switches.

    Raises:
        TraceError: The rule uses what is outside the vocabulary, or tests a traced value.
        DeclarationError: It returns something else than it declares.
    """
    weaver = Weaver(rule, specs, setting)
    outputs = weaver.weave()
    scalars = {
        f"{label}_{s.name}" if label else s.name
        for d, label in [(rule, ""), *((s, s.name) for s in specs)]
        for s in d.scalars
    } | {"step", FRESH}
    for name, value in outputs.items():
        if name in scalars and not value.node.is_scalar:
            raise DeclarationError(
                f"{rule.name}: scalar {name!r} comes out as one number per element; it must be one per tensor"
            )
    for name, (owner, s) in shared_scalars(rule, specs).items():
        for node in _of_one_parameter(outputs[name].node):
            raise DeclarationError(
                f"{owner.name}: scalar {s.name!r} has scope={s.scope!r} and depends on {node}, which each "
                "parameter has its own of; numbers of the group and sums over='all' are alike for all"
            )
    vectors = {k: LEFT_BY[s.over] for k, s in weaver.slots().items() if s.over is not None}
    for name, lane in vectors.items():
        if join((outputs[name].node.lane, lane)) != lane:
            raise DeclarationError(
                f"{rule.name}: slot {name!r} is declared with a number per {lane.name.lower()} and comes "
                f"out as one per {outputs[name].node.lane.name.lower()}"
            )
    return Graph(
        {name: value.node for name, value in outputs.items()},
        tuple(name for name in outputs if name not in scalars and name not in vectors),
        vectors,
    )
