"""Groups as the engine reads them: which rule, options, switches and numbers a group of parameters has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.graph import Graph
from thalweg.engine.lower import lower
from thalweg.engine.option import OPTIONS, OptionSpec, find_option
from thalweg.engine.passes import Program, split
from thalweg.engine.rule import Declared, Group, Rule, Slot, find_rule
from thalweg.engine.trace import Setting, active_slots, hyper_key, trace
from thalweg.errors import StepError, TraceError

TORCH_KEYS = ("decoupled_weight_decay",)
"""Keys of torch's groups that steer a built-in option."""
TRAINING = "train_mode"
"""Key of a group that averages: False while its parameters hold the averages."""


@dataclass(frozen=True)
class Resolved:
    """A group's rule, options and switches, and which of its numbers only the device knows."""

    rule: Rule
    specs: tuple[OptionSpec, ...]
    switches: tuple[tuple[str, str, Any], ...]
    by_ndim: tuple[tuple[str, str, int], ...]
    tensors: frozenset[str]

    def setting(self, p: Tensor, on_device: frozenset[str]) -> Setting:
        """What to trace for a parameter of this group."""
        switches: dict[tuple[str, str], Any] = {
            (label, name): value for label, name, value in self.switches
        }
        switches |= {(label, name): p.ndim >= least for label, name, least in self.by_ndim}
        return Setting(switches, on_device)

    def labelled(self) -> Iterator[tuple[str, Declared]]:
        """The rule and the options, with the label that their names have in groups and state."""
        yield "", self.rule
        for spec in self.specs:
            yield spec.name, spec


def resolve(group: Group) -> Resolved:
    """Read a group: cheap, since every step does it for every group."""
    rule, specs = _declared(group["rule"], tuple(group["options"]))
    switches, by_ndim = [], []
    for label, owner in [("", rule), *((s.name, s) for s in specs)]:
        for s in owner.switches:
            if s.min_ndim is not None:
                by_ndim.append((label, s.name, s.min_ndim))
            elif s.read is not None:
                switches.append((label, s.name, s.read(group)))
            else:
                value = group.get(f"{label}_{s.name}" if label else s.name, s.default)
                switches.append((label, s.name, tuple(value) if isinstance(value, list) else value))
    return Resolved(rule, specs, tuple(switches), tuple(by_ndim), _tensor_numbers(group))


def _declared(rule: str, options: tuple[str, ...]) -> tuple[Rule, tuple[OptionSpec, ...]]:
    builtin = [spec for spec in OPTIONS.values() if spec.builtin and spec.name not in options]
    return find_rule(rule), tuple(
        sorted((*builtin, *map(find_option, options)), key=lambda s: s.name)
    )


def _tensor_numbers(group: Group) -> frozenset[str]:
    """Keys of numbers that must not be read on the host: device tensors, and what autograd differentiates."""
    found = []
    for key, value in group.items():
        if key == "params":
            continue
        for name, x in (
            [(key, value)]
            if not isinstance(value, tuple)
            else [(f"{key}[{i}]", v) for i, v in enumerate(value)]
        ):
            if isinstance(x, Tensor) and (
                x.device.type != "cpu" or (x.requires_grad and group.get("differentiable"))
            ):
                found.append(name)
    return frozenset(found)


def number(group: Group, key: str) -> Any:
    """A group's number by the name that graphs have for it: "lr", "betas[0]".

    Raises:
        StepError: It is not there any more.
    """
    name, _, index = key.partition("[")
    try:
        return group[name][int(index[:-1])] if index else group[name]
    except (KeyError, IndexError, TypeError):
        raise StepError(
            f"a group has no {key!r} any more ({name}={group.get(name)!r}); put a number back"
        ) from None


def host_number(
    group: Group, key: str, owners: Iterable[tuple[str, Declared]], dtype: torch.dtype
) -> float:
    """A group's number as the host computes with it; None is what its declaration says.

    Args:
        group: The group.
        key: The number's name in graphs.
        owners: The rule and the options, by label.
        dtype: The parameter's.
    """
    value = number(group, key)
    if value is None:
        hypers = {hyper_key(h, label): h for label, owner in owners for h in owner.hypers}
        stands_for = hypers[key].none if key in hypers else None
        if stands_for is not None:
            return stands_for(dtype)
    return as_float(value, key)


def as_float(value: Any, key: str) -> float:
    """A group's number as the host computes with it.

    Raises:
        StepError: It is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise StepError(f"a group's {key!r} is {value!r}; it must be a number") from None


def initial_value(owner: Declared, label: str, init: float | str, group: Group) -> float:
    """What a slot or scalar begins as: a number, or that of the group whose name it is."""
    if not isinstance(init, str):
        return init
    hypers = {h.name: h for h in owner.hypers}
    return as_float(number(group, hyper_key(hypers[init], label) if init != "lr" else "lr"), init)


_graphs: dict[Any, tuple[Graph, tuple[Program, ...]]] = {}


def graph_of(resolved: Resolved, setting: Setting) -> tuple[Graph, tuple[Program, ...]]:
    """The lowered graph and its passes, made once per setting."""
    key = (
        resolved.rule,
        resolved.specs,
        tuple(sorted(setting.switches.items(), key=repr)),
        setting.on_device,
    )
    if key not in _graphs:
        graph, again = (lower(trace(resolved.rule, resolved.specs, setting)) for _ in range(2))
        if (
            graph != again
        ):  # a random number, or a counter, would be frozen as it was in the first trace
            raise TraceError(
                f"{resolved.rule.name} computes something else each time it is called (a random number, or "
                "a function for matrix() that is made anew): it is called once, to be recorded, and may "
                "depend on its arguments alone"
            )
        _graphs[key] = graph, split(graph)
    return _graphs[key]


def wanted_slots(
    resolved: Resolved, setting: Setting, group: Group, p: Tensor
) -> dict[str, tuple[Slot, torch.dtype, float | str]]:
    """A parameter's slots by key: what was declared, the dtype to store it in, its initial value."""
    chosen = group.get("state_dtype")
    stored = p.dtype if chosen is None or p.is_complex() else getattr(torch, chosen)
    wanted = {}
    for label, owner in resolved.labelled():
        for key, slot in active_slots(owner, label, setting.switches).items():
            init = slot.init
            if init not in ("param", "grad"):
                init = initial_value(owner, label, init, group)
            # A copy of the weights is never stored in less than they are, an average in less than float32:
            # what 1 - decay adds to it would round away.
            is_copy = init == "param" or slot.follows is not None
            dtype = torch.promote_types(p.dtype, stored) if is_copy else stored
            if isinstance(owner, OptionSpec) and owner.averages == slot.name:
                dtype = torch.promote_types(dtype, torch.float32)
            wanted[key] = slot, dtype, init
    return wanted
