"""Optimizers by name: one grammar for strings, everywhere.

"lion"    "Lion(betas=(0.95, 0.98))"    "adamw + cautious + lookahead(k=6)"
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from thalweg import optim
from thalweg.engine.option import PUBLIC, Option
from thalweg.errors import ArgumentError, ArgumentTypeError, suggest

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): getattr(optim, name) for name in optim.__all__
}


def list_optimizers() -> list[str]:
    """The names that `create_optimizer` takes, sorted.

    Example:
        >>> import thalweg
        >>> "lion" in thalweg.list_optimizers()
        True
    """
    return sorted(_CLASSES)


def create_optimizer(
    model_or_params: nn.Module | Iterable[Any], name: str, **arguments: Any
) -> torch.optim.Optimizer:
    """Make an optimizer from its name, with options: "lion(betas=(0.95, 0.98)) + cautious + lookahead(k=6)".

    Args:
        model_or_params: A module (its named parameters that require gradients), or what optimizers take.
        name: An optimizer, any case, then options, joined by +; arguments are Python literals.
        **arguments: The optimizer's arguments; those written in the name win.

    Raises:
        ValueError: An unknown name (with a suggestion), or text that is not of this grammar.
        TypeError: An argument that the optimizer or option does not have.

    Example:
        >>> import torch, thalweg
        >>> optimizer = thalweg.create_optimizer(torch.nn.Linear(2, 2), "Lion + lookahead(k=5)", lr=1e-3)
        >>> optimizer.param_groups[0]["lookahead_k"]
        5
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"the optimizer's name is {name!r}; it comes second, as in create_optimizer(model, 'lion')"
        )
    (head, given), *parts = parse(name)
    if head not in _CLASSES:
        raise ArgumentError(
            f"unknown optimizer {head!r}.{suggest(head, _CLASSES)} Known: {', '.join(list_optimizers())}."
        )
    chosen = [_option(part, values) for part, values in parts]
    if "*" in given:
        raise ArgumentError(
            f"{head}({given['*'][0]!r}) in {name!r}: write the argument's name, as {head}(weight_decay=0.1)"
        )
    merged = {**arguments, **given}
    if chosen:
        merged["options"] = [*merged.get("options", ()), *chosen]
    params = model_or_params
    if isinstance(params, nn.Module):
        params = [(n, p) for n, p in params.named_parameters() if p.requires_grad]
    return _CLASSES[head](params, **merged)


def parse(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split "a(x=1) + b" into [("a", {"x": 1}), ("b", {})]; names in lower case.

    Raises:
        ValueError: It is not of this grammar.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as e:
        raise ArgumentError(
            f"{text!r} does not read as names with arguments joined by +: {e.msg}"
        ) from None
    return [_part(node, text) for node in _summands(tree)]


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


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
        if len(values) == len(node.keywords):
            return node.func.id.lower(), ({"*": positional} if positional else {}) | values
    raise ArgumentError(
        f"{ast.unparse(node)!r} in {text!r}: each part is a name, or a name with arguments, as lookahead(k=6)"
    )


def _option(name: str, values: dict[str, Any]) -> Option:
    classes = {_snake(cls.__name__): cls for cls in PUBLIC.values()}
    cls = classes.get(name) or {k.replace("_", ""): c for k, c in classes.items()}.get(name)
    if cls is None:
        raise ArgumentError(
            f"unknown option {name!r}.{suggest(name, classes)} Known: {', '.join(sorted(classes))}."
        )
    try:
        return cls(*values.pop("*", ()), **values)
    except TypeError as e:
        if isinstance(e, ArgumentTypeError):
            raise
        raise ArgumentTypeError(
            f"{name}: {str(e).replace(f'{cls.__name__}.__init__() ', '')}"
        ) from None


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
