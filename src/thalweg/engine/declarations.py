"""Declarations: what rules and options say about themselves, and whether a function agrees."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, dtype

from thalweg.errors import DeclarationError

ENGINE_NAMES = ("p", "t", "lr", "first")
"""What any rule may ask for: the parameter, the 1-based step, the learning rate, whether its state is new."""

Group = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that lives across steps, one element per element of the parameter.

    Args:
        name: Its key in `optimizer.state[p]` (an option's slot: `<option>_<name>`).
        init: A number, "param" or "grad" (a copy taken when state is created), or "lr" or a hyper's name.
        when: Name of a switch, or "not" and its name; else the slot does not exist and the rule sees None.
        signed: False where values are never negative (what a compressed storage may use).
        over: -1 or -2 where it holds what a sum over that dimension leaves: a number per line, or per column,
            of the parameter's matrices. It has a single element in that dimension, as in torch.
        follows: Of a rule's slot: how it follows the parameter, (new p, slot, *, numbers) -> slot, called
            after every option; the rule itself neither sees nor returns such a slot.
    """

    name: str
    init: float | str = 0.0
    when: str | None = None
    signed: bool = True
    follows: Callable[..., Any] | None = None
    over: Literal[-1, -2] | None = None

    def exists(self, is_on: Callable[[str], Any]) -> bool:
        """Whether it exists, where `is_on` tells of a switch's name whether that is on."""
        if self.when is None:
            return True
        return bool(is_on(self.switch)) != self.when.startswith("not ")

    @property
    def switch(self) -> str:
        """The name of the switch in `when`."""
        return (self.when or "").removeprefix("not ")

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """Its shape beside a parameter of that shape."""
        size = list(parameter)
        if self.over is not None and len(size) >= -self.over:
            size[self.over] = 1
        return tuple(size)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number that lives across steps.

    Args:
        name: Its key: of a 0-dim tensor in `optimizer.state[p]`, or of a number in the group (an option's:
            `<option>_<name>`).
        init: A number, or "lr" or a hyper's name: what that is when the state, or the group, is made.
        wide: Whether a parameter's is stored in float64 and not in what torch stores step counts in (what a
            reduction adds up would be rounded, and rounded again every step).
        scope: Whose it is. A "group"'s follows from numbers of the group and sums over all tensors. An
            "optimizer"'s stands in every group alike: also where no parameter had a gradient.
    """

    name: str
    init: float | str = 0.0
    wide: bool = False
    scope: Literal["parameter", "group", "optimizer"] = "parameter"

    @property
    def is_shared(self) -> bool:
        """Whether it stands in the group."""
        return self.scope != "parameter"


@dataclass(frozen=True, slots=True)
class Hyper:
    """A number of the group that a schedule may change at any step.

    Args:
        name: The rule's keyword.
        default: Used where the group does not say.
        low, above: Smallest allowed value; or the bound that a value must exceed.
        high, closed: The bound that a value must stay below; with `closed`, may reach. A value is finite, but
            for high=inf with `closed`: where infinity stands for "never" or "as much as it takes".
        at: Where it stands in the group if not under its own name: "betas[0]".
        integer: Whether only whole numbers make sense.
        derived: Whether the option that declares it fills it in, so that nobody passes it.
        says: The sentence that torch begins its error with, if not "Invalid <name> value".
        jointly: Whether that sentence goes on with every value of the group's key, as for "etas".
        none: What None stands for, by the parameter's dtype; without it None is no number.
    """

    name: str
    default: float | None
    low: float | None = None
    above: float | None = None
    high: float | None = None
    closed: bool = False
    at: str | None = None
    integer: bool = False
    derived: bool = False
    says: str | None = None
    jointly: bool = False
    none: Callable[[dtype], float] | None = None

    def __post_init__(self) -> None:
        if self.default is None and self.none is None:
            raise DeclarationError(
                f"Hyper {self.name!r}: default None, without none= to say what it stands for"
            )
        if self.default is not None and not self._allows(self.default):
            raise DeclarationError(
                f"Hyper {self.name!r}: default {self.default!r} is not in {self.range}"
            )

    def place(self, label: str = "") -> tuple[str, int | None]:
        """The group's key, and the index in it if the key holds a tuple."""
        if self.at is None:
            return (f"{label}_{self.name}" if label else self.name), None
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", self.at)
        if match is None:
            raise DeclarationError(
                f"Hyper {self.name!r}: at={self.at!r}; needs 'key' or 'key[index]'"
            )
        return match[1], None if match[2] is None else int(match[2])

    @property
    def range(self) -> str:
        """The allowed values, as an interval."""
        left = (
            f"({self.above:g}"
            if self.above is not None
            else f"[{self.low:g}"
            if self.low is not None
            else "(-inf"
        )
        right = (
            f"{self.high:g}" + ("]" if self.closed else ")") if self.high is not None else "inf)"
        )
        return f"{left}, {right}" + (", whole numbers" if self.integer else "")

    @property
    def typical(self) -> str:
        """The default, as messages say it."""
        return "None" if self.default is None else f"{self.default:g}"

    def complaint(self, value: Any, together: Any = ()) -> str | None:
        """The sentence to begin an error with if the value is not allowed, else None.

        Args:
            value: The number.
            together: What the group's key holds, for sentences that tell all of it.
        """
        if value is None and self.none is not None:
            return None
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if (
            isinstance(number, (int, float))
            and not isinstance(number, bool)
            and self._allows(number)
        ):
            return None
        key, index = self.place()
        name = f"{self.name} value"
        if index is not None:  # torch's words for one of several: "beta parameter at index 0"
            name = f"{key.removesuffix('s')} parameter at index {index}"
        said = (
            value if isinstance(value, (int, float, Tensor)) else f"{value!r}, which is no number"
        )
        if self.jointly and isinstance(together, (tuple, list)):
            said = ", ".join(map(str, together))
        return f"{self.says or f'Invalid {name}'}: {said}"

    def _allows(self, x: float) -> bool:
        if math.isinf(x):
            return self.closed and x == self.high
        if math.isnan(x) or (self.integer and x != int(x)):
            return False
        if (self.low is not None and x < self.low) or (self.above is not None and x <= self.above):
            return False
        return self.high is None or (x <= self.high if self.closed else x < self.high)


@dataclass(frozen=True, slots=True)
class Switch:
    """A Python value that a rule may test with `if`; it is part of the kernel's identity.

    Args:
        name: The rule's keyword, and the group's key unless `read` is given.
        default: Used where the group does not say.
        read: How to derive it from the group: `nonzero("momentum")`.
        min_ndim: Derived from the parameter: whether it has at least so many dimensions.
        low, high, integer: Of one whose default is a number, or several: as for a Hyper.
        choices: The allowed values, where they are neither numbers nor True and False.
    """

    name: str
    default: Any = False
    read: Callable[[Group], Any] | None = None
    min_ndim: int | None = None
    low: float | None = None
    high: float | None = None
    integer: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def is_derived(self) -> bool:
        """Whether its value follows from other things, so that nobody passes it."""
        return self.read is not None or self.min_ndim is not None

    @property
    def range(self) -> str:
        """The allowed values; empty where anything may stand."""
        if self.choices:
            return f"{', '.join(map(repr, self.choices[:-1]))} or {self.choices[-1]!r}"
        numbers = self._numbers()
        if not numbers:
            return "True or False" if isinstance(self.default, bool) else ""
        several = f"{len(numbers)} numbers, each in " if isinstance(self.default, tuple) else ""
        return several + numbers[0].range

    def complaint(self, value: Any) -> str | None:
        """The sentence to begin an error with if the value is not allowed, else None."""
        allowed = self.choices or ((True, False) if isinstance(self.default, bool) else ())
        numbers = self._numbers()
        if numbers and isinstance(self.default, tuple):
            if not isinstance(value, (tuple, list)) or len(value) != len(numbers):
                return f"Invalid {self.name} value: {value!r}"
            found = (h.complaint(x) for h, x in zip(numbers, value, strict=True))
            return next((said for said in found if said), None)
        if numbers:
            return numbers[0].complaint(value)
        return f"Invalid {self.name} value: {value!r}" if allowed and value not in allowed else None

    def _numbers(self) -> list[Hyper]:
        """What its numbers may be, one by one."""
        several = isinstance(self.default, tuple)
        found = []
        for i, x in enumerate(self.default if several else (self.default,)):
            if isinstance(x, bool) or not isinstance(x, (int, float)):
                return []
            at = f"{self.name}[{i}]" if several else None
            found.append(Hyper(self.name, x, self.low, high=self.high, integer=self.integer, at=at))
        return found


@dataclass(frozen=True, slots=True)
class nonzero:  # noqa: N801 - it reads as a function: read=nonzero("momentum")
    """A switch that is on while the group's number is not zero."""

    key: str

    def __call__(self, group: Group) -> bool:
        return bool(group.get(self.key, 0) != 0)

    def __str__(self) -> str:
        return f"{self.key} != 0"


@dataclass(frozen=True, eq=False)
class Declared:
    """What rules and options have in common: a function and what it declares."""

    name: str
    slots: tuple[Slot, ...] = ()
    scalars: tuple[Scalar, ...] = ()
    hypers: tuple[Hyper, ...] = ()
    switches: tuple[Switch, ...] = ()
    paper: str = ""

    def arguments(self) -> dict[str, Hyper | Switch]:
        """What a user may pass by name, in declared order."""
        chosen = [s for s in self.switches if not s.is_derived]
        hypers = [h for h in self.hypers if not h.derived]
        return {**{h.name: h for h in hypers}, **{s.name: s for s in chosen}}

    def tuples(self) -> dict[str, tuple[Hyper, ...]]:
        """The group's keys that hold several numbers, and which: a function may ask for such a key whole."""
        keys = {h.place()[0] for h in self.hypers if h.place()[1] is not None}
        return {key: tuple(h for h in self.hypers if h.place()[0] == key) for key in keys}

    def names(self) -> list[str]:
        """Everything declared, by name."""
        tensors = [s.name for s in self.slots] + [s.name for s in self.scalars]
        return tensors + [h.name for h in self.hypers] + [s.name for s in self.switches]

    def _check_names(self) -> None:
        kinds = {"slots": Slot, "scalars": Scalar, "hypers": Hyper, "switches": Switch}
        for field_name, kind in kinds.items():
            found = getattr(self, field_name)
            if not isinstance(found, tuple) or not all(isinstance(x, kind) for x in found):
                raise DeclarationError(
                    f"{self.name}: {field_name}={found!r}; it is a tuple of {kind.__name__}, and one alone "
                    f"needs a comma: {field_name}=({kind.__name__}(...),)"
                )
        names = self.names()
        for name in names:
            if names.count(name) > 1:
                raise DeclarationError(f"{self.name}: {name!r} is declared twice")
            if name in ENGINE_NAMES and name != "first":
                raise DeclarationError(
                    f"{self.name}: {name!r} is the engine's name; it is asked for, not declared"
                )
        numbers = {"lr", *(h.name for h in self.hypers)}
        kept: tuple[Slot | Scalar, ...] = (*self.slots, *self.scalars)
        for x in kept:
            starts = numbers | ({"param", "grad"} if isinstance(x, Slot) else set())
            if isinstance(x.init, str) and x.init not in starts:
                raise DeclarationError(
                    f"{self.name}: {type(x).__name__.lower()} {x.name!r} has init={x.init!r}; it is a "
                    f"number or one of {', '.join(sorted(starts))}"
                )
        for s in self.scalars:
            if s.scope not in ("parameter", "group", "optimizer"):
                raise DeclarationError(
                    f"{self.name}: scalar {s.name!r} has scope={s.scope!r}; allowed: 'parameter', 'group', "
                    "'optimizer'"
                )
        switches = {s.name for s in self.switches}
        for slot in self.slots:
            if slot.when is not None and slot.switch not in switches:
                raise DeclarationError(
                    f"{self.name}: slot {slot.name!r} has when={slot.when!r}, which is no declared switch"
                )
            if slot.over not in (None, -1, -2) or (slot.over and slot.init in ("param", "grad")):
                raise DeclarationError(
                    f"{self.name}: slot {slot.name!r} has over={slot.over!r}, init={slot.init!r}; over is "
                    "-1 or -2, and such a slot begins with a number"
                )


def read_signature(
    owner: Declared,
    function: Callable[..., Any],
    leading: int,
    slots: tuple[Slot, ...],
    extra: tuple[str, ...],
) -> frozenset[str]:
    """Check a function against its declaration and return the keywords it asks for.

    Positional: `leading` tensors, then the slots by name in declared order. Keyword-only: numbers.
    """
    positional, keywords = [], []
    for p in inspect.signature(function).parameters.values():
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional.append(p.name)
        elif p.kind is p.KEYWORD_ONLY:
            keywords.append(p.name)
        else:
            raise DeclarationError(f"{owner.name}: *{p.name} in the signature; name every argument")
    wanted = [s.name for s in slots]
    if len(positional) < leading or positional[leading:] != wanted:
        raise DeclarationError(
            f"{owner.name}({', '.join(positional)}): the positional arguments are {leading} tensor(s), "
            f"then the declared slots in order: {wanted or 'none'}; numbers come after a *"
        )
    numbers = {*owner.names(), *owner.tuples()} - {s.name for s in slots}
    if "step" in keywords:
        raise DeclarationError(
            f"{owner.name}: ask for t, the number of this step from 1, not for 'step'"
        )
    unknown = [k for k in keywords if k not in numbers and k not in ENGINE_NAMES and k not in extra]
    if unknown:
        raise DeclarationError(
            f"{owner.name}: {unknown[0]!r} is asked for but not declared; declare a Hyper, Switch or Scalar "
            f"of that name, or ask for one of {', '.join((*ENGINE_NAMES, *extra))}"
        )
    return frozenset(keywords)


def check_used(owner: Declared, asked: frozenset[str]) -> None:
    """Refuse a declaration that nothing uses: it is a misspelling more often than not."""
    used = asked | {s.switch for s in owner.slots} | {s.init for s in owner.slots}
    used |= {s.init for s in owner.scalars}
    used |= {h.name for key, hypers in owner.tuples().items() if key in asked for h in hypers}
    for name in set(owner.names()) - {s.name for s in owner.slots} - {"step"} - used:
        raise DeclarationError(
            f"{owner.name}: {name!r} is declared but not asked for by the function"
        )
