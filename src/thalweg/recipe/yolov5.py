"""YOLOv5's training recipe around an optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from thalweg import groups as grouping
from thalweg.catalogue.names import Named
from thalweg.catalogue.numbers import momentum_arguments, momentum_field, settled
from thalweg.errors import ArgumentError
from thalweg.recipe import made
from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.average import ModelAverage
from thalweg.recipe.hyperparameters import DEFAULTS, given
from thalweg.recipe.models import unwrapped
from thalweg.recipe.numbers import whole
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
    warmed,
)

NOMINAL, CLIP, DECAY, TAU = 64, 10.0, 0.9999, 2000.0
TAG = "param_group"
NAMES = {"lr": "lr0", "momentum": "momentum", "weight_decay": "weight_decay"}
"""What the optimizer's numbers are called in `hyp`."""


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
    scaled by what a step really sees. With an optimizer other than the three it knows, numbers that neither
    `hyp` nor its text gives are that optimizer's own, and the biases' lr rises from 0 like the others'. One
    that averages weights itself gets no EMA, a schedule-free one no schedule but the warm-up.

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
            is for the loss and the augmentation is passed over. `momentum` is the first of betas where the
            optimizer has those; they do not warm up.
        batches: Batches in an epoch, `len(loader)`.
        optimizer: "SGD" (Nesterov), "Adam" or "AdamW" (beta1 = momentum), or any that `create_optimizer`
            knows, with options.
        schedule: "cosine" or "linear".
        groups: Groups of one's own, with their decay; biases have `param_group="bias"`.
        ema: Whether to keep an average of the model, decay 0.9999 with a ramp of 2000 steps.
        clip: Joint norm of the gradients; None: not clipped.
        nominal: Images that a step should see.
        min_warmup: Least batches of a warm-up; `warmup_epochs=0` turns it off.
        reduction: As in `Accumulate`.
        precision: As in `Recipe`.
        scaler: As in `Recipe`.
        verbose: Whether to print what was chosen.

    Raises:
        ArgumentError: A number out of range, or said by `hyp` and otherwise by the optimizer's text, a
            hyper-parameter that YOLOv5 does not know, a warm-up longer than training, an unknown optimizer
            (with a suggestion).

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
    chosen = _Chosen(
        named=made.named("yolov5", optimizer),
        passed=given(hyp),
        epochs=whole("yolov5", "epochs", epochs, 1),
        batches=whole("yolov5", "batches", batches, 1),
        min_warmup=whole("yolov5", "min_warmup", min_warmup, 0),
        schedule=schedule,
    )
    accumulate = Accumulate(batch_size, nominal, warmup=chosen.warmup, reduction=reduction)
    decay = chosen.numbers.get("weight_decay")
    decay = None if decay is None else accumulate.weight_decay(decay)
    parts = _groups(model, decay) if groups is None else groups
    run = chosen.named.made(parts, **chosen.arguments)
    recipe = Recipe(
        model,
        run,
        chosen.scheduler(run),
        clock="batch",
        accumulate=accumulate,
        average=ModelAverage(model, decay=DECAY, tau=TAU)
        if ema and not made.averages(run)
        else None,
        clip=clip,
        precision=precision,
        scaler=scaler,
        length=chosen.total,
        name="yolov5",
        settings={"optimizer": optimizer, "epochs": epochs, "batches": batches},
    )
    if verbose:
        announce(
            f"yolov5: {spelled(run)}",
            f"{epochs} epochs of {batches} batches of {batch_size}; {said(accumulate)}",
            getattr(parts, "summary", f"Optimizer groups: {len(parts)}, as given"),
            chosen.said_decay(run, accumulate, scaled=groups is None and decay is not None),
            *chosen.said_momentum(),
            chosen.said_lr(run),
            said_rest(recipe),
        )
    return recipe


def _groups(model: nn.Module, decay: float | None) -> grouping.Groups:
    try:
        return grouping.yolo(unwrapped(model), decay)
    except ArgumentError as e:
        raise ArgumentError(
            f"{e}: these are arguments of thalweg.groups.yolo, whose groups go to yolov5(..., groups=...)"
        ) from None


@dataclass(frozen=True)
class _Chosen:
    """What follows from the arguments, before there is an optimizer."""

    named: Named
    passed: Mapping[str, float]
    epochs: int
    batches: int
    min_warmup: int
    schedule: str

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear"):
            raise ArgumentError(f"unknown schedule {self.schedule!r}; known: 'cosine', 'linear'")
        if self.warmup >= self.total:
            raise ArgumentError(
                f"the warm-up takes max(round({self.values['warmup_epochs']} * {self.batches}), "
                f"{self.min_warmup}) = {self.warmup} batches, and training has {self.total}: lower "
                "warmup_epochs (0: none) or min_warmup"
            )

    @property
    def values(self) -> dict[str, float]:
        """What `hyp` says, and what it leaves out."""
        return {**DEFAULTS, **self.passed}

    @property
    def known(self) -> bool:
        """Whether YOLOv5's numbers are meant for this optimizer; those of others are their own."""
        return self.named.name in ("sgd", "adam", "adamw")

    @property
    def total(self) -> int:
        """Batches of the training."""
        return self.epochs * self.batches

    @property
    def warmup(self) -> int:
        """Batches of the warm-up."""
        epochs = self.values["warmup_epochs"]
        return max(round(epochs * self.batches), self.min_warmup) if epochs else 0

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """lr, momentum and weight_decay, as far as they are not the optimizer's own."""
        passed = {ours: self.passed.get(theirs) for ours, theirs in NAMES.items()}
        usual = {ours: DEFAULTS[theirs] for ours, theirs in NAMES.items()} if self.known else {}
        return settled(self.named, passed, usual, names=NAMES)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the optimizer is made with."""
        numbers = self.numbers
        found: dict[str, Any] = {"lr": numbers["lr"]} if "lr" in numbers else {}
        if "momentum" in numbers:
            found |= momentum_arguments(self.named, numbers["momentum"])
        return found

    @property
    def bias_lr(self) -> float:
        """Where the biases' lr begins."""
        return (
            self.values["warmup_bias_lr"] if self.known else self.passed.get("warmup_bias_lr", 0.0)
        )

    @property
    def warms_momentum(self) -> bool:
        """Whether the momentum rises; YOLOv5 lets the first of betas alone, as Adam corrects for it."""
        asked = self.known or "warmup_momentum" in self.passed
        return bool(self.warmup) and asked and momentum_field(self.named) == "momentum"

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        """The lr of each group, and the momentum, by the batch."""
        lrf, cosine = self.values["lrf"], self.schedule == "cosine"
        curve = one_cycle(1.0, lrf, self.epochs) if cosine else linear(self.epochs, 1.0, lrf)
        each: Schedule = per_epoch(curve, self.batches)
        if made.schedule_free(optimizer):
            each = constant()
        lr = [
            warmed(each, self.warmup, self._start(g)) if self.warmup else each
            for g in optimizer.param_groups
        ]
        if not self.warms_momentum:
            return Scheduler(optimizer, lr, steps=self.total)
        last = optimizer.defaults["momentum"]
        momentum = linear(self.warmup, self.values["warmup_momentum"], last) >> constant(last)
        return Scheduler(optimizer, lr, steps=self.total, momentum=absolute(momentum))

    def _start(self, group: Mapping[str, Any]) -> float:
        is_bias = group.get(TAG) == "bias"
        return self.bias_lr / (float(group["lr"]) or 1.0) if is_bias else 0.0

    def said_decay(
        self, optimizer: torch.optim.Optimizer, accumulate: Accumulate, *, scaled: bool
    ) -> str:
        """One line, of what the groups have."""
        values = dict.fromkeys(float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups)
        line = f"weight_decay {' and '.join(f'{x:g}' for x in values if x or len(values) == 1)}"
        if not scaled:
            unused = ": hyp's is not used" if "weight_decay" in self.passed else ""
            return f"{line}, as the groups and the optimizer have it{unused}"
        return (
            f"{line}: {self.numbers['weight_decay']:g} for {accumulate.nominal} examples a step, of which "
            f"there are {accumulate.batch_size * accumulate.batches(self.warmup)}"
        )

    def said_momentum(self) -> list[str]:
        """One line, where hyp's momentum is not simply the optimizer's."""
        asked = [name for name in ("momentum", "warmup_momentum") if name in self.passed]
        field = momentum_field(self.named)
        if self.known or not asked or field == "momentum":
            return []
        if field is None:
            return [f"{' and '.join(asked)}: not used, {self.named.cls.__name__} has no momentum"]
        return [f"momentum: {field}, which does not warm up"]

    def said_lr(self, optimizer: torch.optim.Optimizer) -> str:
        """One line."""
        lr, lrf = float(optimizer.param_groups[0]["initial_lr"]), self.values["lrf"]
        line = f"lr {lr:g} to {lr * lrf:g} along a {self.schedule}, "
        if made.schedule_free(optimizer):
            line = f"lr {lr:g}, which does not come down as it is schedule-free, "
        if not self.warmup:
            return line + "without warm-up"
        return line + f"after {self.warmup} batches of warm-up (biases from {self.bias_lr:g})"
