"""Plans: what a step runs. Nothing here can fail but by a signal; what can is in `prepare`.

A run publishes the new state, computes scalars, launches passes, and writes scalars back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from thalweg.engine.backends import Bound, Numbers, spread, upload
from thalweg.engine.graph import Lane, Node
from thalweg.engine.groups import Resolved, host_number, number, resolve
from thalweg.engine.rule import Group
from thalweg.engine.scalars import DeviceScalars, HostScalars
from thalweg.engine.state import counting_dtype
from thalweg.engine.sums import tree_sum
from thalweg.engine.tables import Bucket, Kind, Watch, same_objects, with_gradient
from thalweg.engine.trace import shared_scalars


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
        self.position = 0
        graph = self.kind.graph
        self.shared = shared_scalars(self.kind.rule, self.kind.specs)
        elsewhere = {*graph.streams, *graph.vectors}
        self.written = {n: x for n, x in graph.outputs.items() if n not in elsewhere}
        wanted = [[*bound.asks(i)] for i in range(len(self.kind.programs))]
        wanted.append([*self.written.values(), *bound.asks(-1)])
        self.device = [DeviceScalars([n for n in w if n.lane != Lane.HOST]) for w in wanted]
        below = [n for d in self.device for n in d.host]
        here = [n for w in wanted for n in w if n.lane == Lane.HOST]
        self.scalars = HostScalars(list(dict.fromkeys((*here, *below))))
        self.inputs = list(dict.fromkeys(n for d in self.device for n in d.inputs))
        self.host: dict[Node, Sequence[float]] = {}
        self.known: dict[Node, Tensor] = {}

    @property
    def steps(self) -> Tensor | None:
        """The step counts, if the bucket keeps any."""
        counts = self.bucket.scalars.get("step")
        return None if counts is None else counts.read()

    @property
    def has_outgrown(self) -> bool:
        """Whether some count has come to where its vector's dtype soon stops counting."""
        counts = self.bucket.scalars.get("step")
        largest = max((row.t for row in self.rows), default=0.0)
        return (
            counts is not None
            and counting_dtype(counts.vector.dtype, largest) != counts.vector.dtype
        )

    def take(self, grads: list[Tensor], moved: bool) -> None:
        """Use these gradients in this step; those of another layout are copied to the parameter's."""
        self.bucket.grads[:] = grads
        for i, buffer in self.relaid.items():
            buffer.copy_(grads[i].to_dense() if grads[i].layout != torch.strided else grads[i])
            self.bucket.grads[i] = buffer
        if moved:
            self.bound.take_gradients()

    def ready(self, groups: Sequence[Group]) -> None:
        """Read every number of the groups and compute every host scalar: what can fail, before any write."""
        self.position = 0
        self._number_rows()
        by_row = [self.scalars(_reader(groups[row.group], row, self.kind)) for row in self.rows]
        self.host = (
            dict(zip(self.scalars.wanted, zip(*by_row, strict=True), strict=True))
            if self.scalars.wanted
            else {}
        )
        self.known = {n: self._device_input(n, groups) for n in self.inputs}
        self.known |= {
            n: spread(self.host[n], self.row_of, self.kind.device)
            for d in self.device
            for n in d.host
        }

    def _number_rows(self) -> None:
        """Give each tensor its row of scalars; rows hold as long as counts go up by one together."""
        steps, known = self.steps, self.expected
        if self.rows and (steps is None or (known is not None and torch.equal(steps, known))):
            return
        counts = [1.0] * len(self.bucket.params)
        if steps is not None and "t" not in self.kind.setting.on_device:
            counts = [t + 1.0 for t in steps.tolist()]
        places: dict[tuple[int, float, bool], int] = {}
        keys = zip(self.bucket.groups, counts, self.bucket.first, strict=True)
        self.row_of = [places.setdefault(key, len(places)) for key in keys]
        self.rows = [Row(*key) for key in places]

    def _numbers(self, index: int) -> Numbers:
        device = self.device[index](self.known, self.bucket.extents)
        return Numbers(self.row_of, self.host, device, self.kind.device)

    def advance(self, *, writes: bool) -> list[tuple[Node, Tensor]]:
        """Run passes until one adds up a share of a sum over all tensors, and return the shares.

        Args:
            writes: Whether the last pass, which writes, may run.
        """
        shares: list[tuple[Node, Tensor]] = []
        while not shares and self.position < len(self.kind.programs) - (not writes):
            index, self.position = self.position, self.position + 1
            sums = self.bound.run(index, self._numbers(index))
            for node, x in zip(self.kind.programs[index].reductions, sums, strict=True):
                if node.attr[0] == "all":
                    shares.append((node, x))
                else:
                    self.known[node] = x
            for m in self.kind.programs[index].matrices:
                self.bucket.matrices[m.stream].apply(m.call)
        return shares

    def finish(self, groups: Sequence[dict[str, Any]]) -> None:
        """Write the scalars, and what the backend keeps per line or column."""
        numbers = self._numbers(-1)
        self.bound.finish(numbers)
        count = len(self.row_of)
        for name, node in self.written.items():
            if name in self.shared:
                self._share(name, node, numbers, groups)
            elif node.lane != Lane.HOST:
                self.bucket.scalars[name].write(numbers.device[node].expand(count))
            elif node.op != "input":  # the plain count is added below
                values = [numbers.of(node, i) for i in range(count)]
                scalars = self.bucket.scalars[name]
                scalars.write(upload(values, torch.float64, scalars.vector.device))
        self._count()
        self.known = {}  # vectors are not kept between steps
        self.bucket.first = [False] * count

    def _share(
        self, name: str, node: Node, numbers: Numbers, groups: Sequence[dict[str, Any]]
    ) -> None:
        """Write a group's scalar into it, and an optimizer's into groups without gradients too."""
        found = {g: numbers.of(node, i) for i, g in enumerate(self.bucket.groups)}
        if self.shared[name][1].scope == "optimizer":
            others = [i for i, g in enumerate(groups) if name in g]
            found = dict.fromkeys(others, next(iter(found.values()))) | found
        for g, x in found.items():
            on_device = isinstance(x, Tensor) and x.device.type != "cpu"
            groups[g][name] = torch.clone(cast("Tensor", x)) if on_device else float(x)

    def _count(self) -> None:
        """Count the step, and keep the rows if all counts went up together."""
        counts, self.expected = self.bucket.scalars.get("step"), None
        plainly = counts is not None and self.written["step"].op == "input"
        if any(r.first for r in self.rows) or (counts is not None and not plainly):
            self.rows = []
        if counts is not None and plainly:
            counts.increment()
            self.expected = counts.read().clone()
            self.rows = [Row(r.group, r.t + 1.0, r.first) for r in self.rows]

    def _device_input(self, node: Node, groups: Sequence[Group]) -> Tensor:
        """A vector that only the device knows: a count, a scalar of the state, a tensor of the group."""
        kind, name = node.attr
        bucket, device = self.bucket, self.kind.device
        if kind == "slot":
            return torch.cat([x.view(-1) for x in bucket.slots[name]]).double()
        if kind == "t":
            return bucket.scalars["step"].read().double() + 1.0
        if kind == "scalar":
            x = bucket.scalars[name].read()
            # What autograd saves of it must outlast the write at the end of the step.
            return x.clone() if self.kind.layout == "differentiable" else x
        if kind == "count":
            size = bucket.extents.size
            counts = {
                "tensor": bucket.numel,
                "row": size[Lane.ROW],
                "-1": size[Lane.LINE],
                "-2": size[Lane.COLUMN],
                "all": [self.total],
            }[name]
            return upload(counts, torch.float64, device)
        used = dict.fromkeys(bucket.groups)
        place = {g: i for i, g in enumerate(used)}
        numbers = [number(groups[g], name) for g in used]
        values = [
            x.to(device).reshape(()).double()
            if isinstance(x, Tensor)
            else upload(x, torch.float64, device)
            for x in numbers
        ]
        if len(values) == 1:
            return values[0].reshape(1)
        return torch.stack(values)[upload([place[g] for g in bucket.groups], torch.int64, device)]


def _is_frozen(x: Any) -> bool:
    """Whether it cannot change while it is the same object."""
    if isinstance(x, tuple):
        return all(map(_is_frozen, x))
    return x is None or isinstance(x, (bool, int, float, str))


def _reader(group: Group, row: Row, of: Kind) -> Callable[[tuple[str, str]], float]:
    def read(source: tuple[str, str]) -> float:
        kind, name = source
        if kind == "hyper":
            owners = [("", of.rule), *((spec.name, spec) for spec in of.specs)]
            return host_number(group, name, owners, of.parameter)
        return {"t": row.t, "first": float(row.first)}[kind]

    return read


Share: TypeAlias = tuple[BucketRun, Node, Tensor]
"""A bucket's results, per tensor, of a reduction over all tensors."""


class Plan:
    """Everything that a step needs, as long as nothing it was built from changes."""

    def __init__(self, runs: list[BucketRun], watch: Watch, resolved: list[Resolved]) -> None:
        self.runs, self.watch, self.resolved = runs, watch, resolved
        self.seen: list[tuple[list[str], list[Any]]] = [([], [])] * len(resolved)
        self.frozen = [True] * len(resolved)
        self.settled = False
        total = sum(sum(r.bucket.numel) for r in runs)
        for r in runs:
            r.total = total
        self.shares = Counter(
            node.attr[1]
            for r in runs
            for program in r.kind.programs
            for node in program.reductions
            if node.attr[0] == "all"
        )
        """How many buckets have a share in each sum over all tensors."""

    def fits(self, groups: Sequence[Group], state: Mapping[Tensor, Any]) -> bool:
        """Check everything, and take this step's gradients if it still fits."""
        if not all(map(self._group_holds, range(len(groups)), groups)):
            return False
        if any(r.has_outgrown for r in self.runs):
            return False
        found = self.watch.gradients(groups, state)
        if found is None:
            return False
        grads, moved = found
        start = 0
        for r in self.runs:
            stop = start + len(r.bucket.params)
            r.take(grads[start:stop], moved)
            start = stop
        return True

    def _group_holds(self, index: int, group: Group) -> bool:
        """Whether a group means what it meant; it is read again only if some value is another object."""
        keys, values = self.seen[index]
        if not self.frozen[index]:
            return resolve(group) == self.resolved[index]
        if same_objects(group, keys) and same_objects(group.values(), values):
            return True
        self.seen[index] = list(group), list(group.values())
        self.frozen[index] = all(_is_frozen(x) for key, x in group.items() if key != "params")
        return resolve(group) == self.resolved[index]

    def settle(self, state: Mapping[Tensor, Any]) -> None:
        """The new state is the optimizer's, and autograd is told of what will be written."""
        if not self.settled:
            self.watch.settle(state)
            self.settled = True
        self.watch.announce()

    def ready(self, groups: Sequence[Group]) -> None:
        """Compute every scalar that is known beforehand; the last thing that can fail."""
        for r in self.runs:
            r.ready(groups)

    def run(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take the step.

        A bucket runs pass after pass; one that has added up its share of a sum over all tensors waits
        until every bucket has: buckets reach the same sum in passes of different numbers.
        """
        shares: dict[str, list[Share]] = {}
        waiting: set[BucketRun] = set()
        # First everything but the passes that write: a function of whole matrices is a user's, and may fail.
        for writes in (False, True):
            movers = [r for r in self.runs if r not in waiting]
            while movers:
                for r in movers:
                    for node, x in r.advance(writes=writes):
                        shares.setdefault(node.attr[1], []).append((r, node, x))
                whole = [tag for tag, found in shares.items() if len(found) == self.shares[tag]]
                joined = dict.fromkeys(r for tag in whole for r in _join(shares.pop(tag)))
                waiting = {r for found in shares.values() for r, _, _ in found}
                movers = [r for r in joined if r not in waiting]
        for r in self.runs:
            r.finish(groups)
            r.bucket.grads.clear()  # gradients are not ours to keep alive


class Plans:
    """An optimizer's plans: one for each set of parameters with a gradient that it met of late.

    With experts that are chosen, or layers that are dropped, the set is another one in most steps.
    """

    LIMIT = 8

    def __init__(self) -> None:
        self.last: Plan | None = None
        self.by_set: dict[bytes, Plan] = {}

    def find(self, groups: Sequence[Group], state: Mapping[Tensor, Any]) -> Plan | None:
        """The plan that fits, with this step's gradients taken."""
        if self.last is None or self.last.fits(groups, state):
            return self.last
        key = with_gradient(groups)
        found = self.by_set.pop(key, None) if self.last.watch.knows(groups, state) else self.last
        if found is None:
            return None
        if found is self.last or not found.fits(groups, state):
            self.by_set.clear()  # it is not the set that changed: no plan is worth keeping
            return None
        self.last = self.by_set[key] = found  # the latest stands last
        return found

    def keep(self, plan: Plan, groups: Sequence[Group]) -> None:
        """Remember a new plan, and forget the oldest of too many."""
        self.last = plan
        if any(r.bucket.matrices for r in plan.runs):
            self.by_set.clear()  # room for all matrices is held by one plan at most
        if plan.watch.takes_any:
            self.by_set[with_gradient(groups)] = plan
        if len(self.by_set) > self.LIMIT:
            del self.by_set[next(iter(self.by_set))]


def _join(shares: list[Share]) -> list[BucketRun]:
    """Add up per-tensor results of every bucket, in the order of the parameters; return the buckets."""
    home = shares[0][2].device
    every = torch.cat([x.to(home) for _, _, x in shares])
    order = upload([i for r, _, _ in shares for i in r.bucket.order], torch.int64, home)
    total = tree_sum(every[order.argsort()], shares[0][1].op).reshape(1)
    for r, node, x in shares:
        r.known[node] = total.to(x.device)
    return [r for r, _, _ in shares]
