"""What a comparison found."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from thalweg.study.search import choose, is_on_edge
from thalweg.study.train import Run


@dataclass
class Entry:
    """One optimizer's share of a comparison.

    Args:
        name: as the user wrote it.
        default_lr: the optimizer's own, or None if it has none.
        centre: the learning rate in the middle of the grid.
        trials: the runs of the search, in the order they were made.
        searched: whether the search is complete.
        runs: the final runs, one per seed.
    """

    name: str
    default_lr: float | None
    centre: float
    trials: list[Run] = field(default_factory=list)
    searched: bool = False
    runs: list[Run] = field(default_factory=list)

    @property
    def best(self) -> Run | None:
        """The trial with the chosen learning rate; None if all diverged or the search goes on."""
        return choose(self.trials) if self.searched else None

    @property
    def on_edge(self) -> bool:
        """Whether a better rate may lie outside what was tried."""
        return self.searched and is_on_edge(self.trials)

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies (0 to 1) of the final runs that did not diverge."""
        return [run.test_accuracy for run in self.runs if run.test_accuracy is not None]

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy (0 to 1)."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the test accuracy over seeds; None with fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def steps_to(self, target: float) -> float | None:
        """Return the median over seeds of the steps to a validation accuracy; None if never."""
        steps = [run.steps_to(target) for run in self.runs]
        median = statistics.median([math.inf if s is None else s for s in steps] or [math.inf])
        return median if math.isfinite(median) else None

    @property
    def step_seconds(self) -> float | None:
        """Median over final runs of the median time of ``optimizer.step()``."""
        seconds = [run.step_seconds for run in self.runs if run.step_seconds is not None]
        return statistics.median(seconds) if seconds else None

    @property
    def state_bytes(self) -> float | None:
        """Bytes of optimizer state per parameter, 0-dim step counters left out."""
        return next((run.state_bytes for run in self.runs if run.state_bytes is not None), None)


@dataclass
class Comparison:
    """Everything a comparison found, and what is needed to repeat it.

    Args:
        settings: what was asked for and what followed from it, as plain data.
        data: sizes of the splits and of the network.
        title: of the task.
        target: the validation accuracy (0 to 1) that steps are counted to.
        entries: one per optimizer, in the order they were named.
        interrupted: whether it was stopped from the keyboard.
        seconds: wall-clock time of all of it.
    """

    settings: dict[str, object]
    data: dict[str, object]
    title: str
    target: float
    entries: list[Entry]
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def finished(self) -> list[Entry]:
        """The entries whose learning rate is chosen: all of them, unless interrupted."""
        return [entry for entry in self.entries if entry.searched]
