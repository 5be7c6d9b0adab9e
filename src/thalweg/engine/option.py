"""Options: parts that plug in around any rule, at stations, in the table's order and not the user's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor

from thalweg.engine.declarations import (
    Declared,
    Group,
    Hyper,
    Scalar,
    Slot,
    Switch,
    check_used,
    read_signature,
)
from thalweg.errors import ArgumentError, ArgumentTypeError, DeclarationError, misfit, suggest

Station = Literal["gate", "gradient", "direction", "apply", "after"]
STATIONS: tuple[Station, ...] = ("gate", "gradient", "direction", "apply", "after")

# What a stage gets by position, and by keyword beyond the engine's names.
_LEADING = {"gate": 1, "gradient": 1, "direction": 1, "apply": 2, "after": 1}
_EXTRA: dict[str, tuple[str, ...]] = {
    "gate": (),
    "gradient": (),
    "direction": ("g",),
    "apply": (),
    "after": (),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One function of an option, at one station.

    gate: g -> (keep, *scalars); gradient: g -> g; direction: u -> u; apply: (p, step) -> p; after: p -> p.
    Slots follow by position and are returned after the value; numbers are keywords.
    """

    station: Station
    rank: int
    function: Callable[..., Any]
    asks: frozenset[str]


@dataclass(frozen=True, eq=False)
class OptionSpec(Declared):
    """What an option is: its stages, what it declares, and with what it goes together.

    Args:
        excludes: Names of options that cannot stand beside it.
        scope: "optimizer" if all groups must agree on it.
        averages: Name of the slot that holds an average of the weights (`optimizer.averaged()`), or a
            function of (parameter, its state, its group) that gives it.
        shows: Name of the slot with the weights to evaluate in `optimizer.averaged()` where nothing of the
            group averages. `optimizer.eval()` leaves the parameters as they are.
        builtin: Whether every optimizer has it: plain keys of the group switch it.
        at_construction: Keys that a group gets from its own numbers when it is added.
    """

    stages: list[Stage] = field(default_factory=list)
    excludes: tuple[str, ...] = ()
    scope: Literal["group", "optimizer"] = "group"
    averages: str | Callable[[Tensor, Mapping[str, Any], Group], Tensor] | None = None
    shows: str | None = None
    builtin: bool = False
    at_construction: Callable[[Group], dict[str, Any]] | None = None
    module: str = ""

    def at(self, station: Station, *, rank: int) -> Callable[[Callable[..., Any]], OptionSpec]:
        """Add a function at a further station."""

        def add(function: Callable[..., Any]) -> OptionSpec:
            slots = self.slots if station in ("after", "apply") else ()
            asks = read_signature(self, function, _LEADING[station], slots, _EXTRA[station])
            self.stages.append(Stage(station, rank, function, asks))
            return self

        return add

    def __repr__(self) -> str:
        return f"<option {self.name}>"


OPTIONS: dict[str, OptionSpec] = {}
PUBLIC: dict[str, type[Option]] = {}
"""Option classes by their spec's name: how a string becomes an option."""


def find_option(name: str) -> OptionSpec:
    """The registered option of that name."""
    try:
        return OPTIONS[name]
    except KeyError:
        raise ArgumentError(
            f"unknown option {name!r}.{suggest(name, OPTIONS)} Known: {', '.join(sorted(OPTIONS))}"
        ) from None


def option(
    station: Station | None,
    *,
    rank: int = 0,
    name: str | None = None,
    slots: tuple[Slot, ...] = (),
    scalars: tuple[Scalar, ...] = (),
    hypers: tuple[Hyper, ...] = (),
    switches: tuple[Switch, ...] = (),
    paper: str = "",
    excludes: tuple[str, ...] = (),
    scope: Literal["group", "optimizer"] = "group",
    averages: str | Callable[[Tensor, Mapping[str, Any], Group], Tensor] | None = None,
    shows: str | None = None,
    builtin: bool = False,
    at_construction: Callable[[Group], dict[str, Any]] | None = None,
) -> Callable[[Callable[..., Any]], OptionSpec]:
    """Declare an option, as a rule is declared, at a station.

    Args:
        station: Where it plugs in; None for a declaration without a function at any station.
        rank: Its place among the options of that station, smaller first.
        name: Under which it is registered; the function's name by default.
        slots: As for a rule; in the state they get the option's name in front.
        scalars: As for a rule, likewise.
        hypers: As for a rule; in groups they get the option's name in front.
        switches: As for a rule, likewise.
        paper: Authors, year, arXiv number.
        excludes: Names of options that cannot stand beside it.
        scope: "optimizer" if all groups must agree on it.
        averages: Name of the slot that holds an average of the weights, or a function that gives it.
        shows: Name of the slot with the weights to evaluate where nothing of the group averages.
        builtin: Whether every optimizer has it: plain keys of the group switch it.
        at_construction: Keys that a group gets from its own numbers when it is added.
    """

    def declare(function: Callable[..., Any]) -> OptionSpec:
        spec = OptionSpec(
            name or function.__name__,
            slots,
            scalars,
            hypers,
            switches,
            paper,
            excludes=excludes,
            scope=scope,
            averages=averages,
            shows=shows,
            builtin=builtin,
            at_construction=at_construction,
        )
        spec._check_names()
        if station is not None:
            spec.at(station, rank=rank)(function)
        object.__setattr__(spec, "__doc__", function.__doc__)
        old = OPTIONS.get(spec.name)
        if old is not None and old.module != function.__module__:
            raise DeclarationError(
                f"an option named {spec.name!r} exists already, in {old.module}; "
                "pass name= to call yours otherwise"
            )
        object.__setattr__(spec, "module", function.__module__)
        OPTIONS[spec.name] = spec
        return spec

    return declare


class Option:
    """A chosen option with its numbers: what stands in `options=[...]`, and nowhere else.

    Subclasses give a signature and a docstring and name their spec.

    Args:
        example: Arguments for an example, where they have neither a default nor a declared number.
    """

    spec: OptionSpec
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        PUBLIC.setdefault(cls.spec.name, cls)  # a subclass of an option keeps the option's name
        check_used(
            cls.spec, frozenset().union(*(s.asks for s in cls.spec.stages)) | _stored(cls.spec)
        )
        if "__init__" in vars(cls):
            cls.__init__ = _strict(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.keys()  # a number out of range is refused here and now

    def keys(self) -> dict[str, Any]:
        """What it leaves in a group: plain keys and values."""
        found = {}
        for name, declared in self.spec.arguments().items():
            value = self.values.get(name, declared.default)
            if isinstance(declared, Hyper):
                complaint = declared.complaint(value)
                if complaint:
                    raise ArgumentError(
                        f"{complaint}. {type(self).__name__} needs {declared.range}; "
                        f"typical: {declared.typical}."
                    )
                found[declared.place(self.spec.name)[0]] = value
            else:
                found[f"{self.spec.name}_{name}"] = value
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"


def _strict(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that refuses arguments which it does not have, and says which it needs."""
    _, *parameters = inspect.signature(constructor).parameters.values()  # without self
    signature = inspect.Signature(parameters)

    @functools.wraps(constructor)
    def strict(self: Option, *args: Any, **kwargs: Any) -> None:
        complaint = misfit(type(self).__name__, signature, args, kwargs)
        if complaint is not None:
            raise ArgumentTypeError(complaint)
        constructor(self, *args, **kwargs)

    return strict


def _stored(spec: OptionSpec) -> frozenset[str]:
    """A spec without stages is read by the engine itself, all of it."""
    return frozenset() if spec.stages else frozenset(spec.arguments())


def _no_option(given: Any) -> str:
    """The sentence for what stands in options and is none; a name is nearly one."""
    if not isinstance(given, str):
        return f"options holds {given!r}, which is no option; see thalweg.options"
    name = given.partition("(")[0].strip().lower()
    cls = PUBLIC.get(name)
    if cls is None:
        return (
            f"options holds the string {given!r}; it holds objects, as thalweg.options.Cautious()."
            f"{suggest(name, PUBLIC)} By name: create_optimizer(model, 'adamw + cautious')"
        )
    room = "thalweg.options." * cls.__module__.startswith("thalweg.options")
    needs = any(
        p.default is p.empty and p.name != "self"
        for p in inspect.signature(cls.__init__).parameters.values()
    )
    return (
        f"options holds the string {given!r}; it holds objects: write {room}{cls.__name__}"
        f"({'...' * needs})"
    )


def _excluding(mine: type[Option], other: type[Option], title: str, own: Collection[Any]) -> str:
    """The sentence for two options that exclude each other, of which the class may compose one."""
    pair = f"options {mine.__name__} and {other.__name__} exclude each other"
    if (mine in own) == (other in own):
        return f"{pair}; leave one out"
    composed, chosen = (mine, other) if mine in own else (other, mine)
    return (
        f"{title} is made with {composed.__name__}, and {pair}; leave {chosen.__name__} out, or take "
        "another optimizer"
    )


def check_options(
    options: Iterable[Any], title: str = "", own: Collection[type[Option]] = ()
) -> tuple[Option, ...]:
    """Refuse what is no option, what stands twice, and what excludes each other.

    Args:
        options: What was passed, with what a class composes itself.
        title: The class.
        own: What it composes itself.
    """
    if isinstance(options, (Option, str)) or not hasattr(options, "__iter__"):
        raise ArgumentTypeError(
            f"options={options!r}: options is a list, as in options=[thalweg.options.Cautious()]"
        )
    chosen = tuple(options)
    for o in chosen:
        if isinstance(o, type) and issubclass(o, Option):
            raise ArgumentTypeError(
                f"options holds the class {o.__name__}; make one of it: {o.__name__}(...)"
            )
        if not isinstance(o, Option):
            raise ArgumentTypeError(_no_option(o))
    names = [o.spec.name for o in chosen]
    for o in chosen:
        if names.count(o.spec.name) > 1:
            raise ArgumentError(
                f"option {type(o).__name__} stands twice in options; once per group is all it can"
            )
        for other in o.spec.excludes:
            if other in names:
                raise ArgumentError(_excluding(type(o), PUBLIC[other], title, own))
    return chosen


def stages_of(specs: Iterable[OptionSpec], station: Station) -> list[tuple[OptionSpec, Stage]]:
    """The stages at one station in the table's order, whatever the order of the specs."""
    found = [(spec, stage) for spec in specs for stage in spec.stages if stage.station == station]
    found.sort(key=lambda pair: (pair[1].rank, pair[0].name))
    if station == "apply" and len(found) > 1:  # one that was chosen replaces the built-in one
        found = [(spec, stage) for spec, stage in found if not spec.builtin]
    if station == "apply" and len(found) > 1:
        raise DeclarationError(
            f"two options apply the update: {found[0][0].name} and {found[1][0].name}"
        )
    return found
