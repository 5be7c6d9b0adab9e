"""Schedules of schedules: one after another, several at once, scaled, by the epoch."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from thalweg.errors import ArgumentError, ArgumentTypeError
from thalweg.schedules.schedule import Schedule, need


def rising(who: str, name: str, values: Any, above: float = -math.inf) -> tuple[float, ...]:
    """Steps in their order.

    Raises:
        TypeError: They are no numbers.
        ValueError: They do not rise.
    """
    given = values.tolist() if hasattr(values, "tolist") else values
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if listed is None or not all(isinstance(x, numbers.Real) for x in listed):
        raise ArgumentTypeError(
            f"{who} got {name}={values!r}; it must be steps in a list, as (30, 60)"
        )
    found = tuple(int(x) if isinstance(x, numbers.Integral) else float(x) for x in listed)
    if not all(above < x < math.inf for x in found) or list(found) != sorted(found):
        bound = (
            f"rising steps above {above:g}" if above > -math.inf else "finite steps that must rise"
        )
        raise ArgumentError(f"{who} got {name}={found!r}; it needs {bound}")
    return found


def part(value: Any, where: str) -> Schedule:
    """A schedule within another.

    Raises:
        TypeError: It is none.
        ValueError: It is absolute.
    """
    if not isinstance(value, Schedule):
        raise ArgumentTypeError(
            f"{where} takes schedules, got {value!r}; write its name with arguments, as cosine(10000)"
        )
    if isinstance(value, absolute):
        raise ArgumentError(
            f"{where} got {value}: what is absolute multiplies nothing, so that it goes outermost, as "
            "absolute(a >> b)"
        )
    return value


@dataclass(frozen=True, repr=False)
class Join(Schedule):
    """One schedule after another; `join` makes it.

    Args:
        parts: The schedules.
        at: Where each but the first begins.
        said: Whether `at` was said, and does not follow from their lengths.
    """

    parts: tuple[Schedule, ...]
    at: tuple[float, ...]
    said: bool = False

    def value(self, t: float) -> float:
        index = sum(t >= begin for begin in self.at)
        return self.parts[index](t - (0, *self.at)[index])

    @property
    def length(self) -> float | None:
        last = self.parts[-1].length
        return None if last is None else self.at[-1] + last

    @property
    def lasts(self) -> float | None:
        last = self.parts[-1].lasts
        return None if last is None else self.at[-1] + last

    @property
    def warmup_steps(self) -> float:
        """Until the last rise before it first comes down; a part that is cut short rises no longer."""
        steps = 0.0
        for begin, end, each in zip((0, *self.at), (*self.at, math.inf), self.parts, strict=True):
            rising = min(each.warmup_steps, end - begin)
            if rising:
                steps = begin + rising
            if end == math.inf or each(end - begin) < each(rising):
                break
        return steps

    def __repr__(self) -> str:
        if self.said:
            return f"join({', '.join(map(repr, self.parts))}, at={self.at!r})"
        return " >> ".join(map(repr, self.parts))


def join(*parts: Schedule, at: tuple[float, ...] | list[float] | None = None) -> Schedule:
    """One schedule after another, each counting from its own 0; `a >> b` for short.

    Args:
        parts: The schedules.
        at: Steps at which each but the first begins; None: where the one before it is over.

    Raises:
        ValueError: One that never ends has others behind it, or `at` does not fit.

    Example:
        >>> from thalweg.schedules import constant, cosine, join
        >>> join(constant(), cosine(100), at=[50])(100)
        0.5
    """
    checked = [part(each, "join") for each in parts]
    if not checked:
        raise ArgumentError("join() got no schedule")
    if at is not None:
        begins = rising("join", "at", at, above=0)
        if len(begins) != len(checked) - 1:
            raise ArgumentError(
                f"join of {len(checked)} schedules got at={list(begins)!r}; it needs {len(checked) - 1} "
                "rising steps above 0"
            )
        return Join(tuple(checked), begins, said=True)
    flat: list[Schedule] = []
    for each in checked:
        flat += each.parts if isinstance(each, Join) and not each.said else [each]
    ends: list[float] = [0]
    for each in flat[:-1]:
        if each.length is None:
            raise ArgumentError(
                f"{each!r} never ends, so that nothing can follow it; say where: join(a, b, at=[1000])"
            )
        ends.append(ends[-1] + each.length)
    return Join(tuple(flat), tuple(ends[1:])) if len(flat) > 1 else flat[0]


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """Several schedules at once; `product` makes it."""

    parts: tuple[Schedule, ...]

    def value(self, t: float) -> float:
        return math.prod(each(t) for each in self.parts)

    @property
    def length(self) -> float | None:
        """Of the longest; the others keep their last values meanwhile."""
        lengths = [each.length for each in self.parts]
        return None if None in lengths else max(n for n in lengths if n is not None)

    @property
    def lasts(self) -> float | None:
        """As the part that lasts least."""
        return min((p.lasts for p in self.parts if p.lasts is not None), default=None)

    @property
    def warmup_steps(self) -> float:
        """Of the longest."""
        return max(each.warmup_steps for each in self.parts)

    def __repr__(self) -> str:
        return " * ".join(map(_factor, self.parts))


def _factor(schedule: Schedule) -> str:
    text = repr(schedule)
    return f"({text})" if isinstance(schedule, (Join, Product, scale)) else text


def product(*parts: Schedule) -> Schedule:
    """All factors multiplied, on one clock; `a * b` for short, as torch's ChainedScheduler.

    Example:
        >>> from thalweg.schedules import exponential, warmup
        >>> (warmup(4) * exponential(0.5))(2)
        0.125
    """
    checked = tuple(part(each, "product") for each in parts)
    if not checked:
        raise ArgumentError("product() got no schedule")
    return Product(checked)


@dataclass(frozen=True, repr=False)
class Around(Schedule):
    """One around another, as long as that is."""

    schedule: Schedule

    @property
    def length(self) -> float | None:
        return self.schedule.length

    @property
    def lasts(self) -> float | None:
        return self.schedule.lasts

    @property
    def warmup_steps(self) -> float:
        """Of what it is around."""
        return self.schedule.warmup_steps


@dataclass(frozen=True, repr=False)
class scale(Around):
    """A schedule times a number; `0.5 * a` for short.

    Args:
        schedule: What to multiply.
        factor: By what.
    """

    factor: float

    def __post_init__(self) -> None:
        part(self.schedule, "scale")
        need(self, "factor")

    def value(self, t: float) -> float:
        return self.factor * self.schedule(t)

    def __repr__(self) -> str:
        return f"{self.factor!r} * {_factor(self.schedule)}"


@dataclass(frozen=True, repr=False)
class per_epoch(Schedule):
    """A schedule of epochs, for a clock of steps: constant within an epoch.

    Args:
        schedule: Of the epochs, from 0.
        steps_per_epoch: Steps in one.

    Example:
        >>> from thalweg.schedules import linear, per_epoch
        >>> [per_epoch(linear(4), 10)(step) for step in (0, 9, 10, 19, 20)]
        [1.0, 1.0, 0.75, 0.75, 0.5]
    """

    schedule: Schedule
    steps_per_epoch: int

    def __post_init__(self) -> None:
        part(self.schedule, "per_epoch")
        need(self, "steps_per_epoch", low=1)

    def value(self, t: float) -> float:
        return self.schedule(t // self.steps_per_epoch)

    @property
    def length(self) -> float | None:
        length = self.schedule.length
        return None if length is None else length * self.steps_per_epoch

    @property
    def lasts(self) -> float | None:
        lasts = self.schedule.lasts
        return None if lasts is None else lasts * self.steps_per_epoch

    @property
    def warmup_steps(self) -> float:
        """In steps."""
        return self.schedule.warmup_steps * self.steps_per_epoch


@dataclass(frozen=True, repr=False)
class warmed(Around):
    """YOLO's warm-up: along a line from a factor to what a schedule is by then, which may move meanwhile.

    `warmup(steps) * schedule` is the same where the factor is 0.

    Formula:
        start + (schedule(t) - start) * t / steps, then schedule(t)

    Args:
        schedule: What to arrive at, on the same clock.
        steps: How long, > 0.
        start: The first factor.

    Reference:
        Jocher 2020, YOLOv5, the training loop.

    Example:
        >>> from thalweg.schedules import linear, warmed
        >>> [warmed(linear(10), 4, start=3.0)(step) for step in (0, 2, 4, 10)]
        [3.0, 1.9, 0.6, 0.0]
    """

    steps: float
    start: float = 0.0

    def __post_init__(self) -> None:
        part(self.schedule, "warmed")
        need(self, "steps", above=0)
        need(self, "start")

    def value(self, t: float) -> float:
        reached = self.schedule(t)
        return reached if t >= self.steps else self.start + (reached - self.start) * t / self.steps

    @property
    def warmup_steps(self) -> float:
        """Its own."""
        return self.steps


@dataclass(frozen=True, repr=False)
class absolute(Around):
    """Values as they are, which do not multiply a base: a momentum from 0.8 to 0.937.

    Args:
        schedule: Of the values.

    Example:
        >>> from thalweg.schedules import absolute, linear
        >>> absolute(linear(1000, 0.8, 0.937))(0)
        0.8
    """

    def __post_init__(self) -> None:
        part(self.schedule, "absolute")

    def value(self, t: float) -> float:
        return self.schedule(t)


@dataclass(frozen=True, repr=False)
class function(Schedule):
    """A function of the step as a schedule; what is given to a scheduler as one becomes this by itself.

    Args:
        call: step -> factor. It is pickled if it can be: at the top of a module, not a lambda.
    """

    call: Callable[[float], float]

    def __post_init__(self) -> None:
        if not callable(self.call):
            raise ArgumentTypeError(f"function got {self.call!r}, which cannot be called")

    def value(self, t: float) -> float:
        return self.call(t)

    def __repr__(self) -> str:
        name = getattr(self.call, "__qualname__", None)
        if name is None:  # an object: what it holds has no name
            own = type(self.call)
            return f"function(<{own.__module__}.{own.__qualname__}>)"
        return f"function({self.call.__module__}.{name})"
