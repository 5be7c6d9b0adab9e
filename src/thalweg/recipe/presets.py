"""Recipes of transformers: training one from scratch, and fine-tuning one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from thalweg import groups as grouping
from thalweg.catalogue.names import Named
from thalweg.catalogue.numbers import settled
from thalweg.errors import ArgumentError
from thalweg.recipe import made
from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.average import ModelAverage
from thalweg.recipe.models import unwrapped
from thalweg.recipe.numbers import real, whole
from thalweg.recipe.recipe import Recipe
from thalweg.recipe.said import announce, said, said_rest, spelled
from thalweg.schedules import Schedule, Scheduler, constant, cosine, linear
from thalweg.schedules import warmup as rising

ADAMS = ("adam", "adamw")


def transformer(
    model: nn.Module,
    steps: int,
    *,
    optimizer: str = "AdamW",
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup: int | None = None,
    end: float = 0.1,
    batch_size: int = 1,
    nominal: int | None = None,
    clip: float | None = 1.0,
    average: ModelAverage | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    verbose: bool = True,
) -> Recipe:
    """Train a transformer from scratch: decay on matrices only, warm-up, cosine to a tenth, clipping to 1.

    The clock is steps that were taken, so that neither accumulation nor an overflow shortens the schedule.
    Losses are means over their batches. A schedule-free optimizer keeps its lr after the warm-up.

    Args:
        model: Any module; `thalweg.groups.no_decay` groups its parameters.
        steps: Optimizer steps of the training, >= 1.
        optimizer: AdamW with betas (0.9, 0.95), or any that `create_optimizer` knows, with options.
        lr: None: as the optimizer's text says, else 3e-4 for Adam and AdamW, else the optimizer's own.
        weight_decay: Of the matrices; None: as the text says, else 0.1 for AdamW, else the optimizer's own.
        warmup: Steps of the warm-up; None: a tenth of training, 2000 at most; 0: none.
        end: What is left of lr at the end, as a factor.
        batch_size: Examples in a batch, of all processes together.
        nominal: Examples that a step should see, gathered over batches; None: one batch.
        clip: Joint norm of the gradients; None: not clipped.
        average: One to keep.
        precision: As in `Recipe`.
        scaler: As in `Recipe`.
        verbose: Whether to print what was chosen.

    Raises:
        ArgumentError: A number out of range or said twice, an unknown optimizer, a warm-up as long as
            training.

    Reference:
        Touvron et al. 2023, arXiv:2302.13971, section 2.3.

    Example:
        >>> import torch
        >>> from thalweg.recipe import transformer
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, 16)
        >>> recipe = transformer(model, steps=1000, batch_size=8, nominal=32)
        transformer: AdamW(lr=0.0003, betas=(0.9, 0.95))
          1000 steps; 4 batches a step, their mean
          Optimizer groups: 4 decay(weight_decay=0.1), 8 no_decay(weight_decay=0)
          lr: warmup(100) >> cosine(900, end=0.1)
          fp32; gradients clipped to 1; average: none
    """
    steps, warmup = _checked("transformer", steps, warmup, most=2000)
    named = made.named("transformer", optimizer)
    numbers = settled(
        named,
        {"lr": lr, "weight_decay": weight_decay},
        _usual(named, 3e-4, 0.1) | ({"betas": (0.9, 0.95)} if named.name in ADAMS else {}),
    )
    groups = grouping.no_decay(
        unwrapped(model), numbers.pop("weight_decay", None), allow_empty=True
    )
    return _recipe(
        "transformer",
        model,
        named.made(groups, **numbers),
        groups,
        (warmup, cosine(steps - warmup, end)),
        steps=steps,
        settings={"optimizer": optimizer},
        accumulate=_accumulate(batch_size, nominal),
        verbose=verbose,
        parts={"clip": clip, "average": average, "precision": precision, "scaler": scaler},
    )


def finetune(
    model: nn.Module,
    steps: int,
    *,
    optimizer: str = "AdamW",
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup: int | None = None,
    layer_decay: float | None = None,
    layers: str | Sequence[str] | None = None,
    batch_size: int = 1,
    nominal: int | None = None,
    clip: float | None = 1.0,
    average: ModelAverage | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    verbose: bool = True,
) -> Recipe:
    """Fine-tune a model: a small lr, warm-up over a tenth, then down along a line to nothing.

    With `layer_decay` early layers move less, which keeps what they know; 0.65 to 0.9 are usual. Frozen
    parameters are left out. Losses are means over their batches.

    Args:
        model: Any module.
        steps: Optimizer steps of the training, >= 1.
        optimizer: AdamW, or any that `create_optimizer` knows, with options.
        lr: None: as the optimizer's text says, else 2e-5 for Adam and AdamW, else the optimizer's own.
        weight_decay: Of the matrices; None: as the text says, else 0.01 for AdamW, else the optimizer's own.
        warmup: Steps of the warm-up; None: a tenth of training; 0: none.
        layer_decay: The lr's factor per layer away from the output, in (0, 1]; None: one lr for all.
        layers: As in `thalweg.groups.layer_decay`.
        batch_size: As in `transformer`.
        nominal: As in `transformer`.
        clip: As in `transformer`.
        average: As in `transformer`.
        precision: As in `Recipe`.
        scaler: As in `Recipe`.
        verbose: Whether to print what was chosen.

    Raises:
        ArgumentError: A number out of range or said twice, an unknown optimizer, a warm-up as long as
            training, or layers that get an lr each of an optimizer whose lr is not said.

    Reference:
        Devlin et al. 2018, arXiv:1810.04805, appendix A.3; layers: Clark et al. 2020, arXiv:2003.10555.

    Example:
        >>> import torch
        >>> from thalweg.recipe import finetune
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        >>> recipe = finetune(model, steps=100, lr=1e-4, layer_decay=0.5, layers="")
        finetune: AdamW(lr=5e-05, betas=(0.9, 0.999))
          100 steps; each batch is one
          Optimizer groups: 1 layer 1(lr=5e-05, weight_decay=0.01), ...
          lr: warmup(10) >> linear(90)
          fp32; gradients clipped to 1; average: none
    """
    steps, warmup = _checked("finetune", steps, warmup)
    named = made.named("finetune", optimizer)
    passed = {"lr": lr, "weight_decay": weight_decay}
    numbers = settled(named, passed, _usual(named, 2e-5, 0.01))
    decay = numbers.pop("weight_decay", None)
    if layer_decay is None:
        groups = grouping.no_decay(unwrapped(model), decay, allow_empty=True)
    elif "lr" in numbers:
        groups = grouping.layer_decay(
            unwrapped(model),
            numbers["lr"],
            layer_decay,
            layers=layers,
            weight_decay=decay,
        )
    else:
        raise ArgumentError(
            f"finetune(layer_decay={layer_decay}) with {optimizer!r} needs an lr for the last layer: "
            "lr=..., as each layer's follows from it"
        )
    return _recipe(
        "finetune",
        model,
        named.made(groups, **numbers),
        groups,
        (warmup, linear(steps - warmup)),
        steps=steps,
        settings={"optimizer": optimizer},
        accumulate=_accumulate(batch_size, nominal),
        verbose=verbose,
        parts={"clip": clip, "average": average, "precision": precision, "scaler": scaler},
    )


def _usual(named: Named, lr: float, weight_decay: float) -> dict[str, Any]:
    """What a preset has for Adam and AdamW; the numbers of all others are their own."""
    found: dict[str, Any] = {"lr": lr} if named.name in ADAMS else {}
    return found | ({"weight_decay": weight_decay} if named.name == "adamw" else {})


def _accumulate(batch_size: int, nominal: int | None) -> Accumulate:
    return Accumulate(batch_size, nominal or batch_size, reduction="mean")


def _checked(name: str, steps: int, warmup: int | None, most: int | None = None) -> tuple[int, int]:
    """The steps of training and of its warm-up, if that is not said a tenth of them."""
    steps = whole(name, "steps", steps, 1)
    if warmup is None:
        return steps, min(steps // 10, steps if most is None else most)
    if not 0 <= real(name, "warmup", warmup) < steps:
        raise ArgumentError(
            f"{name} got warmup={warmup!r}; it must be in [0, {steps}): training has {steps} steps"
        )
    return steps, warmup


def _recipe(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    groups: grouping.Groups,
    schedule: tuple[int, Schedule],
    *,
    steps: int,
    settings: Mapping[str, Any],
    accumulate: Accumulate,
    verbose: bool,
    parts: Mapping[str, Any],
) -> Recipe:
    """Put it together, and say so."""
    warmup, rest = schedule
    free = made.schedule_free(optimizer)
    after = constant() if free else rest
    whole_schedule = rising(warmup) >> after if warmup else after
    recipe = Recipe(
        model,
        optimizer,
        Scheduler(optimizer, whole_schedule, steps=steps),
        accumulate=accumulate,
        length=steps,
        name=name,
        settings=settings,
        **parts,
    )
    if verbose:
        announce(
            f"{name}: {spelled(optimizer)}",
            f"{steps} steps; {said(accumulate)}",
            groups.summary,
            f"lr: {whole_schedule}" + (", since it is schedule-free" if free else ""),
            said_rest(recipe),
        )
    return recipe
