"""Tables: buckets of tensors that share a kernel, and when what they hold has gone stale.

A bucket's table owns every tensor whose address it holds, except gradients. Each step everything is
checked again, by identity and by address; the checks run over whole lists at once, since ten thousand
tensors times a microsecond is more than a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.codecs import Codec, computing_dtype
from thalweg.engine.graph import Graph
from thalweg.engine.option import OptionSpec
from thalweg.engine.passes import Program
from thalweg.engine.rule import Group, Rule
from thalweg.engine.trace import Setting

# Methods of the C type, mapped over whole lists: a Python frame per tensor would double the cost.
_grad_of: Callable[[Tensor], Tensor | None] = vars(torch._C.TensorBase)["grad"].__get__
_dtype_of: Callable[[Tensor], torch.dtype] = vars(torch._C.TensorBase)["dtype"].__get__
_alive = weakref.ref.__call__
_address_of = Tensor.data_ptr
_stride_of = Tensor.stride
_device_of = Tensor.get_device


@dataclass(frozen=True, eq=False)
class Kind:
    """What the tensors of a bucket have in common.

    Args:
        rule, specs, setting: What was traced.
        graph: Lowered.
        programs: Its passes.
        codecs: Storage by stream: "param", "grad", then slots.
        parameter: The parameters' dtype.
        device: Where everything lies.
        layout: "dense" (one flat buffer), "strided" (anything else), "rows" (sparse gradients), "differentiable".
        backend: Name of the backend, and why it is that one.
        reason: For explain().
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

    @property
    def compute(self) -> torch.dtype:
        """What elements are computed in."""
        return computing_dtype(self.parameter)

    @property
    def slots(self) -> tuple[str, ...]:
        """Keys of the slots."""
        return tuple(self.codecs)[2:]


@dataclass(eq=False)
class Bucket:
    """Tensors that share a kernel, and their places in the optimizer.

    Args:
        kind: What they share.
        params, slots: The tensors, held.
        groups: Index of each one's group.
        order: Index of each one among all parameters of the optimizer.
        grads: This step's gradients, as laid out as the parameters; not held between steps.
        vectors: Per-parameter scalars by key ("step" among them), an element per tensor.
        first: Which states were created in this step.
    """

    kind: Kind
    params: list[Tensor] = field(default_factory=list)
    slots: dict[str, list[Tensor]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    first: list[bool] = field(default_factory=list)

    @cached_property
    def numel(self) -> list[int]:
        """Numbers in each tensor; a complex element is two."""
        return [p.numel() * (2 if p.is_complex() else 1) for p in self.params]

    @cached_property
    def row_count(self) -> list[int]:
        """Rows of each tensor (its first dimension)."""
        return [p.shape[0] if p.ndim else 1 for p in self.params]

    @cached_property
    def row_size(self) -> list[int]:
        """Numbers in a row of each tensor."""
        return [n // r if r else 0 for n, r in zip(self.numel, self.row_count, strict=True)]

    @cached_property
    def row_base(self) -> list[int]:
        """Where each tensor's rows begin among all rows of the bucket."""
        return exclusive_sums(self.row_count)

    @cached_property
    def row_tensor(self) -> Tensor:
        """Per row of the bucket, the index of its tensor."""
        counts = torch.tensor(self.row_count, device=self.kind.device)
        return torch.repeat_interleave(
            torch.arange(len(self.params), device=self.kind.device), counts
        )

    @cached_property
    def written(self) -> list[Tensor]:
        """Everything that the last pass may write: what autograd must learn of."""
        streams = set(self.kind.programs[-1].stores)
        lists = [
            self.params if name == "param" else self.slots[name]
            for name in ("param", *self.kind.slots)
            if name in streams
        ]
        return [x for tensors in lists for x in tensors]


def exclusive_sums(counts: Sequence[int]) -> list[int]:
    """Where each part begins if parts of these sizes stand one after another."""
    sums, total = [], 0
    for n in counts:
        sums.append(total)
        total += n
    return sums


class Watch:
    """Remembers what tables were built from and tells whether it still is so.

    Args:
        groups: The optimizer's groups.
        buckets: What was built.
    """

    def __init__(self, groups: Sequence[Group], buckets: Sequence[Bucket]) -> None:
        self.lists = [list(g["params"]) for g in groups]
        every = [p for params in self.lists for p in params]
        self.order = [i for b in buckets for i in b.order]
        self.params = [every[i] for i in self.order]
        active = set(self.order)
        self.idle = [p for i, p in enumerate(every) if i not in active]
        self.addresses = list(map(_address_of, self.params))
        self.dtypes = set(map(_dtype_of, self.params))
        grads = [g for g in map(_grad_of, self.params) if g is not None]
        self.is_strided = all(g.layout == torch.strided for g in grads)
        self.has_complex = any(g.is_complex() for g in grads)
        self.grad_kinds = self._kinds(grads) if self.is_strided else []
        self.refs = list(map(weakref.ref, grads))
        self.grad_addresses = list(map(_address_of, grads)) if self.is_strided else []

    def settle(self, state: Mapping[Tensor, Any], buckets: Sequence[Bucket]) -> None:
        """Remember the state, once it is published."""
        self.state = state
        self.state_keys, self.state_values = list(state), list(state.values())
        # One slot of each parameter stands for all: they are made, loaded and replaced together.
        self.slots = [
            (itemgetter(key), [state[p] for p in b.params], held, list(map(_address_of, held)))
            for b in buckets
            for key, held in list(b.slots.items())[:1]
        ]

    @staticmethod
    def _kinds(grads: list[Tensor]) -> list[list[Any]]:
        """What else than its address a kernel takes for granted of a gradient."""
        return [
            list(map(of, grads)) for of in (type, _dtype_of, _device_of, _stride_of, Tensor.is_neg)
        ]

    def parameters_hold(self, groups: Sequence[Group], state: Mapping[Tensor, Any]) -> bool:
        """Whether parameters, their addresses, and their slots are what they were."""
        if (
            len(groups) != len(self.lists)
            or state is not self.state
            or len(state) != len(self.state_keys)
        ):
            return False
        for group, params in zip(groups, self.lists, strict=True):
            now = group["params"]
            if len(now) != len(params) or not all(map(is_, now, params)):
                return False
        if list(map(_address_of, self.params)) != self.addresses or not self.dtypes.issuperset(
            map(_dtype_of, self.params)
        ):
            return False
        if not (
            all(map(is_, state, self.state_keys))
            and all(map(is_, state.values(), self.state_values))
        ):
            return False
        try:
            return all(
                all(map(is_, map(get, owners), held)) and list(map(_address_of, held)) == addresses
                for get, owners, held, addresses in self.slots
            )
        except KeyError:
            return False

    def gradients(self) -> tuple[list[Tensor], bool] | None:
        """The gradients, and whether their addresses are new; None if the tables do not fit them.

        Either they are the same objects, or each has the type, dtype, device and strides of the one before
        it: an allocator hands the next gradient the same address with other strides, so that an address
        proves nothing.
        """
        grads: list[Any] = list(map(_grad_of, self.params))
        if not self.is_strided or any(g is not None for g in map(_grad_of, self.idle)):
            return None
        if not all(map(is_, grads, map(_alive, self.refs))):
            try:
                if self._kinds(grads) != self.grad_kinds or (
                    self.has_complex and any(g.is_conj() for g in grads)
                ):
                    return None
            except (RuntimeError, TypeError, AttributeError):  # no gradient, or one without strides
                return None
            self.refs = list(map(weakref.ref, grads))
        addresses = list(map(_address_of, grads))
        moved, self.grad_addresses = addresses != self.grad_addresses, addresses
        return grads, moved
