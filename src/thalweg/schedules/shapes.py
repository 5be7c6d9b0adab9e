"""The schedules: each a formula of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thalweg.errors import ArgumentError
from thalweg.schedules.combined import rising
from thalweg.schedules.schedule import Schedule, need


def half_cosine(share: float) -> float:
    """From 0 to 1 along half a cosine."""
    return (1 - math.cos(math.pi * share)) / 2


class Ramp(Schedule):
    """From one factor to another in `steps`; what rises is a warm-up to a value that it keeps.

    So it lasts any training that it is not longer than.
    """

    steps: float

    @property
    def lasts(self) -> float | None:
        """Its length, if it goes down."""
        return self.steps if self.value(self.steps) < self.value(0) else None

    @property
    def warmup_steps(self) -> float:
        """All of them, if it rises."""
        return self.steps if self.value(self.steps) > self.value(0) else 0


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """One factor, forever or for some steps; torch's ConstantLR is `constant(1 / 3, 5) >> constant()`.

    Args:
        factor: The factor.
        steps: How long, > 0; None: forever.
    """

    factor: float = 1.0
    steps: float | None = None

    def __post_init__(self) -> None:
        need(self, "factor")
        if self.steps is not None:
            need(self, "steps", above=0)

    def value(self, t: float) -> float:  # noqa: ARG002
        return self.factor


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """Up to 1 along a line: `warmup(500) >> cosine(10000)` is 500 steps, then 10000; `*` runs both at once.

    From its end on it is 1. With the default start the first step has lr 0: it moves no weight but fills
    the averages.

    Formula:
        start + (1 - start) * t / steps

    Args:
        steps: How long, > 0.
        start: The factor of step 0; above 1 it comes down, as the biases of YOLO do.

    Reference:
        Goyal et al. 2017, arXiv:1706.02677, section 2.2.

    Example:
        >>> from thalweg.schedules import warmup
        >>> [warmup(4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    steps: float
    start: float = 0.0

    def __post_init__(self) -> None:
        need(self, "steps", above=0)
        need(self, "start")

    def value(self, t: float) -> float:
        return self.start + (1 - self.start) * t / self.steps

    @property
    def lasts(self) -> None:
        """Any training: it ends in 1."""

    @property
    def warmup_steps(self) -> float:
        """All of them."""
        return self.steps


@dataclass(frozen=True, repr=False)
class linear(Ramp):
    """Along a line; torch's LinearLR is `linear(5, 1 / 3, 1.0) >> constant()`.

    One that rises counts as a warm-up to its last value, which it keeps for any training.

    Formula:
        start + (end - start) * t / steps

    Args:
        steps: How long, > 0.
        start: The first factor.
        end: The last factor.
    """

    steps: float
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        need(self, "steps", above=0)
        need(self, "start")
        need(self, "end")

    def value(self, t: float) -> float:
        return self.start + (self.end - self.start) * t / self.steps


@dataclass(frozen=True, repr=False)
class polynomial(Ramp):
    """Down along a power of what is left.

    Formula:
        end + (1 - end) * (1 - t / steps)^power

    Args:
        steps: How long, > 0.
        power: > 0; 1 is a line, 2 is steep at first.
        end: The last factor.
    """

    steps: float
    power: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        need(self, "steps", above=0)
        need(self, "power", above=0)
        need(self, "end")

    def value(self, t: float) -> float:
        return float(self.end + (1 - self.end) * (1 - t / self.steps) ** self.power)


@dataclass(frozen=True, repr=False)
class cosine(Ramp):
    """Down along half a cosine: slow, fast, slow.

    Formula:
        end + (1 - end) * (1 + cos(pi * t / steps)) / 2

    Args:
        steps: How long, > 0.
        end: The last factor: torch's eta_min over the base.

    Reference:
        Loshchilov and Hutter 2016, arXiv:1608.03983, equation 5, without restarts.

    Differs:
        Past its end it stays there; torch's CosineAnnealingLR climbs up again.
    """

    steps: float
    end: float = 0.0

    def __post_init__(self) -> None:
        need(self, "steps", above=0)
        need(self, "end")

    def value(self, t: float) -> float:
        return self.end + (1 - self.end) * (1 - half_cosine(t / self.steps))


@dataclass(frozen=True, repr=False)
class one_cycle(Ramp):
    """YOLO's half cosine from one factor to another: `one_cycle(1.0, 0.01, epochs)`.

    Not Smith's cycle, which torch calls OneCycleLR: that goes up and down, as two of these joined do.

    Formula:
        y1 + (y2 - y1) * (1 - cos(pi * t / steps)) / 2

    Args:
        y1: The first factor.
        y2: The last factor.
        steps: How long, > 0.

    Reference:
        He et al. 2018, arXiv:1812.01187, section 5.1; YOLOv5's `one_cycle`.

    Example:
        >>> from thalweg.schedules import one_cycle
        >>> [one_cycle(1.0, 0.5, 100)(epoch) for epoch in (0, 50, 100)]
        [1.0, 0.75, 0.5]
    """

    y1: float
    y2: float
    steps: float

    def __post_init__(self) -> None:
        need(self, "y1")
        need(self, "y2")
        need(self, "steps", above=0)

    def value(self, t: float) -> float:
        return self.y1 + (self.y2 - self.y1) * half_cosine(t / self.steps)


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    """A cosine again and again, each time longer.

    Formula:
        end + (1 - end) * (1 + cos(pi * t_i / T_i)) / 2,  T_0 = first, T_i = mult * T_{i-1}

    Args:
        first: Steps of the first, > 0.
        mult: How many times longer each next is, >= 1.
        end: The factor that each comes down to.

    Reference:
        Loshchilov and Hutter 2016, arXiv:1608.03983 (SGDR).
    """

    first: float
    mult: float = 1
    end: float = 0.0

    def __post_init__(self) -> None:
        need(self, "first", above=0)
        need(self, "mult", low=1)
        need(self, "end")

    def value(self, t: float) -> float:
        length = self.first
        if self.mult == 1:
            t %= length
        while t >= length:
            t -= length
            length *= self.mult
        return self.end + (1 - self.end) * (1 - half_cosine(t / length))


@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    """By the same factor every step.

    Formula:
        gamma^t

    Args:
        gamma: > 0; below 1 it decays.
    """

    gamma: float

    def __post_init__(self) -> None:
        need(self, "gamma", above=0)

    def value(self, t: float) -> float:
        return float(self.gamma**t)


@dataclass(frozen=True, repr=False)
class step(Schedule):
    """By a factor every so many steps.

    Formula:
        gamma^floor(t / size)

    Args:
        size: Steps between, > 0.
        gamma: The factor, > 0.
    """

    size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        need(self, "size", above=0)
        need(self, "gamma", above=0)

    def value(self, t: float) -> float:
        return float(self.gamma ** (t // self.size))


@dataclass(frozen=True, repr=False)
class multi_step(Schedule):
    """By a factor at each milestone.

    Args:
        milestones: Rising steps.
        gamma: The factor, > 0.

    Example:
        >>> from thalweg.schedules import multi_step
        >>> [multi_step((30, 60), 0.5)(epoch) for epoch in (29, 30, 60)]
        [1.0, 0.5, 0.25]
    """

    milestones: Sequence[float]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        need(self, "gamma", above=0)
        milestones = rising("multi_step", "milestones", self.milestones)
        object.__setattr__(self, "milestones", milestones)
        if not milestones:
            raise ArgumentError("multi_step got no milestones; as (30, 60)")

    def value(self, t: float) -> float:
        return float(self.gamma ** bisect_right(self.milestones, t))


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    """Down with the root of the steps, without an end: `warmup(4000) >> inverse_sqrt(4000)`.

    Formula:
        sqrt(timescale / (timescale + t))

    Args:
        timescale: Steps after which it is 1 / sqrt(2), > 0; behind a warm-up as many as that has, for the
            schedule of the Transformer.

    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, equation 3, over its peak.
    """

    timescale: float

    def __post_init__(self) -> None:
        need(self, "timescale", above=0)

    def value(self, t: float) -> float:
        return math.sqrt(self.timescale / (self.timescale + t))


DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": half_cosine,
    "1-sqrt": math.sqrt,
}
"""How WSD comes down: the share of the way that is done, by the share of the time."""


@dataclass(frozen=True, repr=False)
class wsd(Schedule):
    """Warm-up, stable, decay: one lr for most of training, and a short way down at the end.

    A checkpoint from before the decay can be trained on for longer, which a cosine's cannot.

    Args:
        steps: All of them, > 0, warm-up and decay included.
        warmup: Steps of warm-up, from 0 along a line.
        decay: Steps of decay.
        shape: "linear", "cosine" or "1-sqrt" (1 - sqrt(share)), which Hagele et al. found best.
        end: The last factor.

    Reference:
        Hu et al. 2024, arXiv:2404.06395; Hagele et al. 2024, arXiv:2405.18392.

    Example:
        >>> from thalweg.schedules import wsd
        >>> [wsd(100, warmup=10, decay=20)(step) for step in (5, 10, 80, 90, 100)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    steps: float
    warmup: float
    decay: float
    shape: str = "linear"
    end: float = 0.0

    def __post_init__(self) -> None:
        need(self, "steps", above=0)
        need(self, "warmup", low=0)
        need(self, "decay", above=0)
        need(self, "end")
        if self.shape not in DECAYS:
            raise ArgumentError(f"wsd got shape={self.shape!r}; one of {', '.join(DECAYS)}")
        if self.warmup + self.decay > self.steps:
            raise ArgumentError(
                f"wsd got warmup={self.warmup:g} and decay={self.decay:g}, together more than all its "
                f"{self.steps:g} steps"
            )

    def value(self, t: float) -> float:
        if t < self.warmup:
            return t / self.warmup
        done = max(0.0, t - (self.steps - self.decay)) / self.decay
        return 1 + (self.end - 1) * DECAYS[self.shape](done)

    @property
    def warmup_steps(self) -> float:
        """Those of its first part."""
        return self.warmup
