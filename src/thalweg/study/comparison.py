"""The main job: tune each optimizer alike, run each with several seeds, keep what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from thalweg.errors import ArgumentError
from thalweg.study import report, search
from thalweg.study.contenders import DEFAULTS, Contender, check, distinct
from thalweg.study.results import Comparison, Entry
from thalweg.study.tasks import Task, load_task
from thalweg.study.train import Run, Setting, reproducible, train

EPOCHS = 20
SEEDS = 3
EVERY = 10  # steps between two moments


@dataclass(frozen=True)
class Moment:
    """Where a comparison is.

    Args:
        name: the optimizer that is being trained.
        stage: what with: a learning rate or a seed.
        done: steps of this optimizer that are behind us.
        total: steps of this optimizer that are planned.
        loss: the last training loss.
    """

    name: str
    stage: str
    done: int
    total: int
    loss: float


Progress = Callable[[Moment], None]


def compare(
    optimizers: Sequence[str | Contender] = DEFAULTS,
    task: str | Task = "digits",
    epochs: int = EPOCHS,
    seeds: int = SEEDS,
    seed: int = 0,
    device: str = "cpu",
    output: str | Path | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Compare optimizers on a task, each with a learning rate found by the same search.

    The search (``thalweg.study.search`` says how) trains with ``seed``; the final runs train with
    ``seed + 1`` to ``seed + seeds``, the same for every optimizer, so that all start from the same
    weights and see the same batches. The test split is read once per final run, after its last
    step. Two calls with the same arguments give the same numbers, times apart. A run whose loss is
    not finite ends there and is recorded as diverged. ``KeyboardInterrupt`` ends the comparison
    and returns what is finished.

    Args:
        optimizers: names with options (``"lion + cautious"``), ``"module:attribute"`` of your own
            (an optimizer class, a factory ``f(params, lr=...)`` or a rule), or ``Contender``s.
        task: a name in ``thalweg.study.TASKS`` or a ``Task``.
        epochs: passes over the training split per run, at least 1.
        seeds: final runs per optimizer, at least 1.
        seed: where the seeds start, at least 0.
        device: a torch device, ``"cpu"`` or ``"cuda"``.
        output: a folder for ``losses.png``, ``table.md`` and ``results.json``; None writes nothing.
        threads: CPU threads of torch, at least 1. The last digits depend on it; one by default,
            because two gain a third on an idle machine and lose far more on a busy one.
        progress: called every few steps.

    Returns:
        The comparison.

    Raises:
        ArgumentError: for an argument that cannot be used; nothing has been trained then.

    Example:
        >>> result = compare(["adamw"], epochs=1, seeds=1)
        >>> 0.5 < result.entries[0].accuracy < 1
        True
    """
    numbers = {"epochs": epochs, "seeds": seeds, "seed": seed, "threads": threads}
    for name, value in numbers.items():
        low = 0 if name == "seed" else 1
        if value < low:
            raise ArgumentError(f"{name} must be at least {low}, got {value}.")
    task = load_task(task) if isinstance(task, str) else task
    setting = Setting(task, epochs, _device(device))
    with reproducible(threads, setting.device):
        pairs = _enter(optimizers)
        if output is not None:
            report.check_folder(Path(output))
        comparison = Comparison(
            settings=_settings(setting, pairs, seeds, seed, threads),
            data=_data(task),
            title=task.title,
            target=task.target,
            entries=[entry for _, entry in pairs],
        )
        start = time.perf_counter()
        try:
            _run(setting, pairs, seeds, seed, progress)
        except KeyboardInterrupt:
            comparison.interrupted = True
        comparison.seconds = time.perf_counter() - start
    if output is not None and comparison.finished:
        report.save(comparison, Path(output))
    return comparison


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"Unknown device: {name!r}. Use cpu, cuda or cuda:1.") from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArgumentError(f"Device {name!r} cannot be used here: {reason}.") from error
    return device


def _enter(optimizers: Sequence[str | Contender]) -> list[tuple[Contender, Entry]]:
    contenders = distinct(optimizers)
    entries = []
    for contender in contenders:
        default = check(contender)
        entries.append(Entry(contender.name, default.lr, default.centre))
    return list(zip(contenders, entries, strict=True))


def _run(
    setting: Setting,
    pairs: list[tuple[Contender, Entry]],
    seeds: int,
    seed: int,
    progress: Progress | None,
) -> None:
    """Search for each optimizer, then the final runs seed by seed.

    Seed by seed, so that a minute in which the machine is busy slows every optimizer alike.
    """
    trainers = [_Trainer(setting, contender, entry, seeds, progress) for contender, entry in pairs]
    for trainer in trainers:
        trainer.search(seed)
    for number in range(1, seeds + 1):
        for trainer in trainers:
            trainer.final(number, seed + number)


class _Trainer:
    """Trains one contender, files the runs in its entry, and reports where it is."""

    def __init__(
        self,
        setting: Setting,
        contender: Contender,
        entry: Entry,
        seeds: int,
        progress: Progress | None,
    ) -> None:
        self.setting, self.contender, self.entry = setting, contender, entry
        self.seeds, self.progress = seeds, progress

    def search(self, seed: int) -> None:
        def attempt(lr: float) -> Run:
            return self._train(lr, seed, f"lr {lr:g}", final=False)

        for run in search.search(attempt, self.entry.centre):
            self.entry.trials.append(run)
        self.entry.searched = True

    def final(self, number: int, seed: int) -> None:
        best = self.entry.best
        if best:
            stage = f"seed {number} of {self.seeds}"
            self.entry.runs.append(self._train(best.lr, seed, stage, final=True))

    def _train(self, lr: float, seed: int, stage: str, *, final: bool) -> Run:
        steps = self.setting.steps
        behind = len(self.entry.trials) + len(self.entry.runs)
        trials = len(self.entry.trials) if final else max(len(self.entry.trials) + 1, search.SIZE)
        total = (trials + self.seeds) * steps

        def watch(step: int, loss: float) -> None:
            if self.progress and (step % EVERY == 0 or step == steps):
                self.progress(Moment(self.entry.name, stage, behind * steps + step, total, loss))

        return train(self.setting, self.contender, lr, seed, final=final, watch=watch)


def _settings(
    setting: Setting,
    pairs: list[tuple[Contender, Entry]],
    seeds: int,
    seed: int,
    threads: int,
) -> dict[str, object]:
    return {
        "task": setting.task.name,
        "optimizers": [contender.name for contender, _ in pairs],
        "epochs": setting.epochs,
        "steps": setting.steps,
        "batch": setting.task.batch,
        "device": str(setting.device),
        "threads": threads,
        "schedule": "linear to zero",
        "target": setting.task.target,
        "validated_every": setting.task.every,
        "search": {
            "seed": seed,
            "criterion": "lowest validation loss after the last step",
            "grid": search.SIZE,
            "ratio": search.RATIO,
            "extra_at_most": search.EXTRA,
        },
        "seeds": [seed + number for number in range(1, seeds + 1)],
    }


def _data(task: Task) -> dict[str, object]:
    model = task.build_model()
    return {
        "train": len(task.train),
        "validation": len(task.validation),
        "parameters": sum(p.numel() for p in model.parameters()),
        "model": str(model),
    }
