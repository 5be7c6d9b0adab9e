"""The numbers of a training: what an optimizer's text says, what was passed beside it, what is usual."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from thalweg.catalogue.names import Named, refuse_otherwise


def written(named: Named) -> dict[str, Any]:
    """The arguments that the text says, and as `momentum` the first of its betas."""
    found = dict(named.arguments)
    betas = found.get("betas")
    if "momentum" not in found and isinstance(betas, (tuple, list)) and betas:
        found["momentum"] = betas[0]
    return found


def settled(
    named: Named,
    passed: Mapping[str, Any],
    usual: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Each number as it was said, in the text or beside it; else as is usual; else it is left out.

    Args:
        named: The optimizer.
        passed: What was passed beside the text; None: nothing was.
        usual: What the training has where neither says anything.
        names: What the training calls them, where that is not the optimizer's name.

    Raises:
        ValueError: Both say it, and not the same.
    """
    texts = written(named)
    refuse_otherwise(named.text, texts, passed, names)
    found: dict[str, Any] = {}
    for key in {**passed, **usual}:
        beside = passed.get(key)
        value = texts.get(key, usual.get(key) if beside is None else beside)
        if value is not None:
            found[key] = value
    return found


def momentum_field(named: Named) -> str | None:
    """Which field of a group is the momentum: "momentum", or the first of betas; None: there is none."""
    parameters = inspect.signature(named.cls).parameters
    return "momentum" if "momentum" in parameters else "betas[0]" if "betas" in parameters else None


def momentum_arguments(named: Named, momentum: float) -> dict[str, Any]:
    """What of the constructor's arguments a training's `momentum` is: momentum, or the first of betas.

    SGD's is Nesterov's, as YOLO has it.
    """
    field = momentum_field(named)
    if field == "momentum":
        nesterov = named.name == "sgd" and momentum > 0.0
        return {"momentum": momentum, **({"nesterov": True} if nesterov else {})}
    if field is None:
        return {}
    betas = named.arguments.get("betas", inspect.signature(named.cls).parameters["betas"].default)
    return {"betas": (momentum, *betas[1:])}
