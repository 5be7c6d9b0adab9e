"""One training run: a network, an optimizer, a learning rate, a seed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from thalweg.study.contenders import Contender, build
from thalweg.study.tasks import Split, Task

Watch = Callable[[int, float], None]
"""Called after every step with the number of steps taken and the training loss."""


@dataclass
class Run:
    """What one training run left behind; losses are mean cross-entropies, in nats.

    Args:
        lr: the learning rate before its decay.
        seed: of the initial weights, the order of the batches and their augmentation.
        losses: training loss of each batch, before the step it led to.
        curve: (steps taken, validation accuracy), if it was asked for.
        validation: (loss, accuracy) after the last step; None if the run diverged.
        test: (correct, examples), read once, after the last step; None in a trial or if diverged.
        diverged_at: the step whose loss was not finite, or None.
        state_bytes: of the tensors in ``optimizer.state``, per parameter, 0-dim ones left out.
        step_seconds: median wall-clock time of ``optimizer.step()`` alone.
    """

    lr: float
    seed: int
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    validation: tuple[float, float] | None = None
    test: tuple[int, int] | None = None
    diverged_at: int | None = None
    state_bytes: float | None = None
    step_seconds: float | None = None

    @property
    def rank(self) -> tuple[float, float] | None:
        """What the search goes by: validation loss first; None if diverged."""
        return self.validation

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test split that is classified correctly."""
        return self.test[0] / self.test[1] if self.test else None

    def steps_to(self, target: float) -> int | None:
        """Return after how many steps the validation accuracy first reached a target."""
        return next((step for step, accuracy in self.curve if accuracy >= target), None)


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison share."""

    task: Task
    epochs: int
    device: torch.device

    @property
    def steps(self) -> int:
        """Steps of a run that does not diverge."""
        return self.epochs * (len(self.task.train) // self.task.batch)


@contextmanager
def reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """Fix the thread count and the choice of cuDNN kernels; restore them and all generators."""
    before = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    torch.set_num_threads(threads)
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        torch.set_num_threads(before)


def train(
    setting: Setting,
    contender: Contender,
    lr: float,
    seed: int,
    *,
    final: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Train a new network once; the learning rate falls linearly to zero over the run.

    Args:
        setting: what all runs share.
        contender: what builds the optimizer.
        lr: the learning rate of the first step.
        seed: of everything random in the run.
        final: whether to record the validation curve and to read the test split at the end.
        watch: called after every step.
    """
    torch.manual_seed(seed)
    model = setting.task.build_model().to(setting.device)
    optimizer = build(contender, list(model.parameters()), lr)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / setting.steps)
    validation = setting.task.validation.to(setting.device)
    run = Run(lr, seed)
    seconds: list[float] = []
    for step, (inputs, targets) in enumerate(batches(setting, seed), start=1):
        loss = gradients(model, optimizer, inputs, targets)
        if not math.isfinite(loss):
            run.diverged_at = step
            return run
        run.losses.append(loss)
        seconds.append(_timed_step(optimizer, setting.device))
        schedule.step()
        if final and (step % setting.task.every == 0 or step == setting.steps):
            run.curve.append((step, evaluate(model, optimizer, validation)[1]))
        if watch:
            watch(step, loss)
    loss, accuracy = evaluate(model, optimizer, validation)
    if not math.isfinite(loss):
        run.diverged_at = setting.steps
        return run
    run.validation = loss, accuracy
    run.step_seconds = statistics.median(seconds)
    run.state_bytes = state_bytes(optimizer) / sum(p.numel() for p in model.parameters())
    if final:
        test = setting.task.read_test().to(setting.device)
        accuracy = evaluate(model, optimizer, test)[1]
        run.test = round(accuracy * len(test)), len(test)
    return run


def batches(setting: Setting, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches; the seed decides the order and the augmentation, on any device."""
    generator = torch.Generator().manual_seed(seed)
    task, train = setting.task, setting.task.train.to(setting.device)
    for _ in range(setting.epochs):
        order = torch.randperm(len(train), generator=generator).to(setting.device)
        whole = len(train) // task.batch * task.batch
        for rows in order[:whole].view(-1, task.batch):
            yield task.augment(train.inputs[rows], generator), train.targets[rows]


def gradients(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor) -> float:
    """Fill the gradients of a batch; return its mean cross-entropy."""
    optimizer.zero_grad()
    loss = cross_entropy(model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _timed_step(optimizer: Optimizer, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    optimizer.step()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def evaluate(model: nn.Module, optimizer: Optimizer, split: Split) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy) on a split, with averaged weights if there are any."""
    model.eval()
    with averaged(optimizer):
        logits = model(split.inputs)
    model.train()
    loss = cross_entropy(logits, split.targets).item()
    return loss, (logits.argmax(1) == split.targets).double().mean().item()


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Exchange weights for their average within the block, where an optimizer keeps one.

    Such an optimizer has ``eval()`` and ``train()``, ours and others' schedule-free ones alike.
    """
    switches: Any = optimizer if hasattr(optimizer, "eval") else None
    if switches:
        switches.eval()
    try:
        yield
    finally:
        if switches:
            switches.train()


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of the tensors in ``optimizer.state``; 0-dim step counters left out."""
    tensors = _tensors(list(optimizer.state.values()))
    return sum(t.numel() * t.element_size() for t in tensors if t.dim() > 0)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
