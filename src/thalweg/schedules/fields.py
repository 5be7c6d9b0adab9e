"""Numbers of a group by the name that schedules have for them: "lr", "betas[0]"."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from thalweg.errors import ArgumentError, suggest

Group = dict[str, Any]

TAG = "param_group"

RANGES = {"lr": (0.0, math.inf), "weight_decay": (0.0, math.inf), "momentum": (0.0, 1.0)}
RANGES["betas"] = (0.0, math.nextafter(1.0, 0.0))
"""What the numbers may be that all optimizers have by these names; others must be finite."""


def split(name: str) -> tuple[str, int | None]:
    """The key, and which number of it.

    Raises:
        ValueError: It is no such name.
    """
    read = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", name)
    if read is None:
        raise ArgumentError(f"{name!r} is no field of a group; as lr, or betas[0], counted from 0")
    return read[1], None if read[2] is None else int(read[2])


def initial(name: str) -> str:
    """The key of a field's base value."""
    return f"initial_{split(name)[0]}"


def number(group: Group, i: int, name: str, *, base: bool = False) -> float:
    """A field's value, or its base, as a number.

    Raises:
        ValueError: The group has no such number.
    """
    key, index = split(name)
    if key not in group:
        known = [str(k) for k, v in group.items() if isinstance(v, (int, float, tuple, Tensor))]
        raise ArgumentError(f"{where(group, i)} has no {key!r} to drive.{suggest(key, known)}")
    value: Any = group.get(initial(name), group[key]) if base else group[key]
    try:
        if index is not None:
            value = value[index]
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, IndexError, RuntimeError):
        hint = "; name one of its numbers, as betas[0]" if isinstance(group[key], tuple) else ""
        raise ArgumentError(
            f"{where(group, i)} has {key}={group[key]!r}, so that {name!r} is no number to drive{hint}"
        ) from None


def check(value: float, group: Group, i: int, name: str, step: float) -> None:
    """Refuse a value that no optimizer can use.

    Raises:
        ValueError: It is one.
    """
    low, high = RANGES.get(split(name)[0], (-math.inf, math.inf))
    if not (math.isfinite(value) and low <= value <= high):
        bound = f" and at least {low:g}" if low > -math.inf else ""
        bound += f", at most {high:g}" if high < math.inf else ""
        raise ArgumentError(
            f"{name} of {where(group, i)} is {value:g} at step {step:g} by its schedule; it must be "
            f"finite{bound}"
        )


def where(group: Group, i: int) -> str:
    """A group, for an error."""
    name = group.get(TAG)
    if name is None:
        name = next(iter(group.get("param_names", ())), None)
    return f"group {i}" if name is None else f"group {i} ({name!r})"


def put(group: Group, name: str, value: float) -> None:
    """Set a field; tensors are filled."""
    key, index = split(name)
    if index is not None:
        old = group[key]
        if isinstance(old[index], Tensor):
            old[index].fill_(value)
        else:
            group[key] = type(old)(value if j == index else x for j, x in enumerate(old))
    elif isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def plain(value: Any) -> Any:
    """A value without tensors and tuples."""
    if isinstance(value, Tensor):
        return value.item()
    return [plain(x) for x in value] if isinstance(value, (tuple, list)) else value
