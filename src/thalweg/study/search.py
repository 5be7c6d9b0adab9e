"""How a learning rate is chosen: the same small search for every optimizer.

1. Five rates, each sqrt(10) = 3.16 times the one before, two on either side of a centre. The
   centre is the optimizer's own default: the rate its author suggests. One exception: SGD's default
   in torch, 0.001, is a placeholder (the argument had no default for years), so SGD starts from
   0.01, the rate of torch.optim's own documentation.
2. The best is the one with the lowest validation loss after the last step. The loss and not the
   accuracy, because on a few hundred examples several rates have the very same accuracy.
3. While the best is the lowest or the highest rate tried, one more rate is tried beyond it, at most
   four times, so that nobody is judged by a grid that was in the wrong place. If all diverged, the
   next one is lower. How many were tried is part of the result.

Each rate is tried once, all with the same seed, which is none of the seeds that the final runs use:
the luck of a trial does not enter the figures. The test split takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

REACH = 2  # rates on either side of the centre
SIZE = 2 * REACH + 1  # rates in the grid
RATIO = 10**0.5  # between neighbouring rates
EXTRA = 4  # rates beyond the edge of the grid, at most


class Trial(Protocol):
    """One run with one learning rate."""

    @property
    def lr(self) -> float:
        """The rate."""

    @property
    def rank(self) -> tuple[float, ...] | None:
        """How good it was, lower is better; None if it diverged."""


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def rate(centre: float, index: int) -> float:
    """Return the rate ``index`` places above the centre; three digits, so that it can be quoted."""
    return float(f"{centre * RATIO**index:.3g}")


def choose(trials: Iterable[AnyTrial]) -> AnyTrial | None:
    """Return the trial of the lowest rank, or None if all diverged."""
    finished = [trial for trial in trials if trial.rank]
    return min(finished, key=lambda trial: trial.rank or (), default=None)


def search(
    attempt: Callable[[float], AnyTrial], centre: float, reach: int = REACH
) -> Iterator[AnyTrial]:
    """Yield one trial per learning rate tried, following the three rules above.

    Args:
        attempt: makes one trial with a learning rate.
        centre: the middle of the grid.
        reach: rates on either side of it.
    """
    tried: dict[int, AnyTrial] = {}
    for index in range(-reach, reach + 1):
        tried[index] = attempt(rate(centre, index))
        yield tried[index]
    for _ in range(EXTRA):
        best, low, high = choose(tried.values()), min(tried), max(tried)
        if best is None or best is tried[low]:
            index = low - 1
        elif best is tried[high]:
            index = high + 1
        else:
            return
        tried[index] = attempt(rate(centre, index))
        yield tried[index]


def is_on_edge(trials: Iterable[Trial]) -> bool:
    """Whether the best rate is still the lowest or the highest tried: the search ran out."""
    trials = list(trials)
    best, rates = choose(trials), [trial.lr for trial in trials]
    return best is not None and best.lr in (min(rates), max(rates))
