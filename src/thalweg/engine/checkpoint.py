"""Checkpoints: torch's layout, the constructor's rule and options, and copies of every tensor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.averages import WEIGHTS, check_weights
from thalweg.engine.groups import TORCH_KEYS, TRAINING, resolve, wanted_slots
from thalweg.engine.option import OPTIONS
from thalweg.engine.prepare import parameter_name
from thalweg.engine.rule import RULES, Group, Rule, Slot
from thalweg.engine.trace import shared_scalars
from thalweg.errors import CheckpointError

OWN_KEYS = ("rule", "options", "state_dtype", "decay_style", "decay_cautious")
"""What the constructor decides, whatever a checkpoint says."""


def check_groups(groups: Sequence[Group], given: Mapping[str, Any], *, strict: bool) -> None:
    """Refuse a checkpoint of another rule or of other options; torch's, which names none, is welcome.

    Args:
        groups: The optimizer's.
        given: The checkpoint.
        strict: Whether to look at all.

    Raises:
        CheckpointError: It differs, or steps were taken and a number that groups share is not there.
    """
    if not strict:
        return
    for i, (own, theirs) in enumerate(zip(groups, given["param_groups"], strict=False)):
        for key, what in (("rule", "rule"), ("options", "options")):
            if key not in theirs:
                continue
            mine, other = _plain(own[key]), _plain(theirs[key])
            if key == "options":
                other = tuple(sorted({*other, *_of_wrappers(own, theirs)}))
            if mine != other:
                raise CheckpointError(
                    f"the checkpoint's group {i} has {what} {_said(other)} and this optimizer {_said(mine)}"
                    f"{_difference(mine, other)}: make the optimizer as it was when it was saved, or "
                    "load with strict=False to keep this one's"
                )
        resolved = resolve(own)
        for key in shared_scalars(resolved.rule, resolved.specs) if given["state"] else ():
            if theirs.get(key) is None:
                raise CheckpointError(
                    f"the checkpoint's group {i} has no {key!r}, which goes with the state: it is another "
                    "optimizer's; load with strict=False to begin it anew"
                )


def _numbers_of_another(own: Group, theirs: Mapping[str, Any]) -> list[str]:
    """Keys of a group that names no rule, torch's, which are numbers of other rules and not of ours."""
    if "rule" in theirs:
        return []
    return sorted(_numbers().intersection(theirs) - set(own))


def _numbers() -> set[str]:
    """Keys of the numbers and switches of every rule that is known."""
    hypers = {h.place()[0] for rule in RULES.values() for h in rule.hypers}
    return hypers | {s.name for rule in RULES.values() for s in rule.switches if not s.is_derived}


def _of_wrappers(own: Group, theirs: Mapping[str, Any]) -> list[str]:
    """Options of ours whose numbers a checkpoint has without naming them: those were a wrapper's."""
    return [
        name
        for name in own["options"]
        if name not in theirs["options"]
        and (keys := {h.place(name)[0] for h in OPTIONS[name].hypers if not h.derived})
        and keys <= theirs.keys()
    ]


def check_keys(groups: Sequence[Group], given: Mapping[str, Any]) -> None:
    """Refuse numbers that this optimizer has not, and another has: torch's AdamW's have `eps`, Lion none.

    Raises:
        CheckpointError: There are some.
    """
    for i, (own, theirs) in enumerate(zip(groups, given["param_groups"], strict=False)):
        if foreign := _numbers_of_another(own, theirs):
            raise CheckpointError(
                f"the checkpoint's group {i} has {', '.join(map(repr, foreign))}, and this optimizer has no "
                "such number: it is another optimizer's; load with strict=False to keep this one's numbers"
            )


def check_lengths(groups: Sequence[Group], given: Mapping[str, Any]) -> None:
    """Refuse a key that holds more numbers, or fewer, than here: another optimizer's betas.

    Raises:
        CheckpointError: There is one.
    """
    for i, (own, theirs) in enumerate(zip(groups, given["param_groups"], strict=False)):
        for key in _of_another_kind(own, theirs):
            here = f"{len(own[key])} numbers" if isinstance(own[key], tuple) else f"{own[key]!r}"
            raise CheckpointError(
                f"the checkpoint's group {i} has {key}={theirs[key]!r}, where this optimizer has {here}: it "
                "is another optimizer's; load with strict=False to keep this one's"
            )


def _of_another_kind(own: Group, theirs: Mapping[str, Any]) -> list[str]:
    """Keys that hold several numbers on one side and one, or another number of them, on the other."""
    resolved = resolve(own)
    declared = {h.place(label)[0] for label, x in resolved.labelled() for h in x.hypers}
    declared |= {s.name for s in resolved.rule.switches}
    return [
        key for key in own if key in declared and key in theirs and not _fits(own[key], theirs[key])
    ]


def _fits(own: Any, theirs: Any) -> bool:
    lengths = [len(x) if isinstance(x, (tuple, list)) else None for x in (own, theirs)]
    return lengths[0] == lengths[1]


def _plain(value: Any) -> Any:
    """Options without their order; a rule's name without which declaration of it it is."""
    return (
        tuple(sorted(value)) if isinstance(value, (list, tuple)) else str(value).partition("#")[0]
    )


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"[{', '.join(value)}]" if value else "none"


def _difference(mine: Any, other: Any) -> str:
    if isinstance(mine, str):
        return ""
    missing, extra = sorted(set(other) - set(mine)), sorted(set(mine) - set(other))
    parts = [f"missing here: {', '.join(missing)}"] * bool(missing) + [
        f"only here: {', '.join(extra)}"
    ] * bool(extra)
    return f" ({'; '.join(parts)})"


def merged_group(own: Group, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved group as this optimizer takes it: its numbers, the constructor's rule, options, storage.

    Numbers that were meant for another rule stay behind: Lion at AdamW's lr would not train.
    """
    options = tuple(own["options"])
    foreign = {
        f"{name}_{argument}"
        for name in saved.get("options", ())
        if name in OPTIONS and name not in options
        for argument in OPTIONS[name].arguments()
    }
    others = _numbers_of_another(own, saved)
    if others or _plain(saved.get("rule", own["rule"])) != _plain(own["rule"]):
        meant = _numbers() | foreign | {*OWN_KEYS, *TORCH_KEYS, TRAINING}
        return {**{k: x for k, x in saved.items() if k not in meant}, **own}
    unfit = _of_another_kind(own, saved)
    kept = {
        k: tuple(v) if isinstance(v, list) and isinstance(own.get(k), tuple) else v
        for k, v in saved.items()
        if k not in OWN_KEYS
        and k not in unfit
        and (k in own or (k not in foreign and k != TRAINING))
    }
    missing = {k: v for k, v in own.items() if k not in kept and k != "params"}
    return {**kept, **missing, **{k: own[k] for k in OWN_KEYS if k in own}}


def all_loaded(
    groups: Sequence[Group], given: Mapping[str, Any], *, strict: bool
) -> dict[Any, Any]:
    """Copies of a checkpoint's state by parameter; of what belongs to none, by the checkpoint's own key."""
    owner: dict[Any, tuple[Tensor, Group, str, bool]] = {}
    for i, (own, saved) in enumerate(zip(groups, given["param_groups"], strict=False)):
        merged = {**merged_group(own, saved), "params": own["params"]}
        is_ours = "rule" in saved and _plain(saved["rule"]) == _plain(own["rule"])
        for j, (key, p) in enumerate(zip(saved["params"], own["params"], strict=False)):
            owner[key] = p, merged, parameter_name(own, i, j), is_ours
    found: dict[Any, Any] = {}
    for key, entries in given["state"].items():
        if key in owner:
            p, group, where, is_ours = owner[key]
            entries = _counted(entries, group, where, strict=strict)
            found[p] = loaded_state(p, group, entries, where, strict=strict, is_ours=is_ours)
            check_weights(p, found[p], group, where)
        else:
            found[key] = copy.deepcopy(entries)
    return found


def _counted(
    entries: Mapping[str, Any], group: Group, where: str, *, strict: bool
) -> Mapping[str, Any]:
    """Entries with a wrapper's count as the step count, which is what its option goes by.

    Raises:
        CheckpointError: Both are there and differ: the option would act at other steps.
    """
    for name in group["options"]:
        count = entries.get(f"{name}_step")
        if count is None or all(s.name != "step" for s in OPTIONS[name].scalars):
            continue
        step = entries.get("step", count)
        if strict and float(step) != float(count):
            raise CheckpointError(
                f"the checkpoint's {name} has counted {float(count):g} steps of {where} and the optimizer "
                f"{float(step):g}: as an option it would act at other steps; load with strict=False to go "
                "by the optimizer's"
            )
        entries = {**{k: v for k, v in entries.items() if k != f"{name}_step"}, "step": step}
    return entries


def loaded_state(
    p: Tensor, group: Group, saved: Mapping[str, Any], where: str, *, strict: bool, is_ours: bool
) -> dict[str, Any]:
    """Copies of a parameter's saved entries, stored as this optimizer stores them.

    Args:
        p: The parameter.
        group: Its group, as loaded.
        saved: Its entries in the checkpoint.
        where: The parameter's name, for messages.
        strict: Whether entries that are missing beside others, or are nobody's here, are an error.
        is_ours: Whether the checkpoint names this rule. An entry that nobody declares is then the user's own
            and comes along; else it is another algorithm's, and is dropped where that is no error.

    Raises:
        CheckpointError: An entry is no tensor or number, or has another shape or kind than the parameter.
    """
    resolved = resolve(group)
    wanted = wanted_slots(resolved, resolved.setting(p, frozenset()), group, p)
    numbers = [s.name for s in resolved.rule.scalars if not s.is_shared]
    own = [s.name for s in resolved.rule.slots if s.name in wanted] + numbers
    there = {key: value for key, value in saved.items() if value is not None}
    begun = any(isinstance(x, Tensor) for x in there.values())
    missing = [key for key in own if key not in there] if begun else []
    others = [] if is_ours else _of_others(resolved.rule, numbers, saved)
    if strict and (missing or others):
        raise CheckpointError(_another(missing, others, saved, where))
    foreign = {
        f"{name}_{s}"
        for name, spec in OPTIONS.items()
        if name not in group["options"]
        for s in [*(x.name for x in spec.slots), *(x.name for x in spec.scalars)]
    }
    for key in {*numbers, "step"}.intersection(saved).difference(others):
        _check_number(key, saved[key], where)
    stored = {WEIGHTS: (Slot(WEIGHTS), p.dtype)} | {key: found[:2] for key, found in wanted.items()}
    return {
        key: _copied(p, key, value, stored.get(key), where)
        for key, value in saved.items()
        if key not in others and (key in wanted or key not in foreign)
    }


def _of_others(rule: Rule, numbers: Sequence[str], saved: Mapping[str, Any]) -> list[str]:
    """Entries that neither the rule nor any option has, or has as a number where they are tensors."""
    known = {"step", WEIGHTS, *(s.name for s in rule.slots), *(s.name for s in rule.scalars)}
    options = tuple(f"{name}_" for name in OPTIONS)
    return [
        key
        for key, value in saved.items()
        if (key not in known and not str(key).startswith(options))
        or (key in numbers and isinstance(value, Tensor) and value.numel() > 1 and value.ndim > 0)
    ]


def _another(
    missing: Sequence[str], others: Sequence[str], saved: Mapping[str, Any], where: str
) -> str:
    """The sentence for a checkpoint of another algorithm."""
    told = [f"alone has {', '.join(map(repr, others))}"] * bool(others)
    told += [f"has no {', '.join(map(repr, missing))}"] * bool(missing)
    return (
        f"the checkpoint {' and '.join(told)} for {where}: it is another optimizer's, with "
        f"{', '.join(map(repr, saved))}. Make the optimizer that it is of, or load with strict=False to take "
        "what both have and begin the rest anew"
    )


def _check_number(key: str, value: Any, where: str) -> None:
    is_one = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    if not is_one:
        got = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise CheckpointError(
            f"the checkpoint's {key!r} for {where} is {got}; it must be one number"
        )
    if key == "step" and not 0.0 <= float(value) < math.inf:
        raise CheckpointError(
            f"the checkpoint's 'step' for {where} is {float(value)}; steps are counted from 0"
        )


def _copied(
    p: Tensor, key: str, value: Any, stored: tuple[Slot, torch.dtype] | None, where: str
) -> Any:
    """A copy of one entry: a slot in its dtype and the parameter's layout, or whatever else it is."""
    if stored is not None and value is not None:
        slot, dtype = stored
        shape = slot.shape(p.shape)
        if not isinstance(value, Tensor) or value.shape != shape:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            needs = f", which needs {shape}" if slot.over is not None else ""
            raise CheckpointError(
                f"the checkpoint's {key!r} for {where} has {got}, and the parameter has shape "
                f"{tuple(p.shape)}{needs}: the groups hold other parameters, or hold them in another order"
            )
        number = value.is_floating_point() or value.is_complex()
        if not number or value.is_complex() != dtype.is_complex:
            raise CheckpointError(
                f"the checkpoint's {key!r} for {where} has {value.dtype}, and here it is kept in {dtype}: "
                "it was stored in another way (quantized?) and cannot be cast; convert it first"
            )
        if slot.over is not None:
            return torch.empty(shape, dtype=dtype, device=p.device).copy_(value.detach())
        return torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value.detach())
    if isinstance(value, Tensor):
        home = p.device if value.ndim and value.device.type != "cpu" else torch.device("cpu")
        return value.detach().to(home, copy=True)
    return copy.deepcopy(value)
