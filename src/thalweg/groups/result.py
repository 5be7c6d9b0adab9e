"""What builders return: torch's groups, and a table of what went where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ArgumentError, ArgumentTypeError
from thalweg.groups.parameters import Parameter, shape

TAG = "param_group"
"""The key with a group's name: Ultralytics finds its biases by it."""


@dataclass(frozen=True)
class Row:
    """One parameter of the table.

    Args:
        parameter: Its name.
        shape: Its shape.
        group: The name of its group.
        why: What put it there.
        also: Its other names, where several modules share it.
    """

    parameter: str
    shape: tuple[int, ...]
    group: str
    why: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What went where: one row for each parameter.

    Args:
        rows: In the order of the groups.
        groups: For each group its name and the numbers it sets.
        left_out: Frozen parameters that are in no group.
    """

    rows: tuple[Row, ...]
    groups: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The table as lists, dicts, strings and numbers, for JSON or YAML."""
        return {
            "groups": [dict(g) for g in self.groups],
            "parameters": [
                {**asdict(row), "shape": list(row.shape), "also": list(row.also)}
                for row in self.rows
            ],
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        head = ("parameter", "shape", "group", "why")
        body = [
            (r.parameter, "x".join(map(str, r.shape)) or "1", r.group, _reason(r))
            for r in self.rows
        ]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(3)]
        lines = [
            "  ".join(
                [*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]]
            )
            for line in (head, *body)
        ]
        if self.left_out:
            lines.append(f"left out, since frozen: {', '.join(self.left_out)}")
        return "\n".join(lines)


def _reason(row: Row) -> str:
    return row.why + (f"; shared with {', '.join(row.also)}" if row.also else "")


class Groups(list[dict[str, Any]]):
    """A list of groups, as torch's optimizers take it, that can tell what went where.

    Each group is a plain dict: `params`, `param_names`, `param_group` (its name), and the numbers that
    differ from the optimizer's own.

    Args:
        groups: The groups.
        table: What went where.
        line: The summary, if it is not the usual one.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], table: Table, line: str | None = None
    ) -> None:
        super().__init__(groups)
        self.table = table
        self._line = line

    @property
    def summary(self) -> str:
        """One line for the log."""
        if self._line is not None:
            return self._line
        said = (f"{len(g['params'])} {_said(g)}" for g in self)
        return f"Optimizer groups: {', '.join(said)}"

    def __repr__(self) -> str:
        return f"<{self.summary}>"

    def __str__(self) -> str:
        lines = [self.summary]
        for g in self:
            elements = sum(math.prod(shape(p)) for p in g["params"])
            lines.append(f"  {_said(g)}: {len(g['params'])} parameters, {elements:,} elements")
        return "\n".join(lines)


def _said(group: Mapping[str, Any]) -> str:
    values = ", ".join(f"{k}={_shown(v)}" for k, v in numbers(group).items())
    return f"{group[TAG]}({values})" if values else str(group[TAG])


def numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group sets besides its parameters and their names."""
    return {k: v for k, v in group.items() if k not in ("params", "param_names", TAG)}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    plain = _plain(value)
    return f"{plain:.6g}" if isinstance(plain, float) else repr(plain)


@dataclass
class Part:
    """A group in the making.

    Args:
        tag: Its name.
        numbers: What it sets.
        chosen: Its parameters, each with the reason.
    """

    tag: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    chosen: list[tuple[Parameter, str]] = field(default_factory=list)


def assemble(
    parts: Sequence[Part],
    left_out: Sequence[Parameter],
    *,
    line: str | None = None,
    keep_empty: bool = False,
) -> Groups:
    """Make torch's groups of parts.

    Args:
        parts: In their order.
        left_out: Frozen parameters that are in none.
        line: The summary, if it is not the usual one.
        keep_empty: Whether a part without parameters becomes a group.
    """
    kept = [part for part in parts if part.chosen or keep_empty]
    groups = [
        {
            "params": [x.tensor for x, _ in part.chosen],
            "param_names": [x.name for x, _ in part.chosen],
            TAG: part.tag,
            **part.numbers,
        }
        for part in kept
    ]
    rows = tuple(
        Row(x.name, shape(x.tensor), part.tag, why, x.also)
        for part in kept
        for x, why in part.chosen
    )
    said = tuple(
        {"name": part.tag, **{k: _plain(v) for k, v in part.numbers.items()}} for part in kept
    )
    return Groups(groups, Table(rows, said, tuple(x.name for x in left_out)), line)


def check(groups: Sequence[dict[str, Any]], model: nn.Module) -> None:
    """Refuse groups that have a parameter of the model twice, or not at all, or one that is not its own.

    For groups made or changed by hand; the builders' pass. Parameters that are given as an iterator, as
    `model.parameters()`, become a list in the group, so that the optimizer finds them too.

    Args:
        groups: As an optimizer takes them.
        model: Whose trainable parameters must all be there.

    Raises:
        ValueError: With the name of the parameter and the groups.
        TypeError: They are no groups.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(2, 2)
        >>> thalweg.groups.check([{"params": [model.weight]}, {"params": [model.bias]}], model)
    """
    if not isinstance(groups, (list, tuple)):
        raise ArgumentTypeError(
            f"groups are a list of dicts, each with 'params'; got {type(groups).__name__}"
        )
    names: dict[Any, str] = {p: name for name, p in model.named_parameters()}
    seen: dict[Any, int] = {}
    for index, group in enumerate(groups):
        for name, p in _entries(group, index):
            if p not in names:
                where = f"of size {tuple(p.size())}" if name is None else name
                raise ArgumentError(
                    f"group {index} has a parameter ({where}) that is not the model's: groups made before "
                    "the model was copied, moved or wrapped hold the old ones"
                )
            if p in seen:
                raise ArgumentError(
                    f"{names[p]!r} is in group {seen[p]} and in group {index}; take it out of one"
                    if seen[p] != index
                    else f"{names[p]!r} is twice in group {index}"
                )
            seen[p] = index
    missing = [name for p, name in names.items() if p.requires_grad and p not in seen]
    if missing:
        raise ArgumentError(
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}: trainable, and in no group; put "
            "them into one, or call requires_grad_(False) on them"
        )


def _entries(group: Any, index: int) -> Iterator[tuple[str | None, Tensor]]:
    """A group's parameters, with the names they have there.

    Raises:
        TypeError: It is no group.
    """
    if not isinstance(group, dict) or "params" not in group:
        got = f"has {', '.join(map(repr, group))}" if isinstance(group, dict) else "is no dict"
        raise ArgumentTypeError(f"group {index} {got}; it needs to be a dict with 'params'")
    params = group["params"]
    if not isinstance(params, Tensor):
        if not isinstance(params, Iterable) or isinstance(params, (str, bytes)):
            raise ArgumentTypeError(f"group {index} has params={params!r}; they are parameters")
        group["params"] = params = params if isinstance(params, list) else list(params)
    for entry in [params] if isinstance(params, Tensor) else params:
        name, p = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
        if not isinstance(p, Tensor):
            raise ArgumentTypeError(
                f"group {index} has {p!r} among its params; they are parameters"
            )
        yield name, p


def empty(what: str, fix: str, frozen: Sequence[Parameter] = ()) -> ArgumentError:
    """The error for a rule that matches nothing.

    Args:
        what: The rule.
        fix: What to do.
        frozen: Parameters that it would match, did they require gradients.
    """
    if frozen:
        names = f"{', '.join(x.name for x in frozen[:3])}{', ...' if len(frozen) > 3 else ''}"
        fix = f"what would be its own is frozen ({names}): call requires_grad_(True) on it, pass frozen=True"
    return ArgumentError(f"{what} matches no parameter; {fix}, or pass allow_empty=True")


def decayed(weight_decay: float | Tensor | None) -> dict[str, Any]:
    """What a group with decay sets: nothing where the optimizer's own number shall hold.

    Raises:
        ValueError: It is negative.
    """
    if weight_decay is None:
        return {}
    value = weight_decay.item() if isinstance(weight_decay, torch.Tensor) else weight_decay
    if not value >= 0:
        raise ArgumentError(
            f"Invalid weight_decay value: {value}. It must be >= 0; typical: 0.01, for YOLO 0.0005"
        )
    return {"weight_decay": weight_decay}
