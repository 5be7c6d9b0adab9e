"""What a recipe saves, and how it goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from thalweg.errors import CheckpointError
from thalweg.recipe.models import held, unwrapped
from thalweg.schedules import Scheduler

if TYPE_CHECKING:
    from thalweg.recipe.recipe import Recipe

COUNTS = ("batch", "steps", "skipped", "scheduled")


def state_of(recipe: Recipe) -> dict[str, Any]:
    """Everything that the next step depends on."""
    state = {
        "recipe": dict(recipe.settings),
        "counts": {name: getattr(recipe, name) for name in COUNTS},
        "model": unwrapped(recipe.model).state_dict(),
        "optimizer": recipe.optimizer.state_dict(),
        "accumulate": recipe.accumulate.state_dict(),
        "gradients": {},
        "random": {"cpu": torch.get_rng_state()},
    }
    if recipe.accumulate.pending:
        parameters, _ = held(recipe.model)
        state["gradients"] = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["random"]["cuda"] = torch.cuda.get_rng_state_all()
    if recipe.scheduler is not None:
        state["scheduler"] = recipe.scheduler.state_dict()
    if recipe.average is not None:
        state["average"] = recipe.average.state_dict()
    if recipe.precision.scaler is not None:
        state["scaler"] = recipe.precision.scaler.state_dict()
    return state


def load(recipe: Recipe, state: Mapping[str, Any], *, strict: bool) -> None:
    """Go on from it, after a look at everything that can differ."""
    _check(recipe, state, strict=strict)
    recipe.optimizer.load_state_dict(state["optimizer"])
    unwrapped(recipe.model).load_state_dict(state["model"])
    if recipe.scheduler is not None and "scheduler" in state:
        _load_scheduler(recipe.scheduler, state["scheduler"], strict=strict)
    if recipe.average is not None and "average" in state:
        recipe.average.load_state_dict(state["average"])
    elif recipe.average is not None:
        recipe.average.restart()
    if recipe.precision.scaler is not None and "scaler" in state:
        recipe.precision.scaler.load_state_dict(state["scaler"])
    own = {} if strict else recipe.accumulate.settings
    recipe.accumulate.load_state_dict({**state["accumulate"], **own})
    for name in COUNTS:
        setattr(recipe, name, int(state["counts"][name]))
    for name, p in held(recipe.model)[0].items():
        grad = state["gradients"].get(name)
        p.grad = None if grad is None else grad.to(p, copy=True)
    torch.set_rng_state(state["random"]["cpu"].cpu())
    for i, random in enumerate(state["random"].get("cuda", ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(random.cpu(), i)


def _load_scheduler(scheduler: LRScheduler, state: dict[str, Any], *, strict: bool) -> None:
    """Ours compares schedules; torch's take what they are given."""
    if isinstance(scheduler, Scheduler):
        scheduler.load_state_dict(state, strict=strict)
    else:
        scheduler.load_state_dict(state)


def _check(recipe: Recipe, state: Mapping[str, Any], *, strict: bool) -> None:
    needed = ("recipe", "counts", "model", "optimizer", "accumulate", "gradients", "random")
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(f"this is no recipe's state_dict: it lacks {', '.join(missing)}")
    _check_parts(recipe, state, strict=strict)
    if recipe.average is not None and "average" in state:
        recipe.average.check(state["average"])
    own = unwrapped(recipe.model).state_dict()
    given = state["model"]
    wrong = [f"{n!r} is missing" for n in own if n not in given]
    wrong += [f"{n!r} is not in this model" for n in given if n not in own]
    wrong += [
        f"{n!r} has shape {tuple(given[n].shape)}, here {tuple(x.shape)}"
        for n, x in own.items()
        if n in given
        and isinstance(x, torch.Tensor)
        and getattr(given[n], "shape", None) != x.shape
    ]
    if wrong:
        raise CheckpointError(f"the checkpoint is another model's: {', '.join(wrong[:3])}")


def _check_parts(recipe: Recipe, state: Mapping[str, Any], *, strict: bool) -> None:
    if not strict:
        return
    saved, own = state["recipe"], recipe.settings
    differs = [
        f"{k}: {saved.get(k, 'nothing')!r} there, {own.get(k, 'nothing')!r} here"
        for k in {**saved, **own}
        if saved.get(k) != own.get(k)
    ]
    parts = {
        "average": recipe.average,
        "scaler": recipe.precision.scaler,
        "scheduler": recipe.scheduler,
    }
    for part, here in parts.items():
        if (part in state) != (here is not None):
            differs.append(f"{part}: {'one' if part in state else 'none'} there")
    if isinstance(recipe.scheduler, Scheduler) and "scheduler" in state:
        here = recipe.scheduler.state_dict()["schedules"]
        there = state["scheduler"].get("schedules", {})
        differs += [
            f"schedule of {name!r}: {there.get(name)} there, {here.get(name)} here"
            for name in {**there, **here}
            if there.get(name) != here.get(name)
        ]
    if differs:
        raise CheckpointError(
            f"the checkpoint is of another recipe: {'; '.join(differs)}. Make the recipe as it was, or "
            "load with strict=False to go on with this one"
        )
