"""Optimizers by name: one grammar for strings, everywhere.

"lion"    "Lion(betas=(0.95, 0.98))"    "adamw + cautious + lookahead(k=6)"
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from thalweg import optim
from thalweg.engine.arguments import unknown
from thalweg.engine.option import PUBLIC, Option
from thalweg.errors import ArgumentError, ArgumentTypeError, suggest

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): getattr(optim, name) for name in optim.__all__
}
"""Every optimizer by its name in lower case."""

LONGEST = 2000
"""Characters of a text that names an optimizer."""

Grouping = Callable[[nn.Module], Sequence[Mapping[str, Any]]]

GROUPINGS: dict[str, Grouping] = {}
"""What `groups=` may name; `thalweg.groups` fills it when it is imported."""


@dataclass(frozen=True)
class Named:
    """What a text names.

    Args:
        name: The optimizer's name, as in the list.
        cls: Its class.
        arguments: Those written in the text.
        options: The options written in the text, made.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    options: tuple[Option, ...]


def create_optimizer(
    model_or_params: nn.Module | Iterable[Any],
    name: str,
    *,
    groups: str | Grouping | None = None,
    **arguments: Any,
) -> torch.optim.Optimizer:
    """Make an optimizer from its name, with options: "lion(betas=(0.95, 0.98)) + cautious + lookahead(k=6)".

    Args:
        model_or_params: A module (its named parameters that require gradients), or what optimizers take.
        name: An optimizer, any case, then options, joined by +; arguments are Python literals.
        groups: How a model's parameters are grouped: "no_decay", "yolo", "muon", or a function of the model
            that returns groups; None: all in one.
        **arguments: The optimizer's arguments; those written in the name win.

    Raises:
        ValueError: An unknown name (with a suggestion), or text that is not of this grammar.
        TypeError: An argument that the optimizer or option does not have, or groups of what is no model.

    Example:
        >>> import torch, thalweg
        >>> optimizer = thalweg.create_optimizer(torch.nn.Linear(2, 2), "Lion + lookahead(k=5)", lr=1e-3)
        >>> optimizer.param_groups[0]["lookahead_k"]
        5
    """
    named = read(name)
    merged = {**arguments, **named.arguments}
    known = [k for k in inspect.signature(named.cls).parameters if k != "params"]  # given already
    for argument in merged:
        if argument not in known:
            raise ArgumentTypeError(unknown(named.cls.__name__, argument, known))
    if named.options and "options" not in known:
        raise ArgumentTypeError(
            f"{named.cls.__name__} takes no options; {name!r} needs an argument 'options' that it has not"
        )
    if named.options:
        merged["options"] = [*merged.get("options", ()), *named.options]
    params: Any = model_or_params
    if groups is not None:
        params = _grouped(params, groups)
    elif isinstance(params, nn.Module):
        params = [(n, p) for n, p in params.named_parameters() if p.requires_grad]
    return named.cls(params, **merged)


def _grouped(model: Any, groups: str | Grouping) -> Sequence[Mapping[str, Any]]:
    """A model's groups, by the builder's name or by a function."""
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"groups={groups!r} groups a model's parameters, and {type(model).__name__} is no module; pass "
            "the model, or the groups themselves"
        )
    if callable(groups):
        found = groups(model)
        if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
            raise ArgumentTypeError(
                f"groups={getattr(groups, '__name__', groups)} returned {found!r}; it returns groups, as in "
                "[{'params': [...], 'lr': 0.1}]"
            )
        return found
    import_module("thalweg.groups")  # a room above this one, which enters its builders here
    if groups not in GROUPINGS:
        raise ArgumentError(
            f"groups={groups!r} is not known.{suggest(str(groups), GROUPINGS)} Known: "
            f"{', '.join(sorted(GROUPINGS))}, or a function of the model."
        )
    return GROUPINGS[groups](model)


def read(text: str) -> Named:
    """What an optimizer's name stands for, with the arguments and options behind it.

    Raises:
        ValueError: An unknown name (with a suggestion), or text that is not of this grammar.
        TypeError: It is no text, or an option does not have such an argument.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(
            f"the optimizer's name is {text!r}; it is a string, as in create_optimizer(model, 'lion')"
        )
    (head, given), *parts = parse(text)
    name = head if head in CLASSES else {_bare(k): k for k in CLASSES}.get(_bare(head))
    if name is None:
        raise ArgumentError(
            f"unknown optimizer {head!r}.{suggest(head, CLASSES)} Known: {', '.join(sorted(CLASSES))}."
        )
    chosen = tuple(_option(part, values) for part, values in parts)
    if "*" in given:
        raise ArgumentError(
            f"{head}({given['*'][0]!r}) in {text!r}: write the argument's name, as {head}(weight_decay=0.1)"
        )
    return Named(name, CLASSES[name], given, chosen)


def option_classes() -> dict[str, type[Option]]:
    """Every option by the name that it has in strings."""
    return {_snake(cls.__name__): cls for cls in PUBLIC.values()}


def parse(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split "a(x=1) + b" into [("a", {"x": 1}), ("b", {})]; names in lower case.

    Raises:
        ValueError: It is not of this grammar.
    """
    if (
        len(text) > LONGEST
    ):  # Python's own parser gives up on some such texts, each version in its way
        raise ArgumentError(f"{text[:40]!r}... has {len(text)} characters; {LONGEST} are enough")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        why = getattr(e, "msg", None) or str(e) or "it is nested too deeply"
        raise ArgumentError(
            f"{text!r} does not read as names with arguments joined by +: {why}"
        ) from None
    return [_part(node, text) for node in _summands(tree)]


def _summands(node: ast.expr) -> list[ast.expr]:
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        found.append(node.right)
        node = node.left
    return [node, *reversed(found)]


def _part(node: ast.expr, text: str) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id.lower(), {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            values = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords if k.arg}
            positional = [ast.literal_eval(a) for a in node.args]
        except ValueError:
            raise ArgumentError(
                f"{ast.unparse(node)!r} in {text!r}: arguments are literals such as 6, 0.9, (0.9, 0.99), 'l2'"
            ) from None
        names = [k.arg for k in node.keywords]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice:
            raise ArgumentError(f"{ast.unparse(node)!r} in {text!r}: {twice} stands twice")
        if len(values) == len(node.keywords):
            return node.func.id.lower(), ({"*": positional} if positional else {}) | values
    raise ArgumentError(
        f"{ast.unparse(node)!r} in {text!r}: each part is a name, or a name with arguments, as lookahead(k=6)"
    )


def _option(name: str, values: dict[str, Any]) -> Option:
    classes = option_classes()
    cls = classes.get(name) or {_bare(k): c for k, c in classes.items()}.get(_bare(name))
    if cls is None:
        raise ArgumentError(
            f"unknown option {name!r}.{suggest(name, classes)} Known: {', '.join(sorted(classes))}."
        )
    known = list(inspect.signature(cls).parameters)
    for argument in values:
        if argument != "*" and argument not in known:
            raise ArgumentTypeError(unknown(name, argument, known))
    try:
        return cls(*values.pop("*", ()), **values)
    except TypeError as e:
        if isinstance(e, ArgumentTypeError):
            raise
        raise ArgumentTypeError(
            f"{name}: {str(e).replace(f'{cls.__name__}.__init__() ', '')}"
        ) from None


def _bare(name: str) -> str:
    return name.replace("_", "")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
