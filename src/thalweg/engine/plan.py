"""Plans: what a step runs. Nothing here can fail but by a signal; what can is in `prepare`.

A run publishes the new state, computes scalars, launches passes, and writes scalars back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import Bound, Numbers
from thalweg.engine.graph import Lane, Node
from thalweg.engine.groups import Resolved, number, resolve
from thalweg.engine.rule import Group
from thalweg.engine.scalars import DeviceScalars, HostScalars, tree_sum
from thalweg.engine.tables import Bucket, Kind, Watch


@dataclass(eq=False)
class Row:
    """A row of host scalars: a group, a step count, and whether state is new."""

    group: int
    t: float
    first: bool


class BucketRun:
    """A bucket, its backend's tables, and its scalar lane."""

    total = 0
    """Numbers in all tensors of the step."""

    def __init__(self, bucket: Bucket, bound: Bound, relaid: dict[int, Tensor]) -> None:
        self.bucket, self.kind = bucket, bucket.kind
        self.bound, self.relaid = bound, relaid
        self.row_of: list[int] = []
        self.rows: list[Row] = []
        self.expected: Tensor | None = None
        self.reduced: dict[Node, Tensor] = {}
        self.lanes = [Lanes(self.kind, [*p.columns, *p.row_columns]) for p in self.kind.programs]
        self.written = {
            n: x for n, x in self.kind.graph.outputs.items() if n not in self.kind.graph.streams
        }
        self.last = Lanes(self.kind, list(self.written.values()))

    @property
    def steps(self) -> Tensor | None:
        """The step counts, if the bucket keeps any."""
        return self.bucket.vectors.get("step")

    def take(self, grads: list[Tensor], moved: bool) -> None:
        """Use these gradients in this step; those of another layout are copied to the parameter's."""
        self.bucket.grads[:] = grads
        for i, buffer in self.relaid.items():
            buffer.copy_(grads[i].to_dense() if grads[i].layout != torch.strided else grads[i])
            self.bucket.grads[i] = buffer
        if moved:
            self.bound.take_gradients()

    def number_rows(self) -> None:
        """Give each tensor its row of scalars; rows hold as long as counts go up by one together."""
        steps, known = self.steps, self.expected
        if self.rows and (steps is None or (known is not None and torch.equal(steps, known))):
            return
        on_host = steps is not None and "t" not in self.kind.setting.on_device
        counts = (
            [t + 1.0 for t in steps.tolist()]
            if on_host and steps is not None
            else [1.0] * len(self.bucket.params)
        )
        places: dict[tuple[int, float, bool], int] = {}
        self.row_of = [
            places.setdefault(key, len(places))
            for key in zip(self.bucket.groups, counts, self.bucket.first, strict=True)
        ]
        self.rows = [Row(*key) for key in places]

    def numbers(self, index: int, groups: Sequence[Group]) -> Numbers:
        """The scalars of a pass."""
        return self.lanes[index].numbers(self, groups)

    def run(self, index: int, groups: Sequence[Group]) -> list[tuple[Node, Tensor]]:
        """Run a pass; keep what it reduced, and return what must be joined over all tensors."""
        program = self.kind.programs[index]
        sums = self.bound.run(index, self.numbers(index, groups))
        joined = []
        for node, x in zip(program.reductions, sums, strict=True):
            if node.attr[0] == "all":
                joined.append((node, x))
            else:
                self.reduced[node] = x
        return joined

    def finish(self, groups: Sequence[Group]) -> None:
        """Write the scalars; tell autograd what was written."""
        numbers = self.last.numbers(self, groups)
        count = len(self.row_of)
        fresh = {}
        for name, node in self.written.items():
            if node.lane == Lane.HOST and name != "step":
                fresh[name] = torch.tensor(
                    [numbers.of(node, i) for i in range(count)], dtype=torch.float64
                )
            elif node.lane != Lane.HOST:
                fresh[name] = numbers.device[node]
        for name, x in fresh.items():
            self.bucket.vectors[name].copy_(x.expand(count))
        self._count(fresh)
        self.bucket.first = [False] * count
        if self.kind.layout != "differentiable":
            torch.autograd.graph.increment_version(self.bucket.written)

    def _count(self, fresh: Mapping[str, Tensor]) -> None:
        if self.steps is None:
            self.rows = (
                [Row(r.group, r.t, False) for r in self.rows]
                if len({r.group for r in self.rows}) == len(self.rows)
                else []
            )
        elif "step" in fresh:
            self.rows = []  # whether it counted depends on a reduction: look again
        else:
            self.steps.add_(1.0)
            self.expected = self.steps.clone()
            self.rows = [Row(r.group, r.t + 1.0, False) for r in self.rows]


class Lanes:
    """The scalar lane below some wanted nodes, host and device."""

    def __init__(self, kind: Kind, wanted: list[Node]) -> None:
        on_host = [n for n in wanted if n.lane == Lane.HOST]
        self.device = DeviceScalars([n for n in wanted if n.lane != Lane.HOST])
        self.host = HostScalars(list(dict.fromkeys((*on_host, *self.device.host))))
        self.kind = kind

    def numbers(self, run: BucketRun, groups: Sequence[Group]) -> Numbers:
        """This step's values."""
        by_row = [self.host(_reader(groups[row.group], row)) for row in run.rows]
        columns = list(zip(*by_row, strict=True)) if self.host.wanted else []
        host = dict(zip(self.host.wanted, columns, strict=True))
        device: dict[Node, Tensor] = {}
        if self.device.wanted:
            known = {n: self._per_tensor(host[n], run.row_of) for n in self.device.host}
            known |= {n: _device_input(n, run, groups) for n in self.device.inputs}
            known |= run.reduced
            device = self.device(known, lambda: run.bucket.row_tensor)
        return Numbers(run.row_of, host, device)

    def _per_tensor(self, values: Sequence[float], row_of: Sequence[int]) -> Tensor:
        x = torch.tensor(values, dtype=torch.float64, device=self.kind.device)
        return x if len(values) == 1 else x[torch.tensor(row_of, device=self.kind.device)]


def _reader(group: Group, row: Row) -> Callable[[tuple[str, str]], float]:
    def read(source: tuple[str, str]) -> float:
        kind, name = source
        if kind == "hyper":
            return float(number(group, name))
        return row.t if kind == "t" else float(row.first)

    return read


def _device_input(node: Node, run: BucketRun, groups: Sequence[Group]) -> Tensor:
    kind, name = node.attr
    bucket = run.bucket
    device = bucket.kind.device
    if kind == "t":
        assert run.steps is not None
        return run.steps.double() + 1.0
    if kind == "scalar":
        return bucket.vectors[name].double()
    if kind == "count":
        counts = {"tensor": bucket.numel, "row": bucket.row_size, "all": [run.total]}[name]
        return torch.tensor(counts, dtype=torch.float64, device=device)
    values = [
        torch.as_tensor(number(groups[g], name), device=device).reshape(()).double()
        for g in dict.fromkeys(bucket.groups)
    ]
    if len(values) == 1:
        return values[0].reshape(1)
    place = {g: i for i, g in enumerate(dict.fromkeys(bucket.groups))}
    return torch.stack(values)[torch.tensor([place[g] for g in bucket.groups], device=device)]


class Plan:
    """Everything that a step needs, as long as nothing it was built from changes."""

    def __init__(self, runs: list[BucketRun], watch: Watch, resolved: list[Resolved]) -> None:
        self.runs, self.watch, self.resolved = runs, watch, resolved
        total = sum(sum(r.bucket.numel) for r in runs)
        for r in runs:
            r.total = total
        self.passes = max((len(r.kind.programs) for r in runs), default=0)

    def fits(self, groups: Sequence[Group], state: Mapping[Tensor, Any]) -> bool:
        """Check everything, and take this step's gradients if it still fits."""
        if not self.watch.parameters_hold(groups, state):
            return False
        if any(resolve(g) != r for g, r in zip(groups, self.resolved, strict=True)):
            return False
        found = self.watch.gradients()
        if found is None:
            return False
        grads, moved = found
        start = 0
        for r in self.runs:
            stop = start + len(r.bucket.params)
            r.take(grads[start:stop], moved)
            start = stop
        return True

    def settle(self, state: Mapping[Tensor, Any]) -> None:
        """The new state is the optimizer's."""
        self.watch.settle(state, [r.bucket for r in self.runs])

    def run(self, groups: Sequence[Group]) -> None:
        """Take the step."""
        for r in self.runs:
            r.number_rows()
        for index in range(self.passes):
            parts = [
                (r, *found)
                for r in self.runs
                if index < len(r.kind.programs)
                for found in r.run(index, groups)
            ]
            self._join(parts)
        for r in self.runs:
            r.finish(groups)
            r.bucket.grads.clear()  # gradients are not ours to keep alive

    def _join(self, parts: list[tuple[BucketRun, Node, Tensor]]) -> None:
        """Reductions over all tensors: per-tensor results of every bucket, in the order of the parameters."""
        tags = dict.fromkeys(node.attr[1] for _, node, _ in parts)
        for tag in tags:
            mine = [(r, node, x) for r, node, x in parts if node.attr[1] == tag]
            home = mine[0][2].device
            every = torch.cat([x.to(home) for _, _, x in mine])
            order = [i for r, _, _ in mine for i in r.bucket.order]
            total = tree_sum(
                every[torch.tensor(order, device=home).argsort()], mine[0][1].op
            ).reshape(1)
            for r, node, x in mine:
                r.reduced[node] = total.to(x.device)
