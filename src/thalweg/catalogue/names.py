"""Optimizers by name: one grammar for strings, everywhere.

"lion"    "Lion(betas=(0.95, 0.98))"    "adamw + cautious + lookahead(k=6)"
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from thalweg import optim, wrappers
from thalweg.engine.option import PUBLIC, Option
from thalweg.engine.rule import Hyper
from thalweg.errors import ArgumentError, ArgumentTypeError, suggest, unknown

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): getattr(optim, name) for name in optim.__all__
}
"""Every optimizer by its name in lower case."""

LONGEST = 2000
"""Characters of a text that names an optimizer."""

WRAPPERS_PAGE = "docs/wrappers.md"
"""What tells about wrappers, in the repository."""

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
        text: As it was written.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    options: tuple[Option, ...]
    text: str

    def made(self, params: Any, **arguments: Any) -> torch.optim.Optimizer:
        """The optimizer; arguments in the text win, and the groups' own numbers win over both.

        For who passes numbers that no user wrote beside the text; `create_optimizer` refuses those that
        differ from it.

        Raises:
            TypeError: An argument or options that the optimizer does not have.
        """
        merged = {**arguments, **self.arguments}
        known = [
            k for k in inspect.signature(self.cls).parameters if k != "params"
        ]  # given already
        for argument in merged:
            if argument not in known:
                raise ArgumentTypeError(unknown(self.cls.__name__, argument, known))
        if self.options and "options" not in known:
            raise ArgumentTypeError(
                f"{self.cls.__name__} takes no options; {self.text!r} needs an argument 'options' that it "
                "has not"
            )
        if self.options:
            merged["options"] = [*merged.get("options", ()), *self.options]
        return self.cls(params, **merged)


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
        **arguments: The optimizer's arguments, each here or in the name: said in both it must be the same.
            What a group has of its own wins over either.

    Raises:
        ValueError: An unknown name (with a suggestion), text that is not of this grammar, or an argument in
            it that was passed otherwise, or that every group has otherwise.
        TypeError: An argument that the optimizer or option does not have, or groups of what is no model.

    Example:
        >>> import torch, thalweg
        >>> optimizer = thalweg.create_optimizer(torch.nn.Linear(2, 2), "Lion + lookahead(k=5)", lr=1e-3)
        >>> optimizer.param_groups[0]["lookahead_k"]
        5
    """
    named = read(name)
    refuse_otherwise(named.text, named.arguments, arguments)
    params: Any = model_or_params
    if groups is not None:
        params = _grouped(params, groups)
    elif isinstance(params, nn.Module):
        params = [(n, p) for n, p in params.named_parameters() if p.requires_grad]
    _refuse_what_reaches_no_group(named, params)
    return named.made(params, **arguments)


def refuse_otherwise(
    text: str,
    said: Mapping[str, Any],
    passed: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
) -> None:
    """Refuse what a text says and was passed beside it, and not the same.

    Args:
        text: The optimizer's text.
        said: The arguments in it.
        passed: What was passed beside it; None: nothing was.
        names: What the caller calls them, where that is not the optimizer's name.

    Raises:
        ValueError: There is such an argument.
    """
    for key, beside in passed.items():
        if key in said and beside is not None and _differ(said[key], beside):
            raise ArgumentError(
                f"{(names or {}).get(key, key)}={beside} was passed, and {text!r} says {key} is "
                f"{said[key]}; say it in one place"
            )


def _differ(said: Any, beside: Any) -> bool:
    if isinstance(said, (tuple, list)) and isinstance(beside, (tuple, list)):
        return tuple(said) != tuple(beside)
    if isinstance(beside, torch.Tensor) and beside.numel() != 1:
        return True
    return bool(said != beside)


def _refuse_what_reaches_no_group(named: Named, groups: Any) -> None:
    """A number in the text is for groups without one of their own; all of them may have one."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(g, Mapping) for g in groups):
        return
    for key, value in named.arguments.items():
        own = [g[key] for g in groups if key in g]
        if own and len(own) == len(groups) and not any(x is value or x == value for x in own):
            said = ", ".join(str(x) for x in dict.fromkeys(map(str, own)))
            raise ArgumentError(
                f"{key}={value!r} in {named.text!r} reaches no group: they have their own, {said}; say it in "
                "one place"
            )


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
        raise ArgumentError(_no_optimizer(head))
    chosen = tuple(option_named(part, values) for part, values in parts)
    if "*" in given:
        raise ArgumentError(
            f"{head}({given['*'][0]!r}) in {text!r}: write the argument's name, as {head}(weight_decay=0.1)"
        )
    return Named(name, CLASSES[name], given, chosen, text)


def _no_optimizer(name: str) -> str:
    """What a name is instead of an optimizer's, or which optimizer's it may have been meant to be."""
    option, wrapper = known_option(name), wrapper_beside(name)
    if option is not None:
        around = f"; the wrapper of that name is {wrapper}" if wrapper else ""
        return (
            f"{name!r} is an option and goes behind an optimizer, as in 'adamw + {as_written(option)}'"
            f"{around}; thalweg info {name}, or thalweg.option_info({name!r}), tells about it"
        )
    if wrapper:
        return _is_wrapper(name, wrapper)
    known = [*CLASSES, *option_classes()]
    return f"unknown optimizer {name!r}.{suggest(name, known)} Known: {', '.join(sorted(CLASSES))}."


def known_wrapper(name: str) -> type[torch.optim.Optimizer] | None:
    """The wrapper of this name, in any case; None where there is none."""
    found = {n.lower(): n for n in wrappers.__all__}.get(_bare(name.strip().lower()))
    return None if found is None else getattr(wrappers, found)


def wrapper_beside(name: str) -> str:
    """The call of the wrapper of this name, in any case; empty where there is none."""
    found = known_wrapper(name)
    if found is None:
        return ""
    parameters = inspect.signature(found).parameters.values()
    given = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"thalweg.{found.__name__}({', '.join(given)})"


def _is_wrapper(name: str, call: str) -> str:
    return (
        f"{name!r} is a wrapper: {call} goes around an optimizer that is made already; {WRAPPERS_PAGE}, or "
        f"thalweg info {name}, tells about it"
    )


def as_written(cls: type[Option]) -> str:
    """An option with its arguments as a string has it: their defaults, or where they have none an example.

    Example:
        >>> from thalweg.catalogue.names import as_written
        >>> from thalweg.options import ClipNorm, Decay
        >>> as_written(ClipNorm), as_written(Decay)
        ('clip_norm(max_norm=1.0)', "decay(style='independent', cautious=False)")
    """
    name, declared = _snake(cls.__name__), cls.spec.arguments()
    given = dict(cls.example)
    for p in inspect.signature(cls).parameters.values():
        if p.name in given:
            continue
        number = declared.get(p.name)
        if p.default is not p.empty:
            given[p.name] = p.default
        elif isinstance(number, Hyper):
            given[p.name] = number.default
        else:
            given[p.name] = next(iter(choices(cls, p.name)), None)
    if not given:
        return name
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


def choices(cls: type[Option], argument: str) -> tuple[Any, ...]:
    """The words that an option's argument may be; none where it is not one of some words."""
    hint = typing.get_type_hints(cls.__init__).get(argument)
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def option_classes() -> dict[str, type[Option]]:
    """Every option by the name that it has in strings."""
    return {_snake(cls.__name__): cls for cls in PUBLIC.values()}


def known_option(name: str) -> type[Option] | None:
    """The option of this name in strings, with or without underscores; None where there is none."""
    classes = option_classes()
    return classes.get(name) or {_bare(k): c for k, c in classes.items()}.get(_bare(name))


def option_class(name: str) -> type[Option]:
    """The option of this name.

    Raises:
        ValueError: There is none (with a suggestion).
    """
    cls = known_option(name)
    if cls is not None:
        return cls
    wrapper, known = wrapper_beside(name), option_classes()
    if wrapper:
        raise ArgumentError(_is_wrapper(name, wrapper))
    if _bare(name) in map(_bare, CLASSES):
        raise ArgumentError(
            f"{name!r} is an optimizer and stands before its options, as in '{name} + lookahead(k=6)'; "
            f"thalweg info {name}, or thalweg.optimizer_info({name!r}), tells about it"
        )
    raise ArgumentError(
        f"unknown option {name!r}.{suggest(name, known)} Known: {', '.join(sorted(known))}."
    )


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


def option_named(name: str, values: Mapping[str, Any]) -> Option:
    """An option by the name that it has in strings, made; what stands under "*" is passed by position.

    Raises:
        ValueError: An unknown name (with a suggestion), or a number out of range.
        TypeError: It does not have such an argument.
    """
    cls = option_class(name)
    signature, positional = inspect.signature(cls), values.get("*", ())
    given = {k: v for k, v in values.items() if k != "*"}
    for argument in given:
        if argument not in signature.parameters:
            raise ArgumentTypeError(unknown(name, argument, list(signature.parameters)))
    try:
        signature.bind(*positional, **given)
    except TypeError as e:
        raise ArgumentTypeError(f"{name}: {e}; as in {as_written(cls)!r}") from None
    try:
        return cls(*positional, **given)
    except TypeError as e:
        if isinstance(e, ArgumentTypeError):
            raise
        raise ArgumentTypeError(f"{name}: {e}") from None


def _bare(name: str) -> str:
    return name.replace("_", "")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
