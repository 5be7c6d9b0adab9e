"""Prepare: everything of a step that can fail, before anything is written.

Groups are resolved, updates traced and compiled, state allocated and tables built. What comes out is a
plan, and entries of state that are published when it runs. An error leaves parameters, state and counts
as they were, and a retry equals an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from thalweg.engine.backends import c_run, choice
from thalweg.engine.codecs import codec_of
from thalweg.engine.graph import Graph, Lane, topological
from thalweg.engine.groups import Resolved, graph_of, initial_value, resolve, wanted_slots
from thalweg.engine.matrix import Stacks
from thalweg.engine.passes import Program
from thalweg.engine.plan import BucketRun, Plan
from thalweg.engine.rule import Declared, Group, Rule, Scalar, Slot
from thalweg.engine.state import (
    Missing,
    ParameterState,
    elements_of_one,
    is_dense,
    lines_are_innermost,
    make_slots,
    rows_are_outermost,
    same_layout,
    scalar_views,
    slots_of,
)
from thalweg.engine.tables import Bucket, Kind, Watch
from thalweg.engine.trace import FRESH, Setting, scalar_key
from thalweg.errors import ArgumentError, BackendError, CompilerError, StepError

Pending: TypeAlias = list[tuple[Tensor, dict[str, Any]]]


@dataclass(eq=False)
class Entry:
    """One parameter on its way into a bucket."""

    order: int
    group: int
    p: Tensor
    grad: Tensor
    state: ParameterState
    kind: Kind
    module: ModuleType
    staged: Tensor | None


@dataclass(eq=False)
class Draft:
    """A bucket being filled."""

    bucket: Bucket
    module: ModuleType
    entries: list[Entry] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    relaid: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Family:
    """What the parameters of a group with like dtype, device and dimensions have in common."""

    group: Group
    resolved: Resolved
    setting: Setting
    graph: Graph
    programs: tuple[Program, ...]
    wanted: dict[str, tuple[Slot, torch.dtype, float | str]]

    @cached_property
    def own(self) -> list[str]:
        """Keys without any of which state is new."""
        return [s.name for s in self.resolved.rule.slots if s.name in self.wanted] or ["step"]

    @cached_property
    def lanes(self) -> frozenset[Lane]:
        """What a kernel must find in its place: rows, or matrices, lines and columns."""
        whole = {Lane.ROW} if self.graph.matrices else set()
        return frozenset(whole).union(*(q.lanes for q in self.programs))

    @cached_property
    def takes_rows(self) -> bool:
        """Whether rows without gradient stay as they are: by definition, or as p - f(g) and no slots."""
        if self.resolved.rule.sparse == "rows":
            return True
        out = self.graph.outputs["param"]
        if len(self.graph.outputs) != 1 or out.op != "sub" or out.args[0].attr != ("param", ""):
            return False
        below = topological(out.args[1:])
        return not any(
            n.attr == ("param", "") or n.lane not in (Lane.HOST, Lane.ELEMENT) for n in below
        )

    def layout(self, p: Tensor, *, by_rows: bool) -> str:
        """How a kernel finds the parameter's elements."""
        if self.group.get("differentiable"):
            return "differentiable"
        if by_rows:
            return "rows"
        flat = is_dense(p) and (Lane.ROW not in self.lanes or rows_are_outermost(p))
        flat = flat and (self.lanes <= {Lane.ROW} or lines_are_innermost(p))
        return "dense" if flat else "strided"


class Preparation:
    """One preparation of all groups of an optimizer.

    Args:
        groups: The optimizer's groups.
        state: Its state; read only.
        title: The optimizer's name, for messages.
    """

    def __init__(
        self, groups: Sequence[Group], state: Mapping[Tensor, Any], title: str = ""
    ) -> None:
        self.groups, self.state, self.title = groups, state, title
        self.resolved = [resolve(g) for g in groups]
        self.families: dict[Any, Family] = {}
        self.kinds: dict[Any, tuple[Kind, ModuleType]] = {}
        self.instead: dict[Kind, tuple[Kind, ModuleType]] = {}
        self.pending: Pending = []

    def _refuses_sparse(self, rule: Rule) -> str:
        """The rule's sentence, but for classes that share it, as LAMB does Adam's."""
        if not rule.refuses_sparse or hasattr(torch.optim, self.title) or self.title == "Optimizer":
            return rule.refuses_sparse or f"{rule.name} does not support sparse gradients"
        return f"{self.title} does not support sparse gradients"

    def plan(self) -> tuple[Plan, Pending]:
        """Build everything."""
        entries = self._entries()
        self._compile()
        drafts = self._drafts(entries)
        self._scalars(drafts)
        runs = [self._run(d) for d in drafts]
        watch = Watch(
            self.groups,
            [d.bucket for d in drafts],
            [d.raw for d in drafts],
            [r.bound.prefetch for r in runs],
        )
        return Plan(runs, watch, self.resolved), self.pending

    def _entries(self) -> list[Entry]:
        found: dict[Tensor, Entry] = {}
        order = 0
        for index, group in enumerate(self.groups):
            for j, p in enumerate(group["params"]):
                if p.grad is not None and p not in found:  # one that stands twice moves once
                    found[p] = self._entry(order, index, p, p.grad, parameter_name(group, index, j))
                order += 1
        return list(found.values())

    def _entry(self, order: int, index: int, p: Tensor, grad: Tensor, where: str) -> Entry:
        _check_parameter(p, where)
        _check_gradient(grad, p, where)
        family = self._family(index, p)
        if p.ndim < 2 and family.graph.matrices:
            raise StepError(f"{where} has shape {tuple(p.shape)}, and the update works on matrices")
        rule = family.resolved.rule
        if p.is_complex() and rule.refuses_complex:
            raise StepError(f"{rule.refuses_complex}: {where} is complex")
        if p.is_complex() and family.lanes:
            raise StepError(
                f"{where} is complex, and rows, lines, columns or matrices would mix real and "
                "imaginary parts"
            )
        sparse = grad.layout != torch.strided
        if sparse and not rule.sparse:
            raise StepError(
                f"{self._refuses_sparse(rule)}: {where} has "
                f"a {str(grad.layout).removeprefix('torch.')} one; make it dense (sparse=False in its layer)"
            )
        if not sparse and rule.refuses_dense:
            raise StepError(f"{rule.refuses_dense}: {where} has one")
        by_rows = sparse and grad.sparse_dim() > 0 and family.takes_rows and not p.is_complex()
        by_rows = by_rows and not family.lanes  # a row's sum is of all of it
        if sparse and rule.sparse == "rows" and not by_rows:
            raise StepError(
                f"{where} has a sparse gradient that cannot be taken row by row: it is complex, has no "
                "sparse dimension, or an option works on whole rows"
            )
        in_place = by_rows or (not sparse and _in_place(grad, p))
        staged = None if in_place else torch.empty_like(p, dtype=grad.dtype)
        dense = grad.to_dense() if sparse and family.wanted else grad
        state = slots_of(p, dense, self.state.get(p, {}), family.wanted, family.own, where)
        kind, module = self._kind(family, p, grad, state, family.layout(p, by_rows=by_rows), where)
        return Entry(order, index, p, grad, state, kind, module, staged)

    def _family(self, index: int, p: Tensor) -> Family:
        resolved, group = self.resolved[index], self.groups[index]
        key = (index, p.dtype, p.device, tuple(p.ndim >= least for _, _, least in resolved.by_ndim))
        if key not in self.families:
            setting = resolved.setting(p, _on_device(resolved, group, p))
            graph, programs = graph_of(resolved, setting)
            wanted = wanted_slots(resolved, setting, group, p)
            self.families[key] = Family(group, resolved, setting, graph, programs, wanted)
        return self.families[key]

    def _kind(
        self,
        family: Family,
        p: Tensor,
        grad: Tensor,
        state: ParameterState,
        layout: str,
        where: str,
    ) -> tuple[Kind, ModuleType]:
        among = family.graph.vectors
        slots = {k: x.dtype for k, x in state.slots.items() if k not in among}
        between = {k: x.dtype for k, x in state.slots.items() if k in among}
        dtypes = (p.dtype, grad.dtype, *slots.values())
        flags = {f"use_{name}": family.group.get(name) for name in ("foreach", "fused")}
        owners = (family.resolved.rule, family.resolved.specs)  # two rules may have one text
        key = (family.graph, owners, dtypes, *between.values(), p.device, layout, *flags.values())
        if key not in self.kinds:
            try:
                if flags["use_fused"]:
                    choice.check_fusable(p.dtype, p.device)
                codecs = dict(zip(("param", "grad", *slots), map(codec_of, dtypes), strict=True))
                module, reason = choice.choose(layout, p.device, **flags)
            except ArgumentError as e:
                raise StepError(f"{where}: {e}") from None
            except BackendError as e:
                raise BackendError(f"{e} ({where})") from None
            codecs |= {m.stream: codec_of(m.call.dtype) for m in family.graph.matrices}
            kind = Kind(
                family.resolved.rule,
                family.resolved.specs,
                family.setting,
                family.graph,
                family.programs,
                codecs,
                p.dtype,
                p.device,
                layout,
                module.name,
                reason,
                {k: codec_of(dtype) for k, dtype in between.items()},
            )
            self.kinds[key] = kind, module
        return self.kinds[key]

    def _compile(self) -> None:
        """Compile all C at once; what this compiler cannot (float16 for an old one) runs as lists instead."""
        kinds = [kind for kind, module in self.kinds.values() if module is c_run]
        try:
            c_run.compile_all(kinds)
        except CompilerError as e:
            if any(group.get("fused") for group in self.groups):
                raise
            module, reason = choice.without_kernels(str(e))
            for kind in kinds:
                self.instead[kind] = replace(kind, backend=module.name, reason=reason), module

    def _drafts(self, entries: Sequence[Entry]) -> list[Draft]:
        drafts: dict[int, Draft] = {}
        for e in entries:
            kind, module = self.instead.get(e.kind, (e.kind, e.module))
            draft = drafts.setdefault(id(e.kind), Draft(Bucket(kind), module))
            b = draft.bucket
            if e.staged is not None:
                draft.relaid[len(b.params)] = e.staged
            draft.raw.append(e.grad)
            b.params.append(e.p)
            b.grads.append(e.grad if e.staged is None else e.staged)
            b.groups.append(e.group)
            b.order.append(e.order)
            b.first.append(e.state.is_new)
            draft.entries.append(e)
        return list(drafts.values())

    def _run(self, draft: Draft) -> BucketRun:
        for key in draft.entries[0].state.slots:
            self._slots(draft, key)
        self.pending += [(e.p, e.state.pending) for e in draft.entries if e.state.pending]
        bucket = draft.bucket
        for m in bucket.kind.graph.matrices:
            bucket.matrices[m.stream] = Stacks(bucket.params, m.call)
        run = BucketRun(bucket, draft.module.bind(bucket), draft.relaid)
        run.take(draft.raw, moved=False)
        return run

    @staticmethod
    def _slots(draft: Draft, key: str) -> None:
        """Make what is missing of a slot."""
        without = {e: x for e in draft.entries if isinstance(x := e.state.slots[key], Missing)}
        if without:
            kind = draft.bucket.kind
            dense = kind.layout == "dense" and key not in kind.graph.vectors
            made = make_slots([e.p for e in without], list(without.values()), dense=dense)
            for e, new in zip(without, made, strict=True):
                e.state.slots[key] = e.state.pending[key] = new
        draft.bucket.slots[key] = [cast("Tensor", e.state.slots[key]) for e in draft.entries]

    def _scalars(self, drafts: Sequence[Draft]) -> None:
        """Gather each scalar of all parameters in a vector, of which buckets use some elements.

        Parameters that have no gradient now stay in it: whichever have one next time, the vector serves.
        """
        wanted: dict[tuple[str, torch.device, bool], dict[Entry, float | Tensor]] = {}
        for draft in drafts:
            kind = draft.bucket.kind
            for key, (label, owner, scalar) in _scalars(kind).items():
                at_home = key != "step" or "t" in kind.setting.on_device
                device = kind.device if at_home else torch.device("cpu")
                for e in draft.entries:
                    start = self._start(key, label, owner, scalar, e)
                    wanted.setdefault((key, device, scalar.wide), {})[e] = start
        for (key, device, wide), starts in wanted.items():
            views = self._views(key, device, starts, wide=wide)
            for draft in drafts:
                own = [views[e.p] for e in draft.entries if e in starts]
                if own and (scalars := elements_of_one(own, device)) is not None:
                    draft.bucket.scalars[key] = scalars

    def _start(
        self, key: str, label: str, owner: Declared, scalar: Scalar, e: Entry
    ) -> float | Tensor:
        """What a scalar begins as; still a tensor where autograd differentiates the step by it."""
        group = self.groups[e.group]
        if key == FRESH:
            return float(e.state.is_new)
        if scalar.init == "lr" and e.kind.layout == "differentiable":
            return cast("float | Tensor", group["lr"])
        return initial_value(owner, label, scalar.init, group)

    def _views(
        self, key: str, device: torch.device, starts: Mapping[Entry, float | Tensor], *, wide: bool
    ) -> dict[Tensor, Tensor]:
        """A scalar of these parameters, as elements of one vector."""
        there = {e.p: self.state.get(e.p, {}).get(key) for e in starts}
        if elements_of_one(list(there.values()), device) is not None:
            return there
        values = {e.p: start if there[e.p] is None else there[e.p] for e, start in starts.items()}
        for p, entries in self.state.items():
            x = entries.get(key) if isinstance(entries, dict) else None
            if p not in values and isinstance(x, Tensor) and x.device == device:
                values[p] = x
        views = dict(
            zip(values, scalar_views(list(values.values()), device, wide=wide), strict=True)
        )
        self.pending += [(p, {key: view}) for p, view in views.items()]
        return views


def parameter_name(group: Group, index: int, place: int) -> str:
    """What messages call a parameter."""
    names = group.get("param_names")
    return repr(names[place]) if names else f"parameter {place} of group {index}"


def _check_parameter(p: Tensor, where: str) -> None:
    """Refuse what no backend can write through its address or its elements."""
    if is_traceable_wrapper_subclass(p):
        raise StepError(
            f"{where} is a {type(p).__name__}: its parts are not stepped yet (sharded parameters are refused "
            "rather than approximated); step the full parameter"
        )
    if p.device.type in ("cpu", "cuda") and p.numel() and not p.data_ptr():
        raise StepError(
            f"{where} has no storage (it was freed, or is fake); materialise it before the step"
        )
    if p.is_conj() or p.is_neg():
        raise StepError(
            f"{where} is a lazily conjugated or negated view; use its resolve_conj().resolve_neg()"
        )
    if any(n > 1 and stride == 0 for n, stride in zip(p.shape, p.stride(), strict=True)):
        raise StepError(
            f"{where} is expanded: several of its elements are one number in storage; clone() it"
        )


def _check_gradient(grad: Tensor, p: Tensor, where: str) -> None:
    if grad.device != p.device:
        raise StepError(
            f"the gradient of {where} is on {grad.device} and the parameter on {p.device}; move one of them"
        )
    if grad.shape != p.shape:
        raise StepError(
            f"the gradient of {where} has shape {tuple(grad.shape)} and the parameter {tuple(p.shape)}"
        )


def _on_device(resolved: Resolved, group: Group, p: Tensor) -> frozenset[str]:
    """What only the device knows: tensors of the group there, and step counts that a gate may hold back."""
    gated = any(stage.station == "gate" for spec in resolved.specs for stage in spec.stages)
    counts = p.device.type != "cpu" and (gated or bool(group.get("capturable")))
    return resolved.tensors | ({"t"} if counts else set())


def _scalars(kind: Kind) -> dict[str, tuple[str, Declared, Scalar]]:
    """The per-parameter scalars that a kind keeps, by their key in the state, and who declares each."""
    declared = {
        scalar_key(s, label): (label, owner, s)
        for label, owner in [("", kind.rule), *((spec.name, spec) for spec in kind.specs)]
        for s in owner.scalars
        if not s.is_shared
    }
    declared |= {key: ("", kind.rule, Scalar(key)) for key in ("step", FRESH)}
    return {key: known for key, known in declared.items() if key in kind.graph.outputs}


def _in_place(grad: Tensor, p: Tensor) -> bool:
    """Whether a kernel can read the gradient where it is."""
    return same_layout(grad, p) and not grad.is_neg() and not grad.is_conj()
