"""What the Monitor costs: a step beside one that it does not measure and one that it does.

AdamW on YOLOv8n's tensors, the step alone and a whole training step of a small convolutional net; medians of
interleaved rounds.

    python -m benchmarks.monitor
    python -m benchmarks --markdown docs/benchmarks.md
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import nn

import thalweg
from thalweg.recipe import Monitor

from . import results
from .models import SETS

EVERY = 100

Work = Callable[[], None]


def figures(work: Callable[[bool], tuple[Work, Monitor | None]], rounds: int) -> dict[str, float]:
    """Medians in microseconds of a step without the monitor, of one it passes over, of a measured one."""
    plain, _ = work(False)
    watched, monitor = work(True)
    assert monitor is not None
    times: dict[str, list[float]] = {"plain": [], "passed over": [], "measured": []}
    kinds: list[tuple[str, Work, int]] = [
        ("plain", plain, 0),
        ("passed over", watched, 1),
        ("measured", watched, 0),
    ]
    gc.disable()
    for i in range(rounds + 5):
        for name, step, count in kinds[i % 3 :] + kinds[: i % 3]:
            monitor.steps = count
            begin = time.perf_counter()
            step()
            times[name].append(1e6 * (time.perf_counter() - begin))
        gc.collect()
    gc.enable()
    found = {name: median(values[5:]) for name, values in times.items()}
    passed = median(
        b / a for a, b in zip(times["plain"][5:], times["passed over"][5:], strict=True)
    )
    more = (found["measured"] - found["plain"]) / EVERY / found["plain"]
    return {**found, "passed over / plain": passed, "every 100 / plain": 1.0 + more}


def alone(watch: bool) -> tuple[Work, Monitor | None]:
    """The optimizer's step on YOLOv8n's tensors."""
    params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in SETS["yolov8n"]()]
    for p in params:
        p.grad = 0.01 * torch.randn_like(p)
    optimizer = thalweg.AdamW(params, lr=1e-5)
    return optimizer.step, Monitor(optimizer, EVERY) if watch else None


def training(watch: bool) -> tuple[Work, Monitor | None]:
    """Forward, backward and step of a small convolutional net, on eight images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    optimizer = thalweg.AdamW(model.parameters(), lr=1e-5)
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step, Monitor(optimizer, EVERY) if watch else None


def main(
    rounds: int = 60,
    threads: int = 1,
    json: Annotated[Path, typer.Option(help="folder of the results")] = results.FOLDER,
) -> None:
    """Measure both, print them, and keep them as JSON."""
    torch.set_num_threads(threads)
    found = {work.__name__: figures(work, rounds) for work in (alone, training)}
    for name, f in found.items():
        said = ", ".join(f"{k} {v:.4f}" if "/" in k else f"{k} {v:.0f} us" for k, v in f.items())
        typer.echo(f"{name}: {said}")
    path = results.save(json, "monitor", "", threads, "cpu", found)
    typer.echo(f"kept in {path}")


if __name__ == "__main__":
    typer.run(main)
