"""Prepare: everything of a step that can fail, before anything is written.

Groups are resolved, updates traced and compiled, state allocated and tables built. What comes out is a
plan, and entries of state that are published when it runs. An error leaves parameters, state and counts
as they were, and a retry equals an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.engine.backends import c_run, choice
from thalweg.engine.codecs import Codec, codec_of
from thalweg.engine.graph import Lane, Node, topological
from thalweg.engine.groups import Resolved, graph_of, resolve, wanted_slots
from thalweg.engine.plan import BucketRun, Plan
from thalweg.engine.rule import Group, Scalar
from thalweg.engine.state import (
    ParameterState,
    is_dense,
    rows_are_outermost,
    same_layout,
    scalar_vector,
    slots_of,
)
from thalweg.engine.tables import Bucket, Kind, Watch
from thalweg.engine.trace import FRESH, Setting
from thalweg.errors import ArgumentError, BackendError, StepError

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
    states: list[Mapping[str, Any]] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    relaid: dict[int, Tensor] = field(default_factory=dict)


class Preparation:
    """One preparation of all groups of an optimizer.

    Args:
        groups: The optimizer's groups.
        state: Its state; read only.
        name_of: Says which parameter a message is about.
    """

    def __init__(self, groups: Sequence[Group], state: Mapping[Tensor, Any], name_of: Any) -> None:
        self.groups, self.state, self.name_of = groups, state, name_of
        self.resolved = [resolve(g) for g in groups]
        self.kinds: dict[Any, tuple[Kind, ModuleType]] = {}
        self.pending: Pending = []

    def plan(self) -> tuple[Plan, Pending]:
        """Build everything."""
        entries = list(self._entries())
        kinds = [kind for kind, module in self.kinds.values() if module is c_run]
        c_run.compile_all(kinds)
        drafts = self._drafts(entries)
        runs = [self._run(d) for d in drafts]
        watch = Watch(self.groups, [d.bucket for d in drafts], [g for d in drafts for g in d.raw])
        return Plan(runs, watch, self.resolved), self.pending

    def _entries(self) -> list[Entry]:
        found: dict[Tensor, Entry] = {}
        order = 0
        for index, group in enumerate(self.groups):
            for p in group["params"]:
                if p.grad is not None and p not in found:  # one that stands twice moves once
                    found[p] = self._entry(order, index, group, p, p.grad)
                order += 1
        return list(found.values())

    def _entry(self, order: int, index: int, group: Group, p: Tensor, grad: Tensor) -> Entry:
        resolved = self.resolved[index]
        where = self.name_of(p)
        if grad.device != p.device:
            raise StepError(
                f"the gradient of {where} is on {grad.device} and the parameter on {p.device}; move one of them"
            )
        if grad.shape != p.shape:
            raise StepError(
                f"the gradient of {where} has shape {tuple(grad.shape)} and the parameter {tuple(p.shape)}"
            )
        setting = resolved.setting(p, self._on_device(resolved, group, p))
        graph, _ = graph_of(resolved, setting)
        sparse = grad.layout != torch.strided
        if sparse and not resolved.rule.sparse:
            raise StepError(
                f"{resolved.rule.refuses_sparse or f'{group_title(group)} does not support sparse gradients'}: "
                f"{where} has a {str(grad.layout).removeprefix('torch.')} one; make it dense (sparse=False in its layer)"
            )
        by_rows = sparse and grad.sparse_dim() == 1 and _only_touches_rows(graph.outputs)
        staged = (
            None
            if by_rows or (not sparse and _in_place(grad, p))
            else torch.empty_like(p, dtype=grad.dtype)
        )
        wanted = wanted_slots(resolved, setting, group, p)
        own = [s.name for s in resolved.rule.slots if s.name in wanted] or ["step"]
        state = slots_of(
            p,
            grad if not sparse else grad.to_dense() if wanted else p,
            self.state.get(p, {}),
            wanted,
            own,
            where,
        )
        kind, module = self._kind(resolved, setting, group, p, grad, state, by_rows=by_rows)
        return Entry(order, index, p, grad, state, kind, module, staged)

    @staticmethod
    def _on_device(resolved: Resolved, group: Group, p: Tensor) -> frozenset[str]:
        """What only the device knows: tensor hyper-parameters there, and step counts that a gate may hold back."""
        gated = any(stage.station == "gate" for spec in resolved.specs for stage in spec.stages)
        counts = p.device.type != "cpu" and (gated or bool(group.get("capturable")))
        return resolved.tensors | ({"t"} if counts else set())

    def _kind(
        self, resolved: Resolved, setting: Setting, group: Group, p: Tensor, grad: Tensor, state: ParameterState, *, by_rows: bool
    ) -> tuple[Kind, ModuleType]:  # fmt: skip
        graph, programs = graph_of(resolved, setting)
        try:
            codecs: dict[str, Codec] = {"param": codec_of(p.dtype), "grad": codec_of(grad.dtype)}
            codecs |= {key: codec_of(x.dtype) for key, x in state.slots.items()}
        except ArgumentError as e:
            raise StepError(f"{self.name_of(p)}: {e}") from None
        needs_rows = any(q.by_row or q.row_columns for q in programs)
        flat = is_dense(p) and (not needs_rows or rows_are_outermost(p))
        layout = (
            "differentiable"
            if group.get("differentiable")
            else "rows"
            if by_rows
            else "dense"
            if flat
            else "strided"
        )
        use_foreach, use_fused = group.get("foreach"), group.get("fused")
        key = (
            id(graph),
            tuple(c.name for c in codecs.values()),
            p.dtype,
            p.device,
            layout,
            use_foreach,
            use_fused,
        )
        if key not in self.kinds:
            try:
                module, reason = choice.choose(
                    codecs, layout, p.device, use_foreach=use_foreach, use_fused=use_fused
                )
            except BackendError as e:
                raise BackendError(f"{e} ({self.name_of(p)})") from None
            self.kinds[key] = Kind(
                resolved.rule, resolved.specs, setting, graph, programs, codecs, p.dtype, p.device, layout, module.name, reason
            ), module  # fmt: skip
        return self.kinds[key]

    def _drafts(self, entries: Sequence[Entry]) -> list[Draft]:
        drafts: dict[int, Draft] = {}
        for e in entries:
            draft = drafts.setdefault(id(e.kind), Draft(Bucket(e.kind), e.module))
            b = draft.bucket
            if e.staged is not None:
                draft.relaid[len(b.params)] = e.staged
            draft.raw.append(e.grad)
            b.params.append(e.p)
            b.grads.append(e.grad if e.staged is None else e.staged)
            b.groups.append(e.group)
            b.order.append(e.order)
            b.first.append(e.state.is_new)
            for key, x in e.state.slots.items():
                b.slots.setdefault(key, []).append(x)
            draft.states.append(self.state.get(e.p, {}))
            if e.state.pending:
                self.pending.append((e.p, e.state.pending))
        return list(drafts.values())

    def _run(self, draft: Draft) -> BucketRun:
        bucket, kind = draft.bucket, draft.bucket.kind
        for key, scalar in _scalars(kind).items():
            on_device = kind.device.type != "cpu" and (
                key != "step" or "t" in kind.setting.on_device
            )
            device = kind.device if on_device else torch.device("cpu")
            fresh = (
                [float(new) for new in bucket.first]
                if key == FRESH
                else [scalar.init] * len(draft.states)
            )
            vector, views = scalar_vector(key, fresh, draft.states, device)
            bucket.vectors[key] = vector
            for p, state, view in zip(bucket.params, draft.states, views, strict=True):
                if state.get(key) is not view:
                    self.pending.append((p, {key: view}))
        run = BucketRun(bucket, draft.module.bind(bucket), draft.relaid)
        run.take(draft.raw, moved=False)
        return run


def _scalars(kind: Kind) -> dict[str, Scalar]:
    """The per-parameter scalars that a kind keeps, by their key in the state."""
    declared = {
        s.name if s.name == "step" or not label else f"{label}_{s.name}": s
        for label, owner in [("", kind.rule), *((spec.name, spec) for spec in kind.specs)]
        for s in owner.scalars
    }
    declared |= {"step": Scalar("step"), FRESH: Scalar(FRESH)}
    return {key: s for key, s in declared.items() if key in kind.graph.outputs}


def _in_place(grad: Tensor, p: Tensor) -> bool:
    """Whether a kernel can read the gradient where it is."""
    return same_layout(grad, p) and not grad.is_neg() and not grad.is_conj()


def _only_touches_rows(outputs: Mapping[str, Node]) -> bool:
    """Whether rows without gradient stay as they are: the update is `p - f(g)`, and nothing else is kept."""
    out = outputs.get("param")
    if len(outputs) != 1 or out is None or out.op != "sub" or out.args[0].attr != ("param", ""):
        return False
    return not any(
        n.attr == ("param", "") or n.lane in (Lane.TENSOR, Lane.ROW)
        for n in topological(out.args[1:])
    )


def group_title(group: Group) -> str:
    """What messages call the optimizer of a group."""
    return str(group.get("rule", "this optimizer"))
