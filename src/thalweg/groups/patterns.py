"""Groups by ordered rules on names and module types."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from torch import nn

from thalweg.catalogue.names import CLASSES
from thalweg.errors import ArgumentError, ArgumentTypeError, suggest
from thalweg.groups.parameters import Parameter, parameters
from thalweg.groups.result import TAG, Groups, Part, assemble, empty

Pattern = str | re.Pattern[str] | type[nn.Module]
Rules = Mapping[Any, Mapping[str, Any]] | Sequence[tuple[Any, Mapping[str, Any]]]

OWN = ("params", "param_names", TAG)


@dataclass(frozen=True)
class Matcher:
    """A pattern, read.

    Args:
        text: As the user wrote it.
        by: "name", "regex", "type" or "class".
        what: What is looked for.
    """

    text: str
    by: str
    what: Any

    def __call__(self, parameter: Parameter) -> bool:
        """Whether any of the parameter's places fits."""
        return any(self._fits(place.name, place.module) for place in parameter.places)

    def _fits(self, name: str, module: nn.Module) -> bool:
        if self.by == "name":
            return fnmatchcase(name, self.what)
        if self.by == "regex":
            return self.what.search(name) is not None
        if self.by == "class":
            return isinstance(module, self.what)
        own = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
        return any(fnmatchcase(cls.__name__, self.what) for cls in own)

    def hint(self, found: Sequence[Parameter]) -> str:
        """What there is instead, for an error."""
        places = [place for x in found for place in x.places]
        if self.by in ("type", "class"):
            known = sorted({type(place.module).__name__ for place in places})
            wanted, said = getattr(self.what, "__name__", self.what), "modules with parameters are"
        else:
            known, wanted, said = [place.name for place in places], self.text, "names are"
        some = f"{', '.join(known[:6])}{', ...' if len(known) > 6 else ''}"
        return (
            f"correct it (the {said} {some}).{suggest(str(wanted), known)} Otherwise leave it out"
        )


def matcher(pattern: Pattern) -> Matcher:
    """Read a pattern.

    Raises:
        ValueError: A regular expression that is none.
        TypeError: Something else.
    """
    if isinstance(pattern, re.Pattern):
        return Matcher(repr(f"re:{pattern.pattern}"), "regex", pattern)
    if isinstance(pattern, type) and issubclass(pattern, nn.Module):
        return Matcher(pattern.__name__, "class", pattern)
    if not isinstance(pattern, str):
        raise ArgumentTypeError(
            f"{pattern!r} is no pattern; write a glob of names ('*.bias'), 're:' and a regular expression, "
            "'type:' and a glob of module types, or a module's class"
        )
    if pattern.startswith("type:"):
        return Matcher(repr(pattern), "type", pattern[5:])
    if pattern.startswith("re:"):
        try:
            return Matcher(repr(pattern), "regex", re.compile(pattern[3:]))
        except re.error as e:
            raise ArgumentError(f"{pattern!r} is no regular expression: {e}") from None
    return Matcher(repr(pattern), "name", pattern)


def matchers(patterns: Any) -> list[Matcher]:
    """Read patterns; a single one stands for a list of it.

    Raises:
        ValueError, TypeError: As `matcher`.
    """
    alone = isinstance(patterns, (str, re.Pattern, type))
    return [matcher(pattern) for pattern in ([patterns] if alone else patterns)]


def all_match(
    name: str, read: Sequence[Matcher], found: Sequence[Parameter], left_out: Sequence[Parameter]
) -> None:
    """Refuse a pattern that matches nothing.

    Raises:
        ValueError: There is one.
    """
    for m in read:
        if not any(m(x) for x in found):
            raise empty(f"{name}={m.text}", m.hint(found), [x for x in left_out if m(x)])


def by_pattern(
    model: nn.Module,
    rules: Rules,
    *,
    frozen: bool = False,
    allow_empty: bool = False,
) -> Groups:
    """A group for each rule; a parameter goes to the first rule that fits, or to the rest.

    For all that has its own lr, decay or update rule in the same model. Plain text and numbers, so that
    rules may come from a configuration file.

    Args:
        model: The module.
        rules: {pattern: numbers} or (pattern, numbers) pairs, the first that fits wins. A pattern is a glob
            of the whole name ("backbone.*"), a regular expression found in it ("re:layers[.][0-3][.]"), a
            glob of the type of the module ("type:*Norm*"), or a module's class. Numbers are the group's:
            {"lr": 1e-4, "weight_decay": 0.0, "rule": "lion"}; {} takes the optimizer's.
        frozen: Whether parameters that require no gradient are grouped too.
        allow_empty: Whether a rule may match nothing; it then makes no group.

    Returns:
        A group for each rule, named by its pattern, and one named "rest".

    Raises:
        ValueError: A rule matches nothing, has nothing left of what it matches, or sets what is nearly, but
            not quite, a number of our optimizers.
        TypeError: A rule is not of that form.

    Differs:
        A weight that several modules share is matched by any of its names; it stands once, under the first.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1))
        >>> rules = {"2.*": {"lr": 0.01}, "type:*Norm": {"weight_decay": 0.0}}
        >>> for group in thalweg.groups.by_pattern(model, rules):
        ...     print(group["param_group"], group["param_names"])
        2.* ['2.weight', '2.bias']
        type:*Norm ['1.weight', '1.bias']
        rest ['0.weight', '0.bias']
    """
    found, left_out = parameters(model, frozen=frozen)
    read = [_rule(entry) for entry in _pairs(rules)]
    parts = [Part(m.text.strip("'\""), numbers) for m, numbers in read]
    rest = Part("rest")
    for x in found:
        hits = [i for i, (m, _) in enumerate(read) if m(x)]
        part = parts[hits[0]] if hits else rest
        part.chosen.append((x, f"matches {read[hits[0]][0].text}" if hits else "matches no rule"))
    for (m, _), part in zip(read, parts, strict=True):
        if not part.chosen and not allow_empty:
            raise _nothing_left(m, read, found, left_out)
    return assemble([*parts, rest], left_out)


def _pairs(rules: Rules) -> Iterable[Any]:
    if isinstance(rules, Mapping):
        return rules.items()
    if isinstance(rules, (str, bytes)) or not isinstance(rules, Iterable):
        raise ArgumentTypeError(
            f"rules={rules!r}; they are {{pattern: numbers}}, as in {{'*.bias': {{'weight_decay': 0.0}}}}"
        )
    return rules


def _rule(entry: Any) -> tuple[Matcher, dict[str, Any]]:
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        raise ArgumentTypeError(
            f"a rule is (pattern, numbers), as in ('*.bias', {{'weight_decay': 0.0}}); got {entry!r}"
        )
    read, numbers = matcher(entry[0]), entry[1]
    if not isinstance(numbers, Mapping):
        raise ArgumentTypeError(
            f"rule {read.text} has {numbers!r}; it needs the group's numbers, as {{'lr': 1e-4}}, or {{}}"
        )
    taken = [key for key in OWN if key in numbers]
    if taken:
        raise ArgumentError(f"rule {read.text} sets {taken[0]!r}, which the builder itself fills")
    known = _known_numbers()
    for key in numbers:
        near = [] if key in known else difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
        if near:
            raise ArgumentError(f"rule {read.text} sets {key!r}. Did you mean {near[0]!r}?")
    return read, dict(numbers)


@cache
def _known_numbers() -> frozenset[str]:
    """What any optimizer's groups may have; other keys are the user's own, if they are not near one."""
    arguments = (inspect.signature(cls).parameters for cls in CLASSES.values())
    return frozenset(("rule", "lr_scale", "use_muon", *(name for a in arguments for name in a)))


def _nothing_left(
    m: Matcher,
    read: Sequence[tuple[Matcher, Any]],
    found: Sequence[Parameter],
    left_out: Sequence[Parameter],
) -> ArgumentError:
    """The error for a rule without parameters: nothing fits, or earlier rules took it all."""
    fitting = [x for x in found if m(x)]
    if not fitting:
        return empty(f"rule {m.text}", m.hint(found), [x for x in left_out if m(x)])
    first = next(other for other, _ in read if other(fitting[0]))
    return ArgumentError(
        f"rule {m.text} gets no parameter: {fitting[0].name!r} and all else that it matches went to "
        f"{first.text} or other rules before it; put it first, or pass allow_empty=True"
    )
