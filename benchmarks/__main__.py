"""Command line: one parameter set in this process, or everything in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from . import fresh, host, report, results, steps
from .families import ALL
from .models import SETS
from .peers import COMPARISONS

MEASURES = ("steps", "memory", "cold", "host", "imports")
SMALL_ROUNDS = 51  # where a round takes milliseconds
PLAN: dict[str, tuple[str, ...]] = {
    "gpt2": tuple(name for name in ALL if name != "muonadamw"),
    "resnet50": ("adamw", "sgd", "radam", "lion", "ranger"),
    "yolov8n": ("adamw", "sgd", "lion", "ranger"),
    "small1000": ("adamw", "adam", "sgd", "radam", "lion", "ranger"),
    "tiny10000": ("adamw", "lion"),
    "matrices1024": ("muonadamw",),
    "yolo126": ("muonadamw",),
}


def _listed(text: str, allowed: tuple[str, ...], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise typer.BadParameter(f"{name!r} is no {what}; there are {', '.join(allowed)}")
    return names


def _say(text: str) -> None:
    typer.echo(text, err=True)


class Bench:
    """One invocation: what to measure, how, and where to keep it."""

    def __init__(self, folder: Path, threads: int, settings: steps.Settings, rounds: int) -> None:
        self.folder, self.threads, self.settings, self.rounds = folder, threads, settings, rounds

    def save(self, kind: str, name: str, figures: dict[str, Any]) -> None:
        path = results.save(self.folder, kind, name, self.threads, self.settings.device, figures)
        _say(f"  kept in {path}")

    def steps(self, set_name: str, algorithms: list[str]) -> None:
        for algorithm in algorithms:
            _say(f"steps: {set_name}, {algorithm}, {self.settings.rounds} rounds")
            figures = steps.compare(ALL[algorithm], SETS[set_name](), self.settings)
            self.save("steps", set_name, {algorithm: figures})
            for name, f in figures["contenders"].items():
                ratio = f"{f['paired_ratio']:8.3f}" if "paired_ratio" in f else ""
                typer.echo(f"{name:34} {f['median_ms']:10.3f} ms {ratio}")

    def memory(self, set_name: str, algorithms: list[str]) -> None:
        for algorithm in algorithms:
            rows = {row.name for row in COMPARISONS[algorithm].rows}
            contenders = [name for name in self.settings.only or fresh.MEMORY if name in rows]
            _say(f"memory: {set_name}, {algorithm}")
            figures = fresh.memory(self.threads, set_name, algorithm, contenders)
            self.save("memory", set_name, {algorithm: figures})

    def cold(self, set_name: str) -> None:
        _say(f"cold first step: {set_name}")
        repeats = min(5, self.rounds)
        jobs = [(algorithm, "thalweg fused", repeats) for algorithm in ("adamw", "lion", "ranger")]
        jobs.append(("adamw", "torch fused", repeats))
        if self.settings.compiled:
            jobs.append(("adamw", "torch compile", 1))
        self.save("cold", set_name, fresh.cold(self.threads, set_name, jobs))

    def host(self, set_name: str, algorithms: list[str]) -> None:
        for algorithm in algorithms:
            _say(f"host time: {set_name}, {algorithm}")
            figures: dict[str, Any]
            try:
                figures = host.host_time(algorithm, set_name, self.rounds)
            except (ImportError, AttributeError, RuntimeError) as error:
                figures = {"error": f"{type(error).__name__}: {error}"[:200]}
                _say(f"  {figures['error']}")
            self.save("host", set_name, {algorithm: figures})

    def imports(self) -> None:
        _say("import time")
        self.save("imports", "", {"imports": fresh.imports(min(9, self.rounds))})


def _everything(arguments: list[str]) -> None:
    """Each comparison in a process of its own, one after the other."""
    jobs = [["--set", name, "--algorithms", a] for name, all_ in PLAN.items() for a in all_]
    if "cuda" not in arguments:  # the rest is about the processor
        jobs += [["--measure", "memory", "--set", "gpt2", "--algorithms", "adamw,lion,radam"]]
        jobs += [["--measure", "cold"], ["--measure", "host", "--algorithms", "adamw,lion"]]
        jobs += [["--measure", "imports"]]
    for job in jobs:
        subprocess.run([sys.executable, "-m", "benchmarks", *job, *arguments], check=True)


DEFAULT_SETS = {"steps": "gpt2", "memory": "gpt2", "cold": "conv160", "host": "tiny10000"}


def main(
    set_name: Annotated[str, typer.Option("--set", help=", ".join(SETS))] = "",
    algorithms: Annotated[str, typer.Option(help=", ".join(ALL))] = "adamw,lion",
    measure: Annotated[str, typer.Option(help=", ".join(MEASURES))] = "steps",
    rounds: Annotated[int, typer.Option(min=0, help="0: 15 for large sets, 51 for small")] = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile too: minutes")] = False,
    only: Annotated[str, typer.Option(help="contenders by name, separated by commas")] = "",
    gradients: Annotated[str, typer.Option(help="new or shared")] = "new",
    json: Annotated[Path, typer.Option(help="folder of the results")] = results.FOLDER,
    markdown: Annotated[Path | None, typer.Option(help="write the page of all results")] = None,
    everything: Annotated[bool, typer.Option("--all", help="all published figures")] = False,
) -> None:
    """Measure optimizers beside each other; figures are kept as JSON."""
    _listed(gradients, ("new", "shared"), "kind of gradients")
    _listed(device, ("cpu", "cuda"), "device")
    if device == "cuda" and not torch.cuda.is_available():
        _say("no CUDA device here: not measured")
        raise typer.Exit(0)
    if everything:
        flags = ["--threads", str(threads), "--device", device, "--json", str(json)]
        _everything([*flags, "--rounds", str(rounds), *(["--compile"] if compiled else [])])
    elif set_name or not markdown:
        torch.set_num_threads(threads)
        chosen = _listed(algorithms, tuple(ALL), "algorithm")
        names = tuple(name.strip() for name in only.split(",") if name.strip())
        for kind in _listed(measure, MEASURES, "measure"):
            name = set_name or DEFAULT_SETS.get(kind, "")
            _listed(name, tuple(SETS), "parameter set")
            number = rounds or (
                15 if name in ("gpt2", "resnet50", "matrices1024", "") else SMALL_ROUNDS
            )
            settings = steps.Settings(number, device, compiled, names, gradients, _say)
            _dispatch(Bench(json, threads, settings, number), kind, name, chosen)
    if markdown:
        markdown.write_text(report.page(results.load(json)))
        _say(f"wrote {markdown}")


def _dispatch(bench: Bench, kind: str, set_name: str, algorithms: list[str]) -> None:
    if kind == "imports":
        bench.imports()
    elif kind == "cold":
        bench.cold(set_name)
    else:
        {"steps": bench.steps, "memory": bench.memory, "host": bench.host}[kind](
            set_name, algorithms
        )


if __name__ == "__main__":
    typer.run(main)
