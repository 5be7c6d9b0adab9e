"""Step time: contenders take turns, round by round, in one process."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from . import machine, results
from .models import Shape, elements
from .peers import Comparison, Row

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """How to measure; the defaults are those of the published figures."""

    rounds: int = 15
    device: str = "cpu"
    compiled: bool = False
    only: tuple[str, ...] = ()
    gradients: str = "new"  # "new": other tensors every step, as zero_grad() and backward() make
    say: Callable[[str], None] = lambda _: None


class Contender(Protocol):
    """Something that steps: gradients are handed in and taken away outside of the timed part."""

    def feed(self, gradients: Tensors) -> None: ...
    def step(self) -> object: ...
    def drop(self) -> None: ...
    def state_bytes(self) -> int: ...


class Stepper:
    """An optimizer over its own copy of the parameters."""

    def __init__(self, row: Row, weights: Tensors) -> None:
        self.parameters = [torch.nn.Parameter(weight) for weight in weights]
        self.optimizer = row.build(self.parameters)

    def feed(self, gradients: Tensors) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def step(self) -> object:
        return self.optimizer.step()

    def drop(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state_bytes(self) -> int:
        return state_bytes(self.optimizer)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all state tensors; storage that several are views of is counted once."""
    sizes: dict[int, int] = {}
    pending: list[Any] = list(optimizer.state.values())
    while pending:
        item = pending.pop()
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, (list, tuple)):
            pending += item
    return sum(sizes.values())


def synchronize(device: str) -> None:
    """Wait for the device, so that a clock read next is true."""
    if device == "cuda":
        torch.cuda.synchronize()


def normal(shapes: list[Shape], device: str, scale: float, seed: int) -> Tensors:
    """The same random tensors for every contender."""
    generator = torch.Generator(device).manual_seed(seed)
    return [torch.randn(s, device=device, generator=generator).mul_(scale) for s in shapes]


class Race:
    """A comparison on one parameter set."""

    def __init__(self, comparison: Comparison, shapes: list[Shape], settings: Settings) -> None:
        self.comparison, self.shapes, self.settings = comparison, shapes, settings
        self.source = normal(shapes, settings.device, 1e-2, seed=1)
        self.missing: dict[str, str] = dict(comparison.absent)
        self.field: dict[str, Contender] = {}

    def enter(self) -> None:
        """Build and warm up everyone; who cannot start is named with the reason."""
        rows = [r for r in self.comparison.rows if self.settings.compiled or not r.compiled]
        entries: dict[str, Callable[[Tensors], Contender]] = {}
        for row in rows:
            entries[row.name] = lambda weights, row=row: Stepper(row, weights)  # type: ignore[misc]
        if self.comparison.streams is not None:
            entries["streams"] = self._streams
        only = self.settings.only
        chosen = {name: build for name, build in entries.items() if not only or name in only}
        self._check_memory(len(chosen))
        for name, build in chosen.items():
            self._enter(name, build)

    def _enter(self, name: str, build: Callable[[Tensors], Contender]) -> None:
        try:
            contender = build(normal(self.shapes, self.settings.device, 2e-2, seed=0))
            for _ in range(self.comparison.warmup):
                self._sample(contender, steps=1)
        except Exception as error:  # a peer may fail in any way; say so and go on
            reason = (str(error).strip() or "no message").splitlines()[0]
            self.missing[name] = f"{type(error).__name__}: {reason}"[:200]
            self.settings.say(f"  {name} is missing: {self.missing[name]}")
            return
        self.field[name] = contender

    def _streams(self, weights: Tensors) -> Contender:
        slots = self.comparison.streams or 0
        if self.settings.device == "cuda":
            from .streams_cuda import Streams as CudaStreams

            return CudaStreams(weights, slots)
        from .streams import Streams

        return Streams(weights, slots)

    def _check_memory(self, contenders: int) -> None:
        free = machine.available_bytes()
        each = 4 * elements(self.shapes)
        need = each * (contenders * (1 + self.comparison.slots) + 4)
        if self.settings.device == "cpu" and free is not None and need > free:
            raise MemoryError(
                f"{self.comparison.name}: {contenders} contenders need {need / 2**30:.1f} GiB of "
                f"{free / 2**30:.1f} GiB; name fewer with --only"
            )

    def _gradients(self) -> Tensors:
        return [g.clone() for g in self.source] if self.settings.gradients == "new" else self.source

    def _sample(self, contender: Contender, steps: int) -> float:
        seconds = 0.0
        for _ in range(steps):
            contender.feed(self._gradients())
            synchronize(self.settings.device)
            start = time.perf_counter()
            contender.step()
            synchronize(self.settings.device)
            seconds += time.perf_counter() - start
            if self.settings.gradients == "new":
                contender.drop()
        return 1e3 * seconds / steps

    def run(self) -> dict[str, list[float]]:
        """Milliseconds a step: one sample for each contender and round, in shuffled order."""
        samples: dict[str, list[float]] = {name: [] for name in self.field}
        order = list(self.field)
        shuffle = random.Random(0).shuffle
        gc.collect()
        gc.disable()
        try:
            for _ in range(self.settings.rounds):
                shuffle(order)
                for name in order:
                    milliseconds = self._sample(self.field[name], self.comparison.steps)
                    samples[name].append(milliseconds)
                gc.collect()
        finally:
            gc.enable()
        return samples


def compare(comparison: Comparison, shapes: list[Shape], settings: Settings) -> dict[str, Any]:
    """Run a comparison and return its figures, raw samples included."""
    race = Race(comparison, shapes, settings)
    race.enter()
    others = machine.Others()
    samples = race.run()
    base = comparison.base if comparison.base in samples else None
    return {
        "threads": torch.get_num_threads(),
        "rounds": settings.rounds,
        "steps_per_sample": comparison.steps,
        "gradients": settings.gradients,
        "elements": elements(shapes),
        "others_cpu_share": others.share(),
        "base": base,
        "missing": race.missing,
        "contenders": {
            name: results.summarize(values, samples[base] if base else None)
            | {"state_bytes": race.field[name].state_bytes()}
            for name, values in samples.items()
        },
    }
