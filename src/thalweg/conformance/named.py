"""Optimizers by name: "lion + cautious", "torch.optim.SGD(momentum=0.9)", "package.module:my_rule"."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch.optim import Optimizer

from thalweg.catalogue.names import option_named, parse, read
from thalweg.conformance.subject import Factory
from thalweg.engine.optimizer import Optimizer as RuleOptimizer
from thalweg.engine.option import Option, OptionSpec
from thalweg.engine.rule import Rule
from thalweg.errors import ArgumentError
from thalweg.importing import import_object

_OWN = re.compile(r"\s*([A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+)\s*(.*)", re.S)
LR = 1e-3  # for a class whose lr has no default


def named_factory(spec: str) -> Factory:
    """Return what builds the optimizer of this name.

    Args:
        spec: A name of Thalweg's own ("lion + cautious"); or a class, a function (params, **overrides), or
            a rule, as "package.Class" or "package.module:attribute", with its arguments in parentheses if
            it needs any: literals by name. Options follow, joined by +. A class whose lr has no default
            gets 0.001.

    Raises:
        ArgumentError: It is no such name, cannot be imported or called, or its arguments are not literals.

    Example:
        >>> from thalweg.conformance.named import named_factory
        >>> import torch
        >>> build = named_factory("torch.optim.SGD(momentum=0.9)")
        >>> build([torch.nn.Parameter(torch.zeros(1))], lr=0.5).defaults["momentum"]
        0.9
    """
    own = _OWN.fullmatch(spec)
    if own is None:
        read(spec)  # what is misspelt is said at once
        return partial(_catalogued, spec)
    name, rest = own.groups()
    found = as_factory(import_object(name), name)
    arguments, options = _behind(rest, spec)
    signature = _signature(found)
    if options:
        if not {"options", "kwargs"} & set(signature):
            raise ArgumentError(f"{name} takes no options; {spec!r} needs an argument 'options'")
        arguments["options"] = options
    lr = signature.get("lr")
    if lr is not None and lr.default is lr.empty:
        arguments.setdefault("lr", LR)
    return partial(found, **arguments)


def as_factory(found: Any, name: str) -> Factory:
    """Return what builds an optimizer: around a rule the optimizer that runs it; else what was given.

    Args:
        found: A rule, a class or a function.
        name: What messages call it.

    Raises:
        ArgumentError: It is an option, or cannot be called.
    """
    if isinstance(found, Rule):
        return partial(RuleOptimizer, rule=found)
    is_option = isinstance(found, type) and issubclass(found, Option)
    if is_option or isinstance(found, (Option, OptionSpec)):
        raise ArgumentError(
            f"{name} is an option; it is checked around an optimizer, as in 'adamw + lookahead(k=6)'"
        )
    if not callable(found):
        raise ArgumentError(
            f"{name} is a {type(found).__name__}; needed is an optimizer class, a function "
            "(params, lr=...) that returns an optimizer, or a rule."
        )
    made: Factory = found
    return made


def _catalogued(spec: str, params: Iterable[Any], **overrides: Any) -> Optimizer:
    return read(spec).made(params, **overrides)


def _behind(rest: str, spec: str) -> tuple[dict[str, Any], list[Option]]:
    """The arguments and the options behind a dotted name."""
    try:
        (_, arguments), *parts = parse(f"f{rest}")
    except ArgumentError:
        arguments, parts = {"*": ()}, []
    if "*" in arguments:
        raise ArgumentError(
            f"{spec!r}: arguments are literals by name, as torch.optim.SGD(lr=0.1, momentum=0.9); options "
            "are joined by +"
        )
    return arguments, [option_named(name, values) for name, values in parts]


def _signature(factory: Factory) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # it has no signature to read
        return {}
    return {"kwargs" if p.kind is p.VAR_KEYWORD else p.name: p for p in parameters}
