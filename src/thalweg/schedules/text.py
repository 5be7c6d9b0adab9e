"""Schedules in words: "warmup(500) >> cosine(10000)"."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from thalweg.errors import ArgumentError, ArgumentTypeError, suggest, unknown
from thalweg.schedules import shapes
from thalweg.schedules.combined import (
    absolute,
    function,
    join,
    per_epoch,
    product,
    scale,
    warmed,
)
from thalweg.schedules.schedule import Schedule

NAMES: dict[str, Callable[..., Schedule]] = {
    "join": join,
    "product": product,
    "scale": scale,
    "per_epoch": per_epoch,
    "warmed": warmed,
    "absolute": absolute,
    **{
        name: cls
        for name, cls in vars(shapes).items()
        if isinstance(cls, type) and issubclass(cls, Schedule) and name == name.lower()
    },
}
"""Every schedule by its name."""


def as_schedule(value: Schedule | str | Callable[[float], float]) -> Schedule:
    """A schedule: as it is, from its text, or from a function of the step.

    Raises:
        TypeError: It is none of them.
        ValueError: The text is not of this grammar.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        return parse(value)
    if callable(value):
        return function(value)
    raise ArgumentTypeError(
        f"{value!r} is no schedule; write one, as cosine(10000), its text, or a function of the step"
    )


def parse(text: str) -> Schedule:
    """Read a schedule: names with literal arguments, joined by >> and *.

    Raises:
        ValueError: It is not of this grammar, or a name is unknown.
        TypeError: An argument that the schedule does not have.

    Example:
        >>> from thalweg.schedules import parse
        >>> parse("warmup(500) >> 0.5 * cosine(10000, end=0.1)")
        warmup(500) >> 0.5 * cosine(10000, end=0.1)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as e:
        raise ArgumentError(
            f"{text!r} does not read as a schedule ({e.msg}); as 'warmup(500) >> cosine(10000)'"
        ) from None
    found = _read(tree)
    if not isinstance(found, Schedule):
        raise ArgumentError(f"{text!r} is no schedule; as 'warmup(500) >> cosine(10000)'")
    return found


def tabulated(schedule: Schedule, steps: int | None = None, base: float = 1.0) -> str:
    """Its values at eleven steps, from the first to the last, one in a line.

    Args:
        schedule: The schedule.
        steps: The last; None: its length.
        base: What the factors multiply.

    Raises:
        ValueError: It never ends, and `steps` is not said.
    """
    last = int(shown_steps(schedule, steps))
    rows = [
        (f"{x:,}", f"{base * schedule(x):.6g}") for x in sorted({last * i // 10 for i in range(11)})
    ]
    widths = [max(len(row[i]) for row in (("step", "value"), *rows)) for i in (0, 1)]
    return "\n".join(
        f"{step:>{widths[0]}}  {value:>{widths[1]}}" for step, value in (("step", "value"), *rows)
    )


def shown_steps(schedule: Schedule, steps: int | None) -> float:
    """How much of it to show.

    Raises:
        ValueError: Nothing, or it never ends and nobody says.
    """
    length = schedule.length if steps is None else steps
    if length is None:
        raise ArgumentError(f"{schedule!r} never ends: say how much of it to show, steps=1000")
    if not length >= 1:
        raise ArgumentError(f"steps must be at least 1, got {length!r}")
    return length


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


def _read(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        return _combined(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called(node, node.func.id.lower())
    if isinstance(node, ast.Name):
        function = _find(node.id.lower())
        arguments = ", ".join(str(p.replace(annotation=p.empty)) for p in _parameters(function))
        raise ArgumentError(f"{node.id!r} needs its arguments, as {node.id}({arguments})")
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ArgumentError(
            f"{ast.unparse(node)!r} is no schedule and no literal, as 500, 0.1 or (30, 60)"
        ) from None


def _combined(node: ast.BinOp) -> Any:
    left, right = _read(node.left), _read(node.right)
    given = isinstance(left, Schedule) + isinstance(right, Schedule)
    try:
        if isinstance(node.op, ast.RShift) and given == 2:
            return left >> right
        if isinstance(node.op, ast.Mult) and given:
            return left * right
        if isinstance(node.op, ast.Div) and not given:
            return left / right
    except (TypeError, ZeroDivisionError) as e:
        if isinstance(e, ArgumentTypeError):
            raise
    raise ArgumentError(
        f"{ast.unparse(node)!r}: schedules are joined by >>, and multiplied by * with each other or a number"
    )


def _find(name: str) -> Callable[..., Schedule]:
    if name not in NAMES:
        raise ArgumentError(
            f"unknown schedule {name!r}.{suggest(name, NAMES)} Known: {', '.join(NAMES)}."
        )
    return NAMES[name]


def _called(node: ast.Call, name: str) -> Schedule:
    make = _find(name)
    if any(k.arg is None for k in node.keywords):
        raise ArgumentError(f"{ast.unparse(node)!r}: arguments are written one by one")
    positional = [_read(a) for a in node.args]
    named = {str(k.arg): _read(k.value) for k in node.keywords}
    known = [p.name for p in _parameters(make)]
    for argument in named:
        if argument not in known:
            raise ArgumentTypeError(unknown(name, argument, known))
    try:
        return make(*positional, **named)
    except TypeError as e:
        if isinstance(e, ArgumentTypeError):
            raise
        said = str(e).replace(f"{name}.__init__() ", "").replace(f"{name}() ", "")
        raise ArgumentTypeError(f"{name}: {said}") from None
