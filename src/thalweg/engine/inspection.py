"""What an optimizer tells of itself: text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thalweg.engine.backends import c_run, toolchain, triton_run
from thalweg.engine.plan import BucketRun, Plan
from thalweg.engine.tables import Kind

if TYPE_CHECKING:
    import torch


def explain(plan: Plan | None, *, source: bool) -> str:
    """The buckets of the last step: backend, why it, tensors, passes; with `source`, what they run."""
    if plan is None:
        return "no step taken yet: backends are chosen in the first one"
    if not plan.runs:
        return "the last step found no gradients"
    lines = [
        _bucket(i, r) + (f"\n{_text(r.kind)}" if source else "") for i, r in enumerate(plan.runs)
    ]
    if any("(C)" in r.kind.backend for r in plan.runs):
        lines.append(toolchain.describe())
    return "\n".join(lines)


def _bucket(index: int, run: BucketRun) -> str:
    kind, b = run.kind, run.bucket
    groups = ", ".join(map(str, sorted(set(b.groups))))
    parts = " + ".join([kind.rule.name, *(s.name for s in kind.specs if not s.builtin)])
    stored = ", ".join(
        [
            *(f"{stream} {codec.name}" for stream, codec in kind.codecs.items()),
            *(f"{name} per {lane.name.lower()}" for name, lane in kind.graph.vectors.items()),
        ]
    )
    return (
        f"bucket {index}: {parts} on {kind.backend} ({kind.reason})\n"
        f"  {len(b.params)} tensors, {sum(b.numel):,} numbers on {kind.device}, groups {groups}\n"
        f"  {len(kind.programs)} pass{'es' if len(kind.programs) > 1 else ''}; stored: {stored}; "
        f"computed in {str(kind.compute).removeprefix('torch.')}"
    )


def _text(kind: Kind) -> str:
    writers = {c_run.name: c_run.source_of, triton_run.name: triton_run.source_of}
    kernel = writers[kind.backend](kind) if kind.backend in writers else ""
    return f"{kind.graph.text}\n{kernel}"


def summary(optimizer: torch.optim.Optimizer) -> str:
    """Defaults, groups and state, with bytes."""
    lines = [f"{type(optimizer).__name__}", "defaults: " + _values(optimizer.defaults)]
    for i, group in enumerate(optimizer.param_groups):
        numel = sum(p.numel() for p in group["params"])
        differs = {
            k: v
            for k, v in group.items()
            if k not in ("params", "param_names")
            and (k not in optimizer.defaults or not _same(v, optimizer.defaults[k]))
        }
        lines.append(
            f"group {i}: {len(group['params'])} tensors, {numel:,} elements"
            + (f"; {_values(differs)}" if differs else "")
        )
    held: dict[str, list[Any]] = {}
    for entries in optimizer.state.values():
        for key, x in entries.items():
            held.setdefault(key, []).append(x)
    lines += [f"state {key!r}: {_held(values)}" for key, values in held.items()]
    total = sum(t.nbytes for values in held.values() for t in _tensors(values))
    numel = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
    lines.append(
        f"state in all: {total:,} bytes, {total / max(numel, 1):.2f} per parameter element"
        if held
        else "state: none before the first step"
    )
    return "\n".join(lines)


def _held(values: list[Any]) -> str:
    """What the state holds under one key."""
    tensors = list(_tensors(values))
    if not tensors:
        return f"{len(values)} values, such as {values[0]!r}"
    dtypes = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors}))
    size = sum(t.nbytes for t in tensors)
    return f"{len(tensors)} tensors of {dtypes}, {size:,} bytes"


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple, dict)):
            yield from _tensors(x.values() if isinstance(x, dict) else x)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{k}={v.item() if isinstance(v, Tensor) and v.numel() == 1 else v}"
        for k, v in values.items()
    )


def _same(a: Any, b: Any) -> bool:
    return bool(a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b))
