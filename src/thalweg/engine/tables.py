"""Tables: buckets of tensors that share a kernel, and when what they hold has gone stale.

A bucket's table owns every tensor whose address it holds, except gradients. Each step everything is
checked again, by identity and by address; the checks run over whole lists at once, since ten thousand
tensors times a microsecond is more than a step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import is_, itemgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.engine.codecs import Codec, computing_dtype
from thalweg.engine.extents import Extents
from thalweg.engine.graph import Graph
from thalweg.engine.matrix import Stacks
from thalweg.engine.option import OptionSpec
from thalweg.engine.passes import Program
from thalweg.engine.rule import Group, Rule
from thalweg.engine.state import Scalars
from thalweg.engine.trace import Setting

# Methods of the C type, mapped over whole lists: a Python frame per tensor would double the cost.
_grad_of: Callable[[Tensor], Tensor | None] = vars(torch._C.TensorBase)["grad"].__get__
_address_of = Tensor.data_ptr
_stride_of = Tensor.stride


@dataclass(frozen=True, eq=False)
class Kind:
    """What the tensors of a bucket have in common.

    Args:
        rule, specs, setting: What was traced.
        graph: Lowered.
        programs: Its passes.
        codecs: Storage by stream: "param", "grad", slots, then what matrix functions work on.
        parameter: The parameters' dtype.
        device: Where everything lies.
        layout: "dense" (one flat buffer), "strided" (anything else), "rows" (of sparse gradients) or
            "differentiable".
        backend: Name of the backend, and why it is that one.
        reason: For explain().
        vectors: Storage of the slots with a number per line or column.
    """

    rule: Rule
    specs: tuple[OptionSpec, ...]
    setting: Setting
    graph: Graph
    programs: tuple[Program, ...]
    codecs: Mapping[str, Codec]
    parameter: torch.dtype
    device: torch.device
    layout: str
    backend: str
    reason: str
    vectors: Mapping[str, Codec] = field(default_factory=dict)

    @property
    def compute(self) -> torch.dtype:
        """What elements are computed in."""
        return computing_dtype(self.parameter)

    @property
    def slots(self) -> tuple[str, ...]:
        """Keys of the slots with a number per element."""
        return tuple(self.codecs)[2 : len(self.codecs) - len(self.graph.matrices)]


@dataclass(eq=False)
class Bucket:
    """Tensors that share a kernel, and their places in the optimizer.

    Args:
        kind: What they share.
        params, slots: The tensors, held; slots with a number per line or column too.
        groups: Index of each one's group.
        order: Index of each one among all parameters of the optimizer.
        grads: This step's gradients, as laid out as the parameters; not held between steps.
        scalars: Per-parameter scalars by key ("step" among them).
        matrices: What functions of whole matrices work on, by stream.
        first: Which states were created in this step.
    """

    kind: Kind
    params: list[Tensor] = field(default_factory=list)
    slots: dict[str, list[Tensor]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    scalars: dict[str, Scalars] = field(default_factory=dict)
    matrices: dict[str, Stacks] = field(default_factory=dict)
    first: list[bool] = field(default_factory=list)

    @cached_property
    def numel(self) -> list[int]:
        """Numbers in each tensor; a complex element is two."""
        return [p.numel() * (2 if p.is_complex() else 1) for p in self.params]

    @cached_property
    def extents(self) -> Extents:
        """How the tensors fall into rows, matrices, lines and columns."""
        parts = 2 if any(p.is_complex() for p in self.params) else 1
        return Extents([p.shape for p in self.params], self.kind.device, parts)

    def tensors(self, stream: str) -> list[Tensor]:
        """The tensors of a stream."""
        if stream in ("param", "grad"):
            return self.params if stream == "param" else self.grads
        return self.matrices[stream].tensors if stream in self.matrices else self.slots[stream]

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The buffer that all tensors of a slot are views of, for the slots that have one."""
        bases = {key: {id(x._base): x._base for x in held} for key, held in self.slots.items()}
        return {
            key: base
            for key, found in bases.items()
            for base in found.values()
            if len(found) == 1 and base is not None
        }

    def written(self, start: int = 0, stop: int | None = None) -> list[Tensor]:
        """What the last pass may write of these tensors: what autograd must learn of.

        Views share their base's version: a buffer stands for all of them, in whichever part.
        """
        if self.kind.layout == "differentiable":
            return []  # autograd sees it all
        written: list[Tensor] = []
        for stream in (*self.kind.programs[-1].stores, *self.kind.graph.kept):
            if stream in self.buffers:
                written.append(self.buffers[stream])
            else:
                written += (self.params if stream == "param" else self.slots[stream])[start:stop]
        return written


class Layouts:
    """Type, dtype, device, sizes, strides and dispatch of many tensors, compared in one call.

    torch's own guards (what `torch.compile` checks inputs with) take 50 ns a tensor; where they are not
    to be had, the same is asked tensor by tensor.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._guards = _guards(tensors)
        self._described = None if self._guards is not None else list(map(_describe, tensors))

    def hold(self, tensors: Sequence[Any]) -> bool:
        """Whether each of these is what the one in its place was."""
        if self._guards is not None:
            return bool(self._guards.check(*tensors))
        return None not in tensors and list(map(_describe, tensors)) == self._described


def _guards(tensors: Sequence[Tensor]) -> Any:
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes: Any = [list(x.size()) for x in tensors]
        strides: Any = [list(x.stride()) for x in tensors]
        return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError):
        return None  # a torch without them, or a tensor that they do not take


def _describe(x: Tensor) -> tuple[Any, ...]:
    strides = x.stride() if x.layout == torch.strided else None
    return type(x), x.dtype, x.device, x.shape, strides, x.is_neg(), x.is_conj()


Prefetch: TypeAlias = "Callable[[array[int]], None]"
"""Has cache lines brought near."""


def cache_lines(objects: Iterable[Any]) -> array[int]:
    """Where the cache lines of Python objects, and of the tensors behind them, begin."""
    starts: set[int] = set()
    for x in objects:
        stretches = [(id(x), 64)]
        if isinstance(x, Tensor) and x.layout == torch.strided:
            stretches += [(x._cdata, 192), (x.untyped_storage()._cdata, 64)]
        for start, size in stretches:
            starts.update(range(start // 64 * 64, start + size, 64))
    return array("q", sorted(starts))


class Block:
    """A few hundred tensors of a bucket, asked everything while they are still in the cache.

    After a forward and a backward pass none of them is: their cache lines are asked for all at once
    (gradients where the last ones were: an allocator gives out the same places again), instead of one
    miss after another.
    """

    SIZE = 256

    def __init__(
        self, bucket: Bucket, start: int, grads: Sequence[Tensor], prefetch: Prefetch
    ) -> None:
        stop = start + self.SIZE
        self.prefetch = prefetch
        self.grads = grads[start:stop]
        self.params = bucket.params[start:stop]
        self.addresses = list(map(_address_of, self.params))
        self.layouts, self.grad_layouts = Layouts(self.params), Layouts(grads[start:stop])
        self.slots = [x for held in bucket.slots.values() for x in held[start:stop]]
        self.slot_addresses = list(map(_address_of, self.slots))
        self.written = bucket.written(start, stop)
        self.owners: list[Mapping[str, Any]] = []
        self.entries: list[Any] = []
        keys = (*bucket.slots, *bucket.scalars)
        self.get = _getter(keys) if keys else None

    def settle(self, state: Mapping[Tensor, Any]) -> None:
        """Remember every entry that a kernel writes, or that is an element of a vector of counts."""
        if self.get is not None:
            self.owners = [state[p] for p in self.params]
            self.entries = list(chain.from_iterable(map(self.get, self.owners)))
        self.lines = cache_lines(chain(self.params, self.grads, self.slots, self.owners))
        self.grads = []  # not ours to keep alive

    def gradients(self) -> list[Tensor] | None:
        """The gradients, if parameters, state and gradients are what tables were built for.

        Each gradient must have the type, dtype, device, sizes and strides of the one before it: an
        allocator hands the next gradient the same address with other strides, so that an address
        proves nothing.
        """
        self.prefetch(self.lines)
        if list(map(_address_of, self.params)) != self.addresses:
            return None
        if not self.layouts.hold(self.params):
            return None
        grads: list[Any] = list(map(_grad_of, self.params))
        if not self.grad_layouts.hold(grads):
            return None
        if self.get is not None:
            found = chain.from_iterable(map(self.get, self.owners))
            if not all(map(is_, found, self.entries)):
                return None
        if list(map(_address_of, self.slots)) != self.slot_addresses:
            return None
        return grads


def with_gradient(groups: Sequence[Group]) -> bytes:
    """Which parameters have a gradient, a byte for each."""
    return bytes(p.grad is not None for group in groups for p in group["params"])


class Watch:
    """Remembers what tables were built from and tells whether it still is so.

    Args:
        groups: The optimizer's groups.
        buckets: What was built.
        grads: The gradients of each bucket, as they were.
        prefetches: How each bucket's backend prefetches.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        buckets: Sequence[Bucket],
        grads: Sequence[Sequence[Tensor]],
        prefetches: Sequence[Prefetch],
    ) -> None:
        self.lists = [list(g["params"]) for g in groups]
        active = {id(p) for b in buckets for p in b.params}
        self.idle = [p for params in self.lists for p in params if id(p) not in active]
        self.takes_any = all(g.layout == torch.strided for gs in grads for g in gs)
        self.blocks = [
            Block(b, start, gs, prefetch)
            for b, gs, prefetch in zip(buckets, grads, prefetches, strict=True)
            for start in range(0, len(b.params), Block.SIZE)
        ]
        self.grad_addresses = [g.data_ptr() for gs in grads for g in gs] if self.takes_any else []

    def settle(self, state: Mapping[Tensor, Any]) -> None:
        """Remember the state, once it is published."""
        self.state, self.state_values = state, list(state.values())
        for block in self.blocks:
            block.settle(state)

    def announce(self) -> None:
        """Kernels write behind autograd's back: a graph that saved what they write must know."""
        for block in self.blocks:
            torch.autograd.graph.increment_version(block.written)

    def gradients(
        self, groups: Sequence[Group], state: Mapping[Tensor, Any]
    ) -> tuple[list[Tensor], bool] | None:
        """This step's gradients, and whether their addresses are new; None if the tables do not fit."""
        if not self.takes_any or not self.knows(groups, state):
            return None
        if any(g is not None for g in map(_grad_of, self.idle)):
            return None
        grads: list[Tensor] = []
        addresses: list[int] = []
        try:
            for block in self.blocks:
                found = block.gradients()
                if found is None:
                    return None
                grads += found
                addresses += map(_address_of, found)
        except KeyError:  # an entry of the state is gone
            return None
        moved, self.grad_addresses = addresses != self.grad_addresses, addresses
        return grads, moved

    def knows(self, groups: Sequence[Group], state: Mapping[Tensor, Any]) -> bool:
        """Whether parameters and state are the objects that they were, whatever gradients there are."""
        if len(groups) != len(self.lists) or state is not self.state:
            return False
        if not all(
            same_objects(g["params"], held) for g, held in zip(groups, self.lists, strict=True)
        ):
            return False
        return same_objects(state.values(), self.state_values)


def _getter(keys: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Entries of these keys, as a tuple also where there is one."""
    if len(keys) > 1:
        return itemgetter(*keys)
    (key,) = keys
    return lambda entries: (entries[key],)


def same_objects(now: Collection[Any], held: Sequence[Any]) -> bool:
    """Whether these are the very objects, in order."""
    return len(now) == len(held) and all(map(is_, now, held))
