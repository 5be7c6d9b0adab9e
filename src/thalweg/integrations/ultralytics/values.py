"""The numbers of a training: what the user passed, else the algorithm's own; not those meant for SGD."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from thalweg.catalogue import create_optimizer, optimizer_info
from thalweg.catalogue.names import CLASSES, Named, parse, read
from thalweg.catalogue.numbers import written
from thalweg.errors import ArgumentError, ThalwegError, suggest

THEIRS = ("auto", "MuSGD")
"""Names that stay Ultralytics'."""


def is_theirs(name: str | None) -> bool:
    """Whether Ultralytics makes this optimizer."""
    return name is None or str(name).strip().lower() in {x.lower() for x in THEIRS}


def settled(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The training's arguments with those of the optimizer filled in that were not passed.

    Ultralytics' defaults (lr0 0.01, momentum 0.937, weight_decay 0.0005, warmup_bias_lr 0.1) are meant for
    SGD with Nesterov momentum, and there they stay. All others get the numbers of their own signature, biases
    warm up from 0 as everything else, and the warm-up leaves the momentum alone.

    Args:
        overrides: What was passed to `train()`.

    Raises:
        ValueError: An unknown optimizer (with a suggestion), or one that cannot run in there.
    """
    filled = dict(overrides)
    if filled.get("resume") or is_theirs(filled.get("optimizer")):
        return filled
    named = named_in_training(filled["optimizer"])
    filled |= said(named)
    if named.name != "sgd":
        for key, value in own(named).items():
            filled.setdefault(key, value)
        filled.setdefault("warmup_momentum", filled["momentum"])
    return filled


def said(named: Named) -> dict[str, Any]:
    """The numbers in the optimizer's text under Ultralytics' names for them."""
    names = {"lr": "lr0", "momentum": "momentum", "weight_decay": "weight_decay"}
    return {names[k]: x for k, x in written(named).items() if k in names}


def contradicted(overrides: Mapping[str, Any], args: Any) -> str | None:
    """What was passed to a training that is resumed, and is not what it has: named, or None.

    Args:
        overrides: What was passed to `train()`.
        args: What the training has, from its checkpoint.
    """
    for key in (
        "optimizer",
        "lr0",
        "momentum",
        "weight_decay",
        "warmup_bias_lr",
        "warmup_momentum",
    ):
        passed, has = overrides.get(key), getattr(args, key, None)
        if passed is None or passed == has:
            continue
        texts = [str(x) for x in (passed, has)]
        if key != "optimizer" or any(map(is_theirs, texts)) or parse(texts[0]) != parse(texts[1]):
            return f"{key}={has!r}, and {key}={passed!r} was passed"
    return None


def own(named: Named) -> dict[str, Any]:
    """The algorithm's own numbers under Ultralytics' names for them."""
    defaults = {k: p.default for k, p in inspect.signature(named.cls).parameters.items()}
    momentum = defaults.get("momentum", defaults.get("betas", (0.0,))[0])
    return {
        "lr0": float(defaults["lr"]),
        "momentum": float(momentum),
        "weight_decay": float(defaults.get("weight_decay", 0.0)),
        "warmup_bias_lr": 0.0,
    }


def named_in_training(text: str) -> Named:
    """What the text names, if a trainer that passes no closure can run it on any model.

    It is made once, around a parameter of its own: a wrong argument is refused before anything is written.

    Raises:
        ValueError: It cannot, or the name is unknown.
    """
    head = parse(text)[0][0] if isinstance(text, str) else None
    if head is not None and head.replace("_", "") not in CLASSES:
        raise ArgumentError(
            f"unknown optimizer {head!r} in optimizer={text!r}.{suggest(head, (*CLASSES, *THEIRS))} "
            f"Known: {', '.join(sorted(CLASSES))}; and Ultralytics' {', '.join(THEIRS)}."
        )
    try:
        named = read(text)
    except ThalwegError as error:
        raise type(error)(f"optimizer={text!r}: {error}") from None
    able = optimizer_info(named.name).capabilities
    for is_so, why in (
        (able.closure, "its step needs a closure, and Ultralytics passes none"),
        (able.sparse_only, "it takes sparse gradients only, and these models have none"),
        (able.matrix_only, "it takes matrices only, and these models have biases; muonadamw"),
    ):
        if is_so:
            raise ArgumentError(f"optimizer={text!r} cannot train this model: {why}")
    create_optimizer([torch.zeros(2, 2, requires_grad=True)], text)
    return named
