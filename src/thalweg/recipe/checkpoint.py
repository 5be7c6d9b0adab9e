"""What a recipe saves, and how it goes on from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from thalweg.errors import CheckpointError
from thalweg.recipe.constructed import progress
from thalweg.recipe.models import held, unwrapped
from thalweg.schedules import Scheduler

if TYPE_CHECKING:
    from thalweg.recipe.recipe import Recipe

COUNTS = ("batch", "steps", "skipped", "scheduled")


def state_of(recipe: Recipe) -> dict[str, Any]:
    """Everything that the next step depends on."""
    state = {
        "recipe": {**recipe.settings, **recipe.constructed},
        "counts": {name: getattr(recipe, name) for name in COUNTS},
        "model": unwrapped(recipe.model).state_dict(),
        "optimizer": recipe.optimizer.state_dict(),
        "accumulate": recipe.accumulate.state_dict(),
        "gradients": {},
        "random": {"cpu": torch.get_rng_state()},
    }
    if recipe.accumulate.pending:
        parameters, _ = held(recipe.model)
        state["gradients"] = {  # copies: later batches are added to these very tensors
            n: p.grad.clone() for n, p in parameters.items() if p.grad is not None
        }
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
    """Go on from it, after a look at everything that can differ.

    The optimizer is first: it alone may still refuse, and then changes nothing.
    """
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
    recipe.accumulate.load_state_dict(_accumulated(recipe, state, strict=strict))
    for name in COUNTS:
        setattr(recipe, name, int(state["counts"][name]))
    for name, p in held(recipe.model)[0].items():
        grad = state["gradients"].get(name)
        p.grad = None if grad is None else grad.to(p, copy=True)
    torch.set_rng_state(state["random"]["cpu"].cpu())
    for i, random in enumerate(state["random"].get("cuda", ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(random.cpu(), i)


def _accumulated(recipe: Recipe, state: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    return {**state["accumulate"], **({} if strict else recipe.accumulate.settings)}


def _load_scheduler(scheduler: LRScheduler, state: dict[str, Any], *, strict: bool) -> None:
    """Ours compares schedules; torch's take what they are given, constants too."""
    if isinstance(scheduler, Scheduler):
        scheduler.load_state_dict(state, strict=False)  # it was compared
    else:
        scheduler.load_state_dict(state if strict else progress(scheduler.state_dict(), state))


def _check(recipe: Recipe, state: Mapping[str, Any], *, strict: bool) -> None:
    parts = ("recipe", "counts", "model", "optimizer", "accumulate", "gradients", "random")
    missing = [name for name in parts if name not in state]
    if missing:
        raise CheckpointError(f"this is no recipe's state_dict: it lacks {', '.join(missing)}")
    wrong = [name for name in parts if not isinstance(state[name], Mapping)]
    if wrong:
        raise CheckpointError(f"this is no recipe's state_dict: {wrong[0]!r} is no dict")
    if strict:
        _check_settings(recipe, state)
    _check_model(recipe, state)
    for name in COUNTS:
        count = state["counts"].get(name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise CheckpointError(f"the checkpoint's count {name!r} is {count!r}")
    recipe.accumulate.check(_accumulated(recipe, state, strict=strict))
    if recipe.average is not None and "average" in state:
        recipe.average.check(state["average"])
    if recipe.scheduler is not None and "scheduler" in state:
        _check_scheduler(recipe.scheduler, state["scheduler"], strict=strict)
    if recipe.precision.scaler is not None and "scaler" in state:
        lacks = [k for k in recipe.precision.scaler.state_dict() if k not in state["scaler"]]
        if lacks:
            raise CheckpointError(f"the checkpoint's scaler lacks {', '.join(lacks)}")
    _check_random(state["random"])


def _check_scheduler(scheduler: LRScheduler, state: Any, *, strict: bool) -> None:
    if isinstance(scheduler, Scheduler):
        scheduler.check(state, strict=strict)
    elif not _same_keys(scheduler.state_dict(), state):
        raise CheckpointError(
            f"the checkpoint's scheduler is no {type(scheduler).__name__}; make the recipe with one like it"
        )


def _same_keys(own: Mapping[str, Any], given: Any) -> bool:
    """Whether one torch scheduler's state fits another's, and what is within them."""
    if not isinstance(given, Mapping) or set(own) != set(given):
        return False
    a, b = own.get("_schedulers", ()), given.get("_schedulers", ())
    return len(a) == len(b) and all(_same_keys(x, y) for x, y in zip(a, b, strict=True))


def _check_random(random: Mapping[str, Any]) -> None:
    own = torch.get_rng_state()
    states = [random.get("cpu"), *random.get("cuda", ())]
    if not all(isinstance(x, torch.Tensor) and x.dtype is torch.uint8 for x in states) or (
        states[0].shape != own.shape
    ):
        raise CheckpointError("the checkpoint's 'random' is not what torch.get_rng_state() returns")


def _check_model(recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Names and shapes of weights and of gradients that wait."""
    own, parameters = unwrapped(recipe.model).state_dict(), held(recipe.model)[0]
    given, waiting = state["model"], state["gradients"]
    wrong = [f"{n!r} is missing" for n in own if n not in given]
    wrong += [f"{n!r} is not in this model" for n in given if n not in own]
    wrong += _of_another_shape(given, own)
    wrong += [f"the gradient of {n!r} is not of this model" for n in waiting if n not in parameters]
    wrong += _of_another_shape(waiting, parameters)
    if wrong:
        raise CheckpointError(f"the checkpoint is another model's: {', '.join(wrong[:3])}")


def _of_another_shape(given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    shapes = {
        n: (getattr(given[n], "shape", None), x.shape)
        for n, x in own.items()
        if n in given and isinstance(x, torch.Tensor)
    }
    return [
        f"{n!r} has shape {'none' if a is None else tuple(a)}, here {tuple(b)}"
        for n, (a, b) in shapes.items()
        if a != b
    ]


def _check_settings(recipe: Recipe, state: Mapping[str, Any]) -> None:
    saved, own = state["recipe"], {**recipe.settings, **recipe.constructed}
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
    for name, value in recipe.constructed.items():
        if "<" in str(value):
            warnings.warn(
                f"{name} is {value}, which has no name to be compared by: it is taken for the checkpoint's. "
                "A function at the top of a module has one",
                stacklevel=5,
            )
