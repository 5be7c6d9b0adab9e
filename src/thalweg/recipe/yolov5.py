"""YOLOv5's training recipe around an optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from thalweg import groups as grouping
from thalweg.catalogue import create_optimizer
from thalweg.catalogue.names import parse
from thalweg.errors import ArgumentError
from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.average import ModelAverage
from thalweg.recipe.hyperparameters import DEFAULTS, given
from thalweg.recipe.models import unwrapped
from thalweg.recipe.recipe import Recipe
from thalweg.recipe.said import announce, said, said_rest, spelled
from thalweg.schedules import (
    Schedule,
    Scheduler,
    absolute,
    constant,
    linear,
    one_cycle,
    per_epoch,
)

NOMINAL, CLIP, DECAY, TAU = 64, 10.0, 0.9999, 2000.0
TAG = "param_group"


@dataclass(frozen=True, repr=False)
class Warmed(Schedule):
    """YOLO's warm-up: along a line from a factor to what a schedule is by then, which may move meanwhile.

    Args:
        schedule: What to arrive at.
        steps: How long, >= 0.
        start: The first factor.
    """

    schedule: Schedule
    steps: int
    start: float = 0.0

    def value(self, t: float) -> float:
        reached = self.schedule(t)
        return reached if t >= self.steps else self.start + (reached - self.start) * t / self.steps

    @property
    def length(self) -> float | None:
        """Of what it arrives at."""
        return self.schedule.length

    @property
    def warmup_steps(self) -> float:
        """Its own."""
        return self.steps


def yolov5(
    model: nn.Module,
    batch_size: int,
    epochs: int,
    hyp: Mapping[str, float] | str | Path | None = None,
    *,
    batches: int,
    optimizer: str = "SGD",
    schedule: Literal["cosine", "linear"] = "cosine",
    groups: Sequence[dict[str, Any]] | None = None,
    ema: bool = True,
    clip: float | None = CLIP,
    nominal: int = NOMINAL,
    min_warmup: int = 100,
    reduction: Literal["sum", "mean"] = "sum",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    verbose: bool = True,
) -> Recipe:
    """YOLOv5's recipe: groups, accumulation, warm-up, half cosine, clipping, EMA, in its order.

    Its loss is a sum over the images of a batch; with a loss that is a mean, say `reduction="mean"`. The
    hyper-parameters are meant for 64 images a step: smaller batches are accumulated, and the decay is
    scaled by what a step really sees. With an optimizer other than the three it knows, numbers that `hyp`
    does not give are that optimizer's own, and the biases' lr rises from 0 like the others'.

    Formula:
        accumulate = max(round(64 / batch_size), 1);  weight_decay *= batch_size * accumulate / 64
        lr = lr0 * f(epoch), f from 1 to lrf along half a cosine or a line
        warm-up, max(round(warmup_epochs * batches), 100) batches, all linear in the batch:
            lr from warmup_bias_lr (biases) or 0 (others), momentum from warmup_momentum, accumulate from 1

    Args:
        model: Any module; `thalweg.groups.yolo` groups its parameters.
        batch_size: Images in a batch, of all processes together.
        epochs: Epochs, >= 1.
        hyp: Its hyper-parameters, a dict or a YAML file; what is missing is as YOLOv5 publishes it, what
            is for the loss and the augmentation is passed over.
        batches: Batches in an epoch, `len(loader)`.
        optimizer: "SGD" (Nesterov), "Adam" or "AdamW" (beta1 = momentum), or any that `create_optimizer`
            knows, with options.
        schedule: "cosine" or "linear".
        groups: Groups of one's own; biases have `param_group="bias"`.
        ema: Whether to keep an average of the model, decay 0.9999 with a ramp of 2000 steps.
        clip: Joint norm of the gradients; None: not clipped.
        nominal: Images that a step should see.
        min_warmup: Least batches of a warm-up; `warmup_epochs=0` turns it off.
        reduction: As in `Accumulate`.
        precision: As in `Recipe`.
        scaler: As in `Recipe`.
        verbose: Whether to print what was chosen.

    Raises:
        ArgumentError: A number out of range, a hyper-parameter that YOLOv5 does not know, a warm-up longer
            than training, an unknown optimizer (with a suggestion).

    Reference:
        Jocher 2020, YOLOv5 (ultralytics/yolov5), the training loop; hyper-parameters of its training from
        scratch. The half cosine: He et al. 2018, arXiv:1812.01187.

    Differs:
        A step that the scaler skipped does not move the average; gradients of batches that are left at the
        end of an epoch are kept for the next step (call `recipe.optimizer.zero_grad()` before each epoch
        to drop them); no warm-up if `warmup_epochs` is 0, and a warm-up longer than training is refused;
        integer buffers of the average follow the model.

    Example:
        >>> import torch
        >>> from thalweg.recipe import yolov5
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> recipe = yolov5(model, batch_size=16, epochs=100, batches=500)
        yolov5: SGD(lr=0.01, momentum=0.937, nesterov=True)
          100 epochs of 500 batches of 16; 4 batches a step, rising from 1 over 1500, their sum
          Optimizer groups: 2 .bias, 1 conv.weight, 1 other
          weight_decay 0.0005: 0.0005 for 64 examples a step, of which there are 64
          lr 0.01 to 0.0001 along a cosine, after 1500 batches of warm-up (biases from 0.1)
          fp32; gradients clipped to 10; average: ema, decay=0.9999, tau=2000.0
    """
    passed = given(hyp)
    chosen = _Chosen(
        optimizer=optimizer,
        values={**DEFAULTS, **passed},
        passed=frozenset(passed),
        epochs=epochs,
        batches=batches,
        min_warmup=min_warmup,
        schedule=schedule,
    )
    accumulate = Accumulate(batch_size, nominal, warmup=chosen.warmup, reduction=reduction)
    decay = None if chosen.weight_decay is None else accumulate.weight_decay(chosen.weight_decay)
    if groups is None:
        groups = grouping.yolo(unwrapped(model), decay)
    made = create_optimizer(groups, optimizer, **chosen.arguments)
    recipe = Recipe(
        model,
        made,
        chosen.scheduler(made),
        clock="batch",
        accumulate=accumulate,
        average=ModelAverage(model, decay=DECAY, tau=TAU) if ema else None,
        clip=clip,
        precision=precision,
        scaler=scaler,
        length=chosen.total,
        name="yolov5",
        settings={"optimizer": optimizer, "epochs": epochs, "batches": batches},
    )
    if verbose:
        announce(
            f"yolov5: {spelled(made)}",
            f"{epochs} epochs of {batches} batches of {batch_size}; {said(accumulate)}",
            getattr(groups, "summary", f"Optimizer groups: {len(groups)}, as given"),
            chosen.said_decay(decay, accumulate),
            chosen.said_lr(made),
            said_rest(recipe),
        )
    return recipe


@dataclass(frozen=True)
class _Chosen:
    """What follows from the arguments, before there is an optimizer."""

    optimizer: str
    values: Mapping[str, float]
    passed: frozenset[str]
    epochs: int
    batches: int
    min_warmup: int
    schedule: str

    def __post_init__(self) -> None:
        if self.batches < 1 or self.epochs < 1:
            raise ArgumentError(
                f"batches={self.batches} and epochs={self.epochs}; both must be at least 1"
            )
        if self.schedule not in ("cosine", "linear"):
            raise ArgumentError(f"unknown schedule {self.schedule!r}; known: 'cosine', 'linear'")
        if self.warmup >= self.total:
            raise ArgumentError(
                f"the warm-up takes max(round({self.values['warmup_epochs']} * {self.batches}), "
                f"{self.min_warmup}) = {self.warmup} batches, and training has {self.total}: lower "
                "warmup_epochs (0: none) or min_warmup"
            )

    @property
    def total(self) -> int:
        """Batches of the training."""
        return self.epochs * self.batches

    @property
    def warmup(self) -> int:
        """Batches of the warm-up."""
        epochs = self.values["warmup_epochs"]
        return max(round(epochs * self.batches), self.min_warmup) if epochs else 0

    @property
    def algorithm(self) -> str:
        """The optimizer's name without arguments and options."""
        return parse(self.optimizer)[0][0]

    def own(self, name: str) -> float | None:
        """A number for an optimizer that YOLOv5 does not know: only if it was passed."""
        known = self.algorithm in ("sgd", "adam", "adamw")
        return self.values[name] if known or name in self.passed else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the optimizer is made with."""
        lr, momentum = self.own("lr0"), self.values["momentum"]
        found: dict[str, Any] = {} if lr is None else {"lr": lr}
        if self.algorithm == "sgd":
            found |= {"momentum": momentum, "nesterov": True}
        elif self.algorithm in ("adam", "adamw"):
            found |= {"betas": (momentum, 0.999)}
        return found

    @property
    def weight_decay(self) -> float | None:
        """Of the weights, for a nominal batch; None: the optimizer's own."""
        return self.own("weight_decay")

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        """The lr of each group, and SGD's momentum, by the batch."""
        lrf, bias = self.values["lrf"], self.own("warmup_bias_lr") or 0.0
        cosine = self.schedule == "cosine"
        curve = one_cycle(1.0, lrf, self.epochs) if cosine else linear(self.epochs, 1.0, lrf)
        each = per_epoch(curve, self.batches)
        lr = [
            Warmed(
                each, self.warmup, bias / (float(g["lr"]) or 1.0) if g.get(TAG) == "bias" else 0.0
            )
            for g in optimizer.param_groups
        ]
        if self.algorithm != "sgd" or not self.warmup:
            return Scheduler(optimizer, lr, steps=self.total)
        last = optimizer.defaults["momentum"]
        momentum = linear(self.warmup, self.values["warmup_momentum"], last) >> constant(last)
        return Scheduler(optimizer, lr, steps=self.total, momentum=absolute(momentum))

    def said_decay(self, decay: float | None, accumulate: Accumulate) -> str:
        """One line."""
        if decay is None:
            return "weight_decay: the optimizer's own"
        return (
            f"weight_decay {decay:g}: {self.weight_decay:g} for {accumulate.nominal} examples a step, of "
            f"which there are {accumulate.batch_size * accumulate.batches(self.warmup)}"
        )

    def said_lr(self, optimizer: torch.optim.Optimizer) -> str:
        """One line."""
        lr, lrf = optimizer.param_groups[0]["initial_lr"], self.values["lrf"]
        line = f"lr {float(lr):g} to {float(lr) * lrf:g} along a {self.schedule}, "
        if not self.warmup:
            return line + "without warm-up"
        bias = self.own("warmup_bias_lr") or 0.0
        return line + f"after {self.warmup} batches of warm-up (biases from {bias:g})"
