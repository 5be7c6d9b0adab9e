"""The learning rate that each weight really gets: its step per unit of momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import ArgumentError
from thalweg.importing import said
from thalweg.study import report
from thalweg.study.comparison import EVERY, Moment, Progress
from thalweg.study.contenders import Contender, build, distinct
from thalweg.study.tasks import Split, Task, load_task
from thalweg.study.train import Setting, batches, gradients, reproducible

ADAPTIVE = ("adam", "adam(amsgrad=True)", "adabound")
"""What is measured when nothing is named: the third tames what the first two leave wild."""

EPOCHS = 100  # on the digits 1600 steps: AMSGrad and AdaBound differ after 1 / (1 - beta2)
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
RESOLVED = 2.0**-40  # of a weight: of a smaller step float64 keeps fewer than four digits


@dataclass
class Rates:
    """The spread of effective learning rates over all weights, step by step.

    Args:
        name: the optimizer, as the user wrote it.
        lr: its learning rate.
        quantiles: of shape (steps, len(QUANTILES)).
        measured: the least share of the weights, over the steps, that moved enough to be measured.
        bounds: the lowest and highest rate that AdaBound allows, (steps, 2); else None.
        losses: training loss of each batch, before the step it led to.
    """

    name: str
    lr: float
    quantiles: Tensor
    measured: float
    bounds: Tensor | None
    losses: list[float]

    @property
    def spread(self) -> Tensor:
        """The highest quantile over the lowest, at each step."""
        return self.quantiles[:, -1] / self.quantiles[:, 0]


@dataclass
class EffectiveRates:
    """What was measured, and on what."""

    title: str
    parameters: int
    epochs: int
    steps: int
    seed: int
    rates: list[Rates]


def effective_lr(
    optimizers: Sequence[str | Contender] = ADAPTIVE,
    task: str | Task = "digits",
    epochs: int = EPOCHS,
    seed: int = 0,
    output: str | Path | None = None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> EffectiveRates:
    """Train with each optimizer, and measure in every step what each weight's learning rate was.

    The effective rate of a weight is the step that was applied to it, over its bias-corrected
    momentum: what SGD with momentum would need as lr to take that step. For Adam it is
    lr / (sqrt(v_hat) + eps). It is read off the weights themselves, before and after the step, in
    float64. The rate of the optimizer stays constant over the run.

    Args:
        optimizers: as ``compare`` takes them, without weight decay.
        task: a name in ``thalweg.study.TASKS`` or a ``Task``.
        epochs: passes over the training split, at least 1.
        seed: of the weights and batches, at least 0; the same for every optimizer.
        output: a folder for ``effective-lr.png``; None writes nothing.
        threads: CPU threads of torch, at least 1.
        progress: called every few steps.

    Raises:
        ArgumentError: for an argument that cannot be used, or an optimizer whose step is not a
            positive rate times its momentum.

    Reference:
        Luo, Xiong, Liu, Sun 2019, arXiv:1902.09843, section 3, shows such rates for a few weights.
    """
    for name, value, low in (("epochs", epochs, 1), ("seed", seed, 0), ("threads", threads, 1)):
        if value < low:
            raise ArgumentError(f"{name} must be at least {low}, got {value}.")
    task = _in_float64(load_task(task) if isinstance(task, str) else task)
    contenders = distinct(optimizers)
    if output is not None:
        report.check_folder(Path(output))
    setting = Setting(task, epochs, torch.device("cpu"))
    with reproducible(threads, setting.device):
        rates = [_measure(setting, contender, seed, progress) for contender in contenders]
    parameters = sum(p.numel() for p in task.build_model().parameters())
    found = EffectiveRates(task.title, parameters, epochs, setting.steps, seed, rates)
    if output is not None:
        from thalweg import house
        from thalweg.study.figures import (
            effective_lr as draw,  # Matplotlib takes a second to import
        )

        Path(output).mkdir(parents=True, exist_ok=True)
        house.save(draw(found), Path(output) / FILE)
    return found


FILE = "effective-lr.png"


def _in_float64(task: Task) -> Task:
    train = Split(task.train.inputs.double(), task.train.targets)
    return replace(task, train=train, build_model=lambda: task.build_model().double())


def _measure(setting: Setting, contender: Contender, seed: int, progress: Progress | None) -> Rates:
    torch.manual_seed(seed)
    model = setting.task.build_model()
    params = list(model.parameters())
    optimizer = build(contender, params, None)
    _refuse_decay(contender.name, optimizer)
    losses, quantiles, bounds, measured = [], [], [], 1.0
    for step, (inputs, targets) in enumerate(batches(setting, seed), start=1):
        losses.append(gradients(model, optimizer, inputs, targets))
        rates = _step(contender.name, optimizer, params, step)
        known = rates[rates.isfinite()]
        measured = min(measured, len(known) / len(rates))
        if not math.isfinite(losses[-1]) or not len(known):
            raise ArgumentError(f"{contender.name} diverged in step {step}: name a smaller lr.")
        quantiles.append(torch.quantile(known, torch.tensor(QUANTILES, dtype=known.dtype)))
        bounds.append(_bounds(optimizer.param_groups[0], step))
        if progress and (step % EVERY == 0 or step == setting.steps):
            progress(Moment(contender.name, "constant lr", step, setting.steps, losses[-1]))
    drawn = torch.tensor(bounds, dtype=torch.float64) if all(bounds) else None
    lr = float(optimizer.param_groups[0]["lr"])
    return Rates(contender.name, lr, torch.stack(quantiles), measured, drawn, losses)


def _refuse_decay(name: str, optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        if decay := group.get("weight_decay", 0):
            raise ArgumentError(
                f"{name} decays weights by {decay:g}, which is no step along the momentum: "
                "name it with weight_decay=0."
            )


def _step(name: str, optimizer: Optimizer, params: list[nn.Parameter], step: int) -> Tensor:
    """Take a step; return the rate of every weight, NaN where it moved too little to tell."""
    before = [p.detach().clone() for p in params]
    try:
        optimizer.step()
    except Exception as error:  # whatever a foreign optimizer's step does
        raise ArgumentError(f"{name} cannot take a step: {said(error)}") from error
    correction = 1 - _beta1(name, optimizer) ** step
    pairs = zip(params, before, strict=True)
    rates = torch.cat(
        [_rate(name, optimizer.state[p].get("exp_avg"), old, p.detach()) for p, old in pairs]
    )
    rates *= correction
    if bool((rates <= 0).any()):
        raise ArgumentError(
            f"{name} moves weights against its momentum: its step is not a rate times exp_avg."
        )
    return rates


def _beta1(name: str, optimizer: Optimizer) -> float:
    betas = optimizer.param_groups[0].get("betas")
    if betas is None:
        raise ArgumentError(f"{name} has no betas: only Adam and its relatives can be measured.")
    return float(betas[0])


def _rate(name: str, momentum: Tensor | None, old: Tensor, new: Tensor) -> Tensor:
    if momentum is None:
        raise ArgumentError(f"{name} keeps no exp_avg in its state: no momentum to measure by.")
    moved = old - new
    known = moved.abs() > RESOLVED * old.abs()
    return torch.where(known, moved / momentum, math.nan).flatten()


def _bounds(group: dict[str, Any], step: int) -> tuple[float, float] | None:
    """Return the lowest and highest rate that AdaBound allows in a step; None for others.

    Luo et al. 2019, section 4: final_lr (1 - 1 / (gamma t + 1)) and final_lr (1 + 1 / (gamma t)),
    on the momentum before its bias correction.
    """
    if "final_lr" not in group or "gamma" not in group:
        return None
    final, gamma = float(group["final_lr"]), float(group["gamma"])
    correction = 1 - float(group["betas"][0]) ** step
    low, high = 1 - 1 / (gamma * step + 1), 1 + 1 / (gamma * step)
    return final * low * correction, final * high * correction
