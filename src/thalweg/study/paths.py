"""Paths of optimizers over a surface: what each step does, seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import ArgumentError
from thalweg.importing import said
from thalweg.study import report
from thalweg.study.contenders import DEFAULTS, Contender, build, distinct, rate_of
from thalweg.study.search import choose, search
from thalweg.study.surfaces import Surface, load_surface
from thalweg.study.train import averaged

STEPS = 100
ROWS = 10  # of the table of distances, below the start
FAR = 1e6  # times the distance at the start: nothing comes back from there
REACH = 6  # rates on either side of the default: runs are cheap, and a surface is no network
FLOOR = 1e-12  # heights below it are equally good

SLOW = "lookahead_slow"  # where Lookahead keeps its slow weights in an optimizer's state


@dataclass(frozen=True)
class Trajectory:
    """The path of one optimizer.

    Args:
        name: as the user wrote it.
        lr: its learning rate.
        chosen: whether the search chose the rate; else it is the name's own.
        points: the weights, or their average where one is kept, of shape (steps + 1, 2), float64; the
            first row is the start.
        heights: of the surface at those points.
        fast: as ``points``, before Lookahead pulled them back; the same tensor without Lookahead.
        slow: Lookahead's slow weights, or None without Lookahead.
        diverged_at: the step that left the surface, or None; the path ends before it.
    """

    name: str
    lr: float
    chosen: bool
    points: Tensor
    heights: Tensor
    fast: Tensor
    slow: Tensor | None = None
    diverged_at: int | None = None

    @property
    def rank(self) -> tuple[float, ...] | None:
        """What the search goes by: the mean logarithm of height, later half; None if diverged."""
        if self.diverged_at:
            return None
        later = self.heights[len(self.heights) // 2 :]
        return (later.clamp_min(FLOOR).log().mean().item(),)

    @property
    def syncs(self) -> list[int]:
        """The steps at which Lookahead moved its slow weights."""
        if self.slow is None:
            return []
        moved = (self.slow[1:] != self.slow[:-1]).any(1)
        return [step + 1 for step in moved.nonzero()[:, 0].tolist()]

    @property
    def rounds(self) -> list[Tensor]:
        """The fast path in pieces: from each sync to the point where the next pulls it back."""
        ends = [0, *self.syncs, len(self.points) - 1]
        pieces = [
            torch.cat([self.points[start : start + 1], self.fast[start + 1 : end + 1]])
            for start, end in pairwise(ends)
        ]
        return [piece for piece in pieces if len(piece) > 1]


@dataclass(frozen=True)
class Trajectories:
    """Several paths over one surface.

    Args:
        surface: what they run over.
        steps: that each path has, unless it diverged.
        paths: in the order the optimizers were named.
    """

    surface: Surface
    steps: int
    paths: list[Trajectory]


def trajectories(
    optimizers: Sequence[str | Contender] = DEFAULTS,
    surface: str | Surface = "ravine",
    steps: int = STEPS,
    output: str | Path | None = None,
    *,
    gif: bool = False,
) -> Trajectories:
    """Let optimizers run over a surface from the same start, in float64.

    Everything is deterministic: exact gradients, no noise. An optimizer whose name gives no
    learning rate runs at the best of a small search, the one of ``thalweg.study.search`` with six
    rates on either side of the default; best is the lowest mean logarithm of the height over the
    later half of the path, so that neither a lucky last step nor a slow first one decides.

    Args:
        optimizers: as ``compare`` takes them; ``"sgd(lr=0.1)"`` runs at that rate.
        surface: a name in ``thalweg.study.SURFACES`` or a ``Surface``.
        steps: of every path, at least 1.
        output: a folder for the picture, named after the surface; None writes nothing.
        gif: whether to write an animation beside it.

    Returns:
        The paths.

    Raises:
        ArgumentError: for an argument that cannot be used; nothing has been written then.

    Example:
        >>> found = trajectories(["sgd(lr=0.1)"], "ravine", steps=2)
        >>> found.paths[0].points.round(decimals=3).tolist()
        [[-8.0, 3.5], [-7.91, 3.0], [-7.821, 2.6]]
    """
    if steps < 1:
        raise ArgumentError(f"steps must be at least 1, got {steps}.")
    surface = load_surface(surface) if isinstance(surface, str) else surface
    contenders = distinct(optimizers)
    if output is not None:
        report.check_folder(Path(output))
    found = Trajectories(surface, steps, [_tuned(surface, c, steps) for c in contenders])
    if output is not None:
        from thalweg.study.figures import paths  # Matplotlib takes a second to import

        Path(output).mkdir(parents=True, exist_ok=True)
        paths.save(found, Path(output), gif=gif)
    return found


def _tuned(surface: Surface, contender: Contender, steps: int) -> Trajectory:
    """Return the path at the name's own rate, or at the best of the search."""
    default = rate_of(contender, [_point(surface)])
    attempt = partial(run, surface, contender, steps=steps)
    if default.fixed:
        return attempt(lr=default.centre, chosen=False)
    trials = list(search(lambda lr: attempt(lr=lr, chosen=True), default.centre, REACH))
    return choose(trials) or trials[-1]


def _point(surface: Surface) -> nn.Parameter:
    return nn.Parameter(torch.tensor(surface.start, dtype=torch.float64))


def run(
    surface: Surface, contender: Contender, lr: float, *, steps: int, chosen: bool = False
) -> Trajectory:
    """Return the path of one optimizer at one learning rate.

    Raises:
        ArgumentError: if the optimizer cannot be built or cannot take a step.
    """
    point = _point(surface)
    optimizer = build(contender, [point], lr)
    recorder = _Recorder(surface, point, optimizer)
    for _ in range(steps):
        try:
            recorder.step()
        except Exception as error:  # whatever a foreign optimizer's step does
            raise ArgumentError(f"{contender.name} cannot take a step: {said(error)}") from error
        if recorder.lost:
            break
    return recorder.trajectory(contender.name, lr, chosen=chosen)


class _Recorder:
    """Takes steps on a surface and remembers where they led."""

    def __init__(self, surface: Surface, point: nn.Parameter, optimizer: Optimizer) -> None:
        self.surface, self.point, self.optimizer = surface, point, optimizer
        self.limit = FAR * max(1.0, surface.distance(point.detach()[None]).item())
        start = point.detach().clone()
        self.points, self.fast, self.slow = [start], [start], [start]
        self.lost = False

    def step(self) -> None:
        # A closure, for optimizers that look at the surface several times a step
        self.optimizer.step(self._height)
        with averaged(self.optimizer):  # what would be used is what is drawn
            now = self.point.detach().clone()
        distance = self.surface.distance(now[None]).item()
        if not (math.isfinite(distance) and distance <= self.limit):
            self.lost = True
            return
        kept = self.optimizer.state[self.point].get(SLOW)
        slow = now if kept is None else kept.detach().clone()
        self.fast.append(self._before_the_pull(now, slow))
        self.points.append(now)
        self.slow.append(slow)

    def _height(self) -> float:
        with torch.enable_grad():
            self.optimizer.zero_grad()
            height = self.surface(self.point)
            height.backward()  # type: ignore[no-untyped-call]
        return height.item()

    def _before_the_pull(self, now: Tensor, slow: Tensor) -> Tensor:
        """Return where the fast weights were; at a sync, slow = before + alpha (fast - before)."""
        before = self.slow[-1]
        if SLOW not in self.optimizer.state[self.point] or torch.equal(slow, before):
            return now
        alpha = self.optimizer.param_groups[0]["lookahead_alpha"]
        return torch.lerp(before, slow, 1 / alpha)

    def trajectory(self, name: str, lr: float, *, chosen: bool) -> Trajectory:
        points = torch.stack(self.points)
        ahead = SLOW in self.optimizer.state[self.point]
        return Trajectory(
            name,
            lr,
            chosen,
            points,
            self.surface.height(points[:, 0], points[:, 1]),
            torch.stack(self.fast) if ahead else points,
            torch.stack(self.slow) if ahead else None,
            len(points) if self.lost else None,
        )


def moments(steps: int) -> list[int]:
    """Return the steps at which distances are told: equally far apart, the last one too.

    Example:
        >>> moments(100), moments(7)
        ([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    return sorted({*range(0, steps, max(1, steps // ROWS)), steps})
