"""Host time: ``step()`` with the call of the compiled kernel replaced by nothing.

What is left is what Python does each step: hooks, groups, the checks that cached address tables
are still true, hyper-parameters, step counts, version counters.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import machine, results
from .models import SETS
from .peers import COMPARISONS
from .steps import Stepper, normal

HOOK = "thalweg.engine.backends.c_run"  # calls its own ``launch(function, *arguments)``


@contextmanager
def no_kernels() -> Iterator[Callable[[], int]]:
    """Replace the kernel call by nothing; yields the number of calls swallowed so far."""
    runner: Any = importlib.import_module(HOOK)
    real, calls = runner.launch, 0

    def nothing(*_: object) -> None:
        nonlocal calls
        calls += 1

    runner.launch = nothing
    try:
        yield lambda: calls
    finally:
        runner.launch = real


def host_time(algorithm: str, set_name: str, rounds: int) -> dict[str, Any]:
    """Microseconds a tensor, with the same gradient objects and with new ones every step."""
    shapes = SETS[set_name]()
    row = next(r for r in COMPARISONS[algorithm].rows if r.name == "thalweg fused")
    stepper = Stepper(row, normal(shapes, "cpu", 2e-2, seed=0))
    gradients = normal(shapes, "cpu", 1e-2, seed=1)
    stepper.feed(gradients)
    stepper.step()  # compiles
    others = machine.Others()
    with no_kernels() as calls:
        same = [_timed(stepper) for _ in range(rounds + 3)][3:]
        new = []
        for _ in range(rounds + 3):
            # made while the old ones live, so that no address is an old one
            gradients = [torch.empty_like(g) for g in gradients]
            stepper.feed(gradients)
            new.append(_timed(stepper))
        if not calls():
            raise RuntimeError(f"{HOOK}.launch was never called: nothing was measured")
    figures: dict[str, Any] = {"others_cpu_share": others.share(), "tensors": len(shapes)}
    for name, values in (("same", same), ("new", new[3:])):
        summary = results.summarize(values, None)
        figures[name] = summary | {"us_per_tensor": 1e3 * summary["median_ms"] / len(shapes)}
    return figures


def _timed(stepper: Stepper) -> float:
    gc.disable()
    try:
        start = time.perf_counter()
        stepper.step()
        return 1e3 * (time.perf_counter() - start)
    finally:
        gc.enable()
