"""Optimizers by name: "lion + cautious", "torch.optim.SGD(momentum=0.9)", "package.module:function"."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch.optim import Optimizer

from thalweg.catalogue import create_optimizer
from thalweg.conformance.subject import Factory
from thalweg.errors import ArgumentError
from thalweg.importing import import_object

_OWN = re.compile(r"\s*([A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+)\s*(\(.*\))?\s*", re.S)
LR = 1e-3  # for a class whose lr has no default


def named_factory(spec: str) -> Factory:
    """Return what builds the optimizer of this name.

    Args:
        spec: A name with options of Thalweg's own ("lion + cautious"); or a class, or a function
            (params, **overrides), as "package.Class" or "package.module:attribute", with its arguments in
            parentheses if it needs any: literals by name. A class whose lr has no default gets 0.001.

    Raises:
        ArgumentError: It cannot be imported or called, or its arguments are not literals.

    Example:
        >>> from thalweg.conformance.named import named_factory
        >>> import torch
        >>> build = named_factory("torch.optim.SGD(momentum=0.9)")
        >>> build([torch.nn.Parameter(torch.zeros(1))], lr=0.5).defaults["momentum"]
        0.9
    """
    own = _OWN.fullmatch(spec)
    if own is None:
        return partial(_catalogued, spec)
    found = import_object(own[1])
    if not callable(found):
        raise ArgumentError(
            f"{own[1]} is a {type(found).__name__}; needed is an optimizer class or a function "
            "(params, lr=...) that returns an optimizer."
        )
    arguments = _literals(own[2] or "()", spec)
    if _needs_lr(found):
        arguments.setdefault("lr", LR)
    return partial(found, **arguments)


def _catalogued(spec: str, params: Iterable[Any], **overrides: Any) -> Optimizer:
    return create_optimizer(params, spec, **overrides)


def _literals(text: str, spec: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        if not call.args:
            return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError, AssertionError):
        pass
    raise ArgumentError(
        f"{spec!r}: arguments are literals by name, as torch.optim.SGD(lr=0.1, momentum=0.9)"
    )


def _needs_lr(factory: Any) -> bool:
    try:
        lr = inspect.signature(factory).parameters.get("lr")
    except (TypeError, ValueError):  # it has no signature to read
        return False
    return lr is not None and lr.default is lr.empty
