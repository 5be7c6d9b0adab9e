"""Arguments: from what a user passed to the plain keys of a group, and whether they are allowed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, get_type_hints

from torch import Tensor, nn
from typing_extensions import Unpack as Unpack  # torch depends on it

from thalweg.engine.groups import TORCH_KEYS, initial_value, number, resolve
from thalweg.engine.option import OPTIONS, Option
from thalweg.engine.prepare import parameter_name
from thalweg.engine.rule import LATEST, Group, Hyper, Rule, Switch, find_rule
from thalweg.engine.trace import hyper_key, shared_scalars
from thalweg.errors import ArgumentError, ArgumentTypeError, BackendError, unknown

if TYPE_CHECKING:
    from typing_extensions import Self

LR = Hyper("lr", 1e-3, low=0.0, says="Invalid learning rate")


class Flags(TypedDict, total=False):
    """The keywords that constructors end with: `**flags: Unpack[Flags]`, which `spell_out` makes explicit."""

    foreach: bool | None
    maximize: bool
    capturable: bool
    differentiable: bool
    fused: bool | None
    options: Sequence[Option]


FLAGS = tuple(name for name in Flags.__annotations__ if name != "options")
"""Those that say how a step is taken."""


def as_rule(rule: Any) -> Rule:
    """A rule, or the registered rule of that name."""
    if isinstance(rule, str):
        return LATEST.get(rule) or find_rule(rule)
    if not isinstance(rule, Rule):
        hint = "; decorate it with @thalweg.rule(...)" if callable(rule) else ""
        raise ArgumentTypeError(f"rule={rule!r} is no rule{hint}")
    return rule


def numbers_of(title: str, rule: Rule, given: Mapping[str, Any]) -> dict[str, Any]:
    """The group's keys for a rule's numbers and switches, each passed by its name or by its key.

    Raises:
        TypeError: Something else was passed.
    """
    left = dict(given)
    builtin = [h for spec in OPTIONS.values() if spec.builtin for h in spec.hypers]
    places: dict[str, list[Hyper]] = {}
    for h in (h for h in (*rule.hypers, *builtin) if not h.derived):
        places.setdefault(h.place()[0], []).append(h)
    found = {key: _taken(title, key, hypers, left) for key, hypers in places.items()}
    for switch in rule.arguments().values():
        if isinstance(switch, Switch):
            found[switch.name] = left.pop(switch.name, switch.default)
    found |= {key: left.pop(key) for key in TORCH_KEYS if key in left}
    if left:
        names = ["lr", *(h.name for h in rule.hypers), *found, *Flags.__annotations__]
        raise ArgumentTypeError(unknown(title, next(iter(left)), list(dict.fromkeys(names))))
    return found


def _taken(title: str, key: str, hypers: list[Hyper], left: dict[str, Any]) -> Any:
    """One key's value: a number, or a tuple where the key holds several."""
    if hypers[0].place()[1] is None:
        by_name = left.pop(hypers[0].name, hypers[0].default)
        return left.pop(key, by_name)
    if key not in left:
        return tuple(left.pop(h.name, h.default) for h in hypers)
    return several(title, key, left.pop(key), hypers)


def several(title: str, key: str, value: Any, hypers: Sequence[Hyper]) -> tuple[Any, ...]:
    """The numbers of a key that holds several.

    Raises:
        TypeError: It holds one alone, or another number of them.
    """
    if not isinstance(value, (tuple, list)) or len(value) != len(hypers):
        typical = tuple(h.default for h in hypers)
        raise ArgumentTypeError(
            f"{key}={value!r}; {title} takes {len(hypers)} numbers, as in {key}={typical}"
        )
    return tuple(value)


def is_bool(value: Any) -> bool:
    """Whether it is True or False, or one of their equals."""
    return isinstance(value, bool) or (not isinstance(value, str) and value in (0, 1))


def spell_out(constructor: Callable[..., None], of: Callable[..., None]) -> None:
    """Let a constructor's `**flags: Unpack[Flags]` look like a keyword each, with type and default.

    Args:
        constructor: Changed if it has them.
        of: Whose defaults they have.
    """
    kinds = getattr(constructor, "__annotations__", {})
    if kinds.get("flags") != "Unpack[Flags]":
        return
    signature, defaults = inspect.signature(constructor), inspect.signature(of).parameters
    hints = get_type_hints(Flags)
    own = [p for p in signature.parameters.values() if p.name != "flags"]
    own += [defaults[name].replace(annotation=hint) for name, hint in hints.items()]
    constructor.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    del kinds["flags"]
    kinds |= hints


def passed(
    given: Mapping[str, Any], *without: str, parts: Sequence[Option] = (), **instead: Any
) -> dict[str, Any]:
    """A constructor's arguments for the one above it: `super().__init__(**passed(locals(), rule=lion))`.

    A class is then its signature and one line, and no argument can be forgotten on the way.

    Args:
        given: The constructor's `locals()`, before anything else is assigned.
        without: Names that the constructor above does not take.
        parts: Options to compose with the user's, but for those that the user chose otherwise.
        instead: What it gets besides, or in the place of what was given.

    Raises:
        TypeError: Something that is no flag was passed on by a subclass.
    """
    found = {k: value for k, value in given.items() if k not in ("self", "__class__", "flags")}
    flags = given.get("flags", {})
    for name in flags:
        if name not in Flags.__annotations__:
            known = [*found, *Flags.__annotations__]
            raise ArgumentTypeError(unknown(type(given["self"]).__name__, name, known))
    found = {name: value for name, value in (found | flags).items() if name not in without}
    if parts:
        chosen = found.get("options", ())
        found["options"] = [*chosen, *(p for p in parts if type(p) not in map(type, chosen))]
    return found | instead


def dissolved(chosen: Sequence[Option]) -> dict[str, Any]:
    """Options as plain keys of a group."""
    keys: dict[str, Any] = {"options": tuple(o.spec.name for o in chosen if not o.spec.builtin)}
    for o in chosen:
        keys |= o.keys()
    return keys


def taken_at_construction(group: Group, others: Sequence[Group]) -> dict[str, Any]:
    """What follows from a group's own numbers when it is added: keys that rule and options derive, scalars.

    Args:
        group: The new one.
        others: Those that are there; a scalar of the whole optimizer is what it is in them.
    """
    found: dict[str, Any] = {}
    resolved = resolve(group)
    for derive in (resolved.rule.at_construction, *(s.at_construction for s in resolved.specs)):
        if derive is not None:
            found |= derive(group)
    for key, (owner, scalar) in shared_scalars(resolved.rule, resolved.specs).items():
        label = "" if owner is resolved.rule else owner.name
        there = [g[key] for g in others if key in g] if scalar.scope == "optimizer" else []
        found[key] = there[0] if there else initial_value(owner, label, scalar.init, group)
    return found


def check_flags(group: Group) -> None:
    """Refuse what torch refuses, in its words."""
    for flag in FLAGS:
        unsaid = flag in ("foreach", "fused")
        if not (is_bool(group[flag]) or (unsaid and group[flag] is None)):
            needs = "True, False or None" if unsaid else "True or False"
            raise ArgumentError(f"Invalid {flag} value: {group[flag]!r}. It is {needs}.")
    if group["fused"] and group["differentiable"]:
        raise BackendError("`fused` does not support `differentiable`")
    if group["fused"] and group["foreach"]:
        raise BackendError("`fused` and `foreach` cannot be `True` together.")


def check_numbers(title: str, group: Group, where: str) -> None:
    """Refuse numbers out of range, beginning with torch's own sentence.

    Raises:
        ValueError: A number is out of range, or numbers do not go together.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        shape = tuple(lr.shape)
        raise ArgumentError(f"Tensor lr must be 1-element; got shape {shape} ({title}{where})")
    for key in TORCH_KEYS:
        if not is_bool(group.get(key, False)):
            raise ArgumentError(
                f"Invalid {key} value: {group[key]!r}. {title} needs True or False{where}."
            )
    resolved = resolve(group)
    for label, owner in resolved.labelled():
        for h in owner.hypers if label else (LR, *owner.hypers):
            if h.derived:
                continue
            key, index = h.place(label)
            if index is not None and key in group:
                several(
                    title, key, group[key], [x for x in owner.hypers if x.place(label)[0] == key]
                )
            said = replace(h, says=resolved.rule.says.get(h.name, h.says))
            complaint = said.complaint(number(group, hyper_key(h, label)), group[h.place(label)[0]])
            if complaint:
                raise ArgumentError(
                    f"{complaint}. {title} needs {h.range}{where}; typical: {h.typical}."
                )
    complaint = resolved.rule.check(group) if resolved.rule.check is not None else None
    if complaint:
        raise ArgumentError(f"{complaint} ({title}{where})")
    for switch in resolved.rule.switches:
        value = group.get(switch.name, switch.default)
        complaint = None if switch.is_derived else switch.complaint(value)
        if complaint:
            raise ArgumentError(f"{complaint}. {title} needs {switch.range}{where}.")


def check_spelling(title: str, group: Group, known: Iterable[str]) -> None:
    """Refuse a key that is nearly, but not quite, one that means something; others are the user's own."""
    names = set(known)
    for name in group:
        if name not in names and difflib.get_close_matches(name, names, n=1, cutoff=0.86):
            raise ArgumentTypeError(unknown(title, name, sorted(names)))


@contextmanager
def naming_what_two_groups_have(group: Group, others: Sequence[Group]) -> Iterator[None]:
    """Add to torch's refusal of a parameter in two groups which parameter and which groups.

    Args:
        group: The new one.
        others: Those that are there.

    Raises:
        ValueError: There is such a parameter.
    """
    try:
        yield
    except ValueError as error:
        owner = {p: i for i, other in enumerate(others) for p in other["params"]}
        twice = [j for j, p in enumerate(group["params"]) if p in owner]
        if "more than one parameter group" not in str(error) or not twice:
            raise
        name = parameter_name(group, len(others), twice[0])
        raise ArgumentError(
            f"{error}: {name} is in group {owner[group['params'][twice[0]]]} and in group {len(others)}; "
            "take it out of one"
        ) from None


@contextmanager
def saying_what_a_model_has(params: Any) -> Iterator[None]:
    """Add to torch's refusal of a model, which is no list of its parameters, what to pass instead.

    Args:
        params: What the constructor was given.

    Raises:
        TypeError: It is a model.
    """
    try:
        yield
    except TypeError as error:
        if not isinstance(params, nn.Module):
            raise
        raise ArgumentTypeError(
            f"{error}; that is a model, {type(params).__name__}: pass model.parameters(), or "
            "thalweg.create_optimizer(model, ...)"
        ) from None


class Strict:
    """A class whose constructor refuses unknown arguments with a suggestion, before anything else looks.

    And choices that are neither True nor False where the default is one of them, and `numbers` out of range.
    """

    numbers: ClassVar[tuple[Hyper, ...]] = ()
    """Arguments that no rule declares: the class makes something else of them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse them.

        Raises:
            TypeError: There is one, or one number where there are several.
            ValueError: A choice or a number is not allowed.
        """
        known = inspect.signature(cls.__init__).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            for name in kwargs:
                if name not in known:
                    raise ArgumentTypeError(
                        unknown(cls.__name__, name, [k for k in known if k != "self"])
                    )
        names = [name for name, p in known.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        cls._check_passed({**dict(zip(names[1:], args, strict=False)), **kwargs}, known)
        return super().__new__(cls)

    @classmethod
    def _check_passed(cls, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in known and isinstance(known[name].default, bool) and not is_bool(value):
                raise ArgumentError(
                    f"Invalid {name} value: {value!r}. {cls.__name__} needs True or False."
                )
        for h in cls.numbers:
            key, index = h.place()
            if key not in given or (given[key] is None and known[key].default is None):
                continue
            value = given[key]
            if index is not None:
                value = several(
                    cls.__name__, key, value, [x for x in cls.numbers if x.place()[0] == key]
                )[index]
            complaint = h.complaint(value)
            if complaint and not (isinstance(value, Tensor) and value.numel() != 1):
                raise ArgumentError(
                    f"{complaint}. {cls.__name__} needs {h.range}; typical: {h.typical}."
                )
