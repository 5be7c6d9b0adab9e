"""Which entries of a checkpoint are whose: by name where both sides know names, else by position.

torch numbers parameters in the order of the groups and pairs the numbers, so that a model whose layers were
reordered, or whose groups were split otherwise, gets the moments of other tensors without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.groups import resolve
from thalweg.engine.rule import Group
from thalweg.engine.trace import shared_scalars
from thalweg.errors import CheckpointError

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch.compile, FSDP and activation checkpointing put in between."""
LISTED = 8
"""So many names stand in a message; the others are counted."""


def by_name(groups: Sequence[Group], given: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """The checkpoint with the parameters of these groups, in their order.

    It is returned as it is where either side knows no names, or not each parameter's own: positions count
    then, as in torch. A parameter that the checkpoint lacks gets a key without entries.

    Args:
        groups: The optimizer's.
        given: A checkpoint in torch's layout.
        strict: Refuse names that only one side has, and groups whose numbers do not fit together.

    Raises:
        CheckpointError: They do not match.
    """
    saved = given["param_groups"]
    own, theirs = _names(groups), _names(saved)
    if _is_distributed(saved) and (own is None or theirs is None or _flat(own) != _flat(theirs)):
        # torch.distributed.checkpoint has put `params` in our order already, and left the names in theirs.
        unnamed = [{k: v for k, v in g.items() if k != "param_names"} for g in saved]
        return {**given, "param_groups": unnamed}
    if own is None or theirs is None:
        return dict(given)
    place = {
        name: (i, key)
        for i, (group, names) in enumerate(zip(saved, theirs, strict=True))
        for key, name in zip(group["params"], names, strict=True)
    }
    missing = [name for names in own for name in names if name not in place]
    unexpected = sorted(set(place) - _flat(own), key=list(place).index)
    if strict and (missing or unexpected):
        raise CheckpointError(_differ(missing, unexpected))
    found = [
        _group(i, group, [place.get(name) for name in names], saved, strict=strict)
        for i, (group, names) in enumerate(zip(groups, own, strict=True))
    ]
    dropped = {place[name][1] for name in unexpected}
    state = {key: entries for key, entries in given["state"].items() if key not in dropped}
    return {**given, "state": state, "param_groups": found}


def _names(groups: Sequence[Group]) -> list[list[str]] | None:
    """Each group's names, without what wrappers of modules add; None unless each parameter has its own."""
    found = []
    for group in groups:
        params = group["params"]
        keyed = params and all(isinstance(x, str) for x in params)
        names = params if keyed else group.get("param_names") or ()
        if len(names) != len(params) or not all(isinstance(x, str) for x in names):
            return None
        found.append(list(names))
    for names_of in ([[_bare(x) for x in names] for names in found], found):
        flat = [x for names in names_of for x in names]
        if flat and len(set(flat)) == len(flat):
            return names_of
    return None


def _bare(name: str) -> str:
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts[1:] if parts[0] == "module" and len(parts) > 1 else parts)


def _flat(names: list[list[str]]) -> set[str]:
    return {name for group in names for name in group}


def _is_distributed(saved: Sequence[Group]) -> bool:
    """Whether parameters have names for keys, as torch.distributed.checkpoint gives them."""
    keys = [key for group in saved for key in group["params"]]
    return bool(keys) and all(isinstance(key, str) for key in keys)


def _group(
    index: int,
    own: Group,
    places: Sequence[tuple[int, Any] | None],
    saved: Sequence[Group],
    *,
    strict: bool,
) -> dict[str, Any]:
    """One of our groups with the checkpoint's numbers, wherever in it our parameters stand."""
    sources = sorted({place[0] for place in places if place is not None})
    numbers = _without_params(own)
    if sources:
        several = [_without_params(saved[i]) for i in sources]
        numbers = {
            key: value
            for key, value in several[0].items()
            if all(key in other and _same(other[key], value) for other in several)
        }
        differ = [key for key in dict.fromkeys(k for g in several for k in g) if key not in numbers]
        if strict and differ:
            said = " and ".join(repr(g.get(differ[0])) for g in several)
            raise CheckpointError(
                f"group {index} holds parameters of the checkpoint's groups "
                f"{' and '.join(map(str, sources))}, which differ in {', '.join(differ)} ({differ[0]}: "
                f"{said}): make the groups as they were when it was saved, or load with strict=False to keep "
                "this optimizer's numbers"
            )
        numbers |= {key: own[key] for key in differ if key in own}
    elif saved:
        numbers |= {key: saved[0][key] for key in _of_the_optimizer(own) if key in saved[0]}
    if "param_names" in own:
        numbers["param_names"] = list(own["param_names"])
    # An object is equal to no key of the checkpoint's state: what it stands for begins anew.
    return {**numbers, "params": [object() if place is None else place[1] for place in places]}


def _without_params(group: Group) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _of_the_optimizer(group: Group) -> list[str]:
    """Keys of numbers that all groups share, such as Prodigy's distance."""
    if "rule" not in group:
        return []
    resolved = resolve(group)
    shared = shared_scalars(resolved.rule, resolved.specs)
    return [key for key, (_, scalar) in shared.items() if scalar.scope == "optimizer"]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor)
        return alike and torch.equal(a.cpu(), b.cpu())
    return bool(a == b)


def _differ(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    parts = []
    if missing:
        parts.append(f"it lacks {_listed(missing)}")
    if unexpected:
        parts.append(f"only it has {_listed(unexpected)}")
    return (
        f"the checkpoint names other parameters than this optimizer: {'; '.join(parts)}. Load with "
        "strict=False to take what matches, or take 'param_names' out of the checkpoint's groups to go by "
        "position"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:LISTED]))
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown
