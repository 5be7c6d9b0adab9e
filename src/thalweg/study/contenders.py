"""From what the user wrote to something that builds optimizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import thalweg
from thalweg.catalogue.names import read
from thalweg.errors import ArgumentError, ThalwegError
from thalweg.importing import import_object, said

DEFAULTS = ("sgd(momentum=0.9)", "adamw", "lion", "ranger")
"""What is compared when nothing is named."""

FALLBACK_LR = 1e-3  # for a class of the user's that names no learning rate of its own
SGD_LR = (1e-3, 1e-2)  # torch's default, far too small in practice; the rate of torch.optim's docs

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Build = Callable[..., Optimizer]


@dataclass(frozen=True)
class Contender:
    """A name and a way to build the optimizer: ``build(params)`` or ``build(params, lr=0.1)``."""

    name: str
    build: Build


@dataclass(frozen=True)
class Default:
    """The learning rate that an optimizer has by itself, and where its search starts.

    Args:
        lr: its own, or None if it has none.
        centre: where the search starts.
        fixed: whether it keeps its own, whatever it is given: its name says ``lr=...``.
    """

    lr: float | None
    centre: float
    fixed: bool = False


def resolve(spec: str | Contender) -> Contender:
    """Return what a name with options or a ``module:attribute`` stands for.

    Args:
        spec: ``"lion + cautious"``, ``"my_module:MyOptimizer"``, or a ready ``Contender``. The
            attribute is a ``torch.optim.Optimizer`` class, a factory ``f(params, lr=...)``, or a
            rule.

    Raises:
        ArgumentError: if the module or the attribute does not exist or is none of these.
    """
    if isinstance(spec, Contender):
        return spec
    spec = spec.strip()
    if not _OWN.fullmatch(spec):
        return Contender(spec, partial(_create, spec))
    found = import_object(spec)
    if isinstance(found, thalweg.Rule):
        return Contender(spec, partial(thalweg.Optimizer, rule=found))
    if callable(found):
        return Contender(spec, found)
    raise ArgumentError(
        f"{spec} is a {type(found).__name__}; needed is an optimizer class, a function "
        "(params, lr=...) that returns an optimizer, or a rule."
    )


def distinct(specs: Sequence[str | Contender]) -> list[Contender]:
    """Resolve names, of which there is at least one and none is there twice.

    Raises:
        ArgumentError: if none is named, one twice, or one cannot be resolved.
    """
    contenders = [resolve(spec) for spec in specs]
    names = [contender.name for contender in contenders]
    if not names:
        raise ArgumentError("No optimizer is named: there is nothing to compare.")
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"{name} is named twice.")
    return contenders


def _create(spec: str, params: list[nn.Parameter], **keywords: Any) -> Optimizer:
    return read(spec).made(params, **keywords)


def build(contender: Contender, params: list[nn.Parameter], lr: float | None) -> Optimizer:
    """Return the contender's optimizer over parameters; without ``lr``, at its own default.

    Raises:
        ArgumentError: if it cannot be built, or what was built is no optimizer.
    """
    try:
        built = contender.build(params) if lr is None else contender.build(params, lr=lr)
    except ThalwegError:
        raise  # already one sentence
    except Exception as error:
        raise ArgumentError(f"{contender.name} could not be built: {said(error)}") from error
    if not isinstance(built, Optimizer):
        kind = type(built).__name__
        raise ArgumentError(f"{contender.name} built a {kind}, not a torch.optim.Optimizer.")
    if "lr" not in built.param_groups[0]:
        raise ArgumentError(f"{contender.name} has no 'lr' in its groups: nothing to tune.")
    return built


def check(contender: Contender) -> Default:
    """Build a contender, take one step on a throw-away parameter, and read its default rate.

    The step finds optimizers that cannot be used at all (one that needs a closure, say) before
    anything is trained.

    Raises:
        ArgumentError: if it cannot be built, cannot take a step, or has a rate that is not to be
            changed.
    """
    params = [nn.Parameter(torch.zeros(4, 4))]
    default = rate_of(contender, params)
    if default.fixed:
        raise ArgumentError(
            f"{contender.name} keeps its own lr of {default.lr:g}, but the search has to choose "
            "it: leave lr out."
        )
    optimizer = build(contender, params, default.centre)
    params[0].grad = torch.zeros_like(params[0])
    try:
        optimizer.step()
    except Exception as error:
        raise ArgumentError(f"{contender.name} cannot take a step: {said(error)}") from error
    return default


def rate_of(contender: Contender, params: list[nn.Parameter]) -> Default:
    """Return the learning rate that a contender has by itself, and whether it can be changed.

    Raises:
        ArgumentError: if it cannot be built over these parameters, or its rate is not above 0.
    """
    try:
        default = _lr(build(contender, params, None))
    except ArgumentError:  # perhaps only the rate is missing: the next build says so if not
        default = None
    centre = _centre(contender.name, default)
    if not centre > 0:
        raise ArgumentError(f"{contender.name} has lr {centre:g}: no rates to try around that.")
    own = _lr(build(contender, params, centre))
    if own == _lr(build(contender, params, 2 * centre)):
        return Default(own, own, fixed=True)
    return Default(default, centre)


def _lr(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _centre(name: str, default: float | None) -> float:
    """Return where the search starts: the default, where there is one of use."""
    if default is None:
        return FALLBACK_LR
    rule = re.split(r"\W", name.rpartition(":")[2], maxsplit=1)[0].lower()
    if rule == "sgd" and default == SGD_LR[0]:
        return SGD_LR[1]
    return default
