"""What a schedule is: a factor for each step, in closed form; and how schedules are put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Schedule:
    """A factor for each step, which multiplies a group's own base value.

    A value: comparable, picklable, printed as one writes it. It knows nothing of optimizers and remembers
    nothing, so that resuming needs the step alone. Past its end it keeps its last value.

    `a >> b` is a, then b from its own step 0; `a * b` is both at once; `0.5 * a` is half of a.

    Args:
        step: When called: steps taken so far, >= 0; also a fraction.

    Example:
        >>> from thalweg.schedules import cosine, warmup
        >>> schedule = warmup(10) >> cosine(100)
        >>> [round(schedule(step), 3) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        >>> schedule
        warmup(10) >> cosine(100)
    """

    def __call__(self, step: float) -> float:
        """The factor at a step."""
        if not step >= 0:
            raise ArgumentError(f"step {step!r}; steps are counted from 0")
        length = self.length
        return float(self.value(float(step) if length is None else min(float(step), length)))

    def value(self, t: float) -> float:
        """The formula, for 0 <= t <= length."""
        raise NotImplementedError

    @property
    def length(self) -> float | None:
        """Steps until it is over and the next begins; None: it never is."""
        steps: float | None = getattr(self, "steps", None)
        return steps

    @property
    def lasts(self) -> float | None:
        """The longest training it is meant for; None: any."""
        return self.length

    @property
    def warmup_steps(self) -> float:
        """Steps that are warm-up."""
        return 0

    def curve(self, steps: int) -> list[float]:
        """The factors of steps 0 to `steps`."""
        return [self(step) for step in range(steps + 1)]

    def plot(
        self, steps: int | None = None, output: str | Path | None = None, *, base: float = 1.0
    ) -> Figure:
        """Draw it (needs Matplotlib).

        Args:
            steps: How many; None: its length.
            output: A file to write: .png, .svg, .pdf; None: none.
            base: What the factors multiply.

        Raises:
            ValueError: It never ends, and `steps` is not said.
        """
        from thalweg.schedules.figures import draw_schedule

        return draw_schedule(self, steps, output, base)

    def __rshift__(self, other: Any) -> Schedule:
        return join(self, other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Any) -> Schedule:
        if isinstance(other, Schedule):
            return product(self, other)
        return scale(self, other) if isinstance(other, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __repr__(self) -> str:
        given = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.default is MISSING:
                given.append(repr(value))
            elif value != f.default:
                given.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"


def need(schedule: Schedule, name: str, low: float = -math.inf, above: float = -math.inf) -> None:
    """Refuse a number that a schedule cannot have.

    Raises:
        TypeError: It is none.
        ValueError: It is infinite, below `low`, or not above `above`.
    """
    value, title = getattr(schedule, name), type(schedule).__name__
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{title} got {name}={value!r}; it must be a number")
    if not math.isfinite(value) or value < low or value <= above:
        bound = f" >= {low:g}" if low > -math.inf else f" > {above:g}" if above > -math.inf else ""
        raise ArgumentError(
            f"{title} got {name}={value!r}; it must be finite{bound and ' and'}{bound}"
        )


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
        """Of the parts that it begins with."""
        steps = 0.0
        for begin, each in zip((0, *self.at), self.parts, strict=True):
            if not each.warmup_steps:
                break
            steps = begin + each.warmup_steps
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
        if len(at) != len(checked) - 1 or any(a >= b for a, b in zip((0, *at), at, strict=False)):
            raise ArgumentError(
                f"join of {len(checked)} schedules got at={list(at)!r}; it needs {len(checked) - 1} rising "
                "steps above 0"
            )
        return Join(tuple(checked), tuple(at), said=True)
    flat: list[Schedule] = []
    for each in checked:
        flat += each.parts if isinstance(each, Join) and not each.said else [each]
    begins: list[float] = [0]
    for each in flat[:-1]:
        if each.length is None:
            raise ArgumentError(
                f"{each!r} never ends, so that nothing can follow it; say where: join(a, b, at=[1000])"
            )
        begins.append(begins[-1] + each.length)
    return Join(tuple(flat), tuple(begins[1:])) if len(flat) > 1 else flat[0]


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
class scale(Schedule):
    """A schedule times a number; `0.5 * a` for short.

    Args:
        schedule: What to multiply.
        factor: By what.
    """

    schedule: Schedule
    factor: float

    def __post_init__(self) -> None:
        part(self.schedule, "scale")
        need(self, "factor")

    def value(self, t: float) -> float:
        return self.factor * self.schedule(t)

    @property
    def length(self) -> float | None:
        return self.schedule.length

    @property
    def lasts(self) -> float | None:
        return self.schedule.lasts

    @property
    def warmup_steps(self) -> float:
        """Of what is scaled."""
        return self.schedule.warmup_steps

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
class absolute(Schedule):
    """Values as they are, which do not multiply a base: a momentum from 0.8 to 0.937.

    Args:
        schedule: Of the values.

    Example:
        >>> from thalweg.schedules import absolute, linear
        >>> absolute(linear(1000, 0.8, 0.937))(0)
        0.8
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        part(self.schedule, "absolute")

    def value(self, t: float) -> float:
        return self.schedule(t)

    @property
    def length(self) -> float | None:
        return self.schedule.length

    @property
    def lasts(self) -> float | None:
        return self.schedule.lasts

    @property
    def warmup_steps(self) -> float:
        """Of what it holds."""
        return self.schedule.warmup_steps


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
        own = type(self.call)
        named = self.call if hasattr(self.call, "__qualname__") else own
        return f"function({named.__module__}.{named.__qualname__})"
