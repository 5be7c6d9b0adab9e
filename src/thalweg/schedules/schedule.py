"""What a schedule is: a factor for each step, in closed form."""

from __future__ import annotations

import inspect
import math
import numbers
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import ArgumentError, ArgumentTypeError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self


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

    __array_ufunc__ = None  # so that a NumPy number leaves the product to us

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004
        """Refuse arguments that it does not have.

        Raises:
            TypeError: There is one (with a suggestion).
        """
        parameters = inspect.signature(cls.__init__).parameters.values() if kwargs else ()
        known = [p.name for p in parameters][1:]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            for name in kwargs:
                if name not in known:
                    raise ArgumentTypeError(unknown(cls.__name__, name, known))
        return super().__new__(cls)

    def __call__(self, step: float) -> float:
        """The factor at a step."""
        try:
            t = float(step)
        except (TypeError, ValueError):
            raise ArgumentTypeError(f"step {step!r}; it must be a number") from None
        if not 0 <= t < math.inf:
            raise ArgumentError(f"step {step!r}; steps are counted from 0 and finite")
        length = self.length
        try:
            return float(self.value(t if length is None else min(t, length)))
        except OverflowError:
            raise ArgumentError(
                f"{self!r} at step {step!r} is beyond all numbers; join something that ends it"
            ) from None

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
        from thalweg.schedules.combined import join

        return join(self, other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Any) -> Schedule:
        from thalweg.schedules.combined import product, scale

        if isinstance(other, Schedule):
            return product(self, other)
        return scale(self, other) if is_number(other) else NotImplemented

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


def is_number(value: Any) -> bool:
    """Whether it is a real number, of whichever library."""
    return isinstance(value, numbers.Real)


def need(schedule: Schedule, name: str, low: float = -math.inf, above: float = -math.inf) -> None:
    """Refuse a number that a schedule cannot have; other libraries' numbers become Python's.

    Raises:
        TypeError: It is none.
        ValueError: It is infinite, below `low`, or not above `above`.
    """
    value, title = getattr(schedule, name), type(schedule).__name__
    if isinstance(value, bool) or not is_number(value):
        raise ArgumentTypeError(f"{title} got {name}={value!r}; it must be a number")
    value = int(value) if isinstance(value, numbers.Integral) else float(value)
    object.__setattr__(schedule, name, value)  # schedules are frozen
    if not math.isfinite(value) or value < low or value <= above:
        bound = f" >= {low:g}" if low > -math.inf else f" > {above:g}" if above > -math.inf else ""
        raise ArgumentError(
            f"{title} got {name}={value!r}; it must be finite{bound and ' and'}{bound}"
        )
