"""Rules: a pure function of one element with what it declares, checked at once, and a registry by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

from thalweg.engine.declarations import (
    Declared,
    Group,
    Hyper,
    Scalar,
    Slot,
    Switch,
    check_used,
    nonzero,
    read_signature,
)
from thalweg.errors import ArgumentError, DeclarationError, suggest

__all__ = [
    "DECAYS",
    "DECAYS_ITSELF",
    "LATEST",
    "OWN_DECAY",
    "RESERVED",
    "RULES",
    "Declared",
    "Group",
    "Hyper",
    "Rule",
    "Scalar",
    "Slot",
    "Switch",
    "find_rule",
    "first_lr",
    "nonzero",
    "returns_step",
    "rule",
]  # what a rule is declared with comes from one place

RESERVED = frozenset({
    "params", "param_names", "rule", "options", "state_dtype", "lr", "initial_lr", "weight_decay",
    "decay_style", "decay_cautious", "foreach", "fused", "maximize", "capturable", "differentiable",
    "param", "grad", "fresh", "train_mode", "train_weights",
})  # fmt: skip
"""Keys of a group and of a state that are taken."""

DECAYS = ("l2", "decoupled", "direction", "proximal", "own")
"""What a rule may say that `weight_decay` means for it: a style of the Decay option, or "own"."""


def first_lr(what: str, group: Group) -> float:
    """The learning rate at construction, for what is relative to it.

    Raises:
        ArgumentError: It is 0.
    """
    start = float(group.get("initial_lr", group["lr"]))
    if start <= 0.0:
        raise ArgumentError(
            f"{what} relative to the learning rate at construction, which is {start:g}: start with the "
            "schedule's peak, and let the schedule lower it"
        )
    return start


def returns_step(group: Group) -> bool:
    """A switch: whether the group's rule asks for `lr`, so that what it returns is the step itself."""
    return "lr" in find_rule(group["rule"]).asks


def _decays_itself(group: Group) -> bool:
    """Whether there is decay to place, and no Decay option does it instead."""
    return bool(group["weight_decay"] != 0 and group.get("decay_style") in (None, "own"))


OWN_DECAY = Hyper("weight_decay", 0.0, low=0.0, at="weight_decay", derived=True)
DECAYS_ITSELF = Switch("decays", read=_decays_itself)
"""What a rule with decay="own" has besides what it declares: the group's decay, and whether to place it."""


@dataclass(frozen=True, eq=False)
class Rule(Declared):
    """An update: a pure function of one element, and what it declares, as `rule` takes it.

    Args:
        function: (g, *slots, *, numbers) -> direction, or (direction, *slots, *scalars).
        asks: The numbers that it asks for by keyword.
    """

    function: Callable[..., Any] = field(default=lambda g: g)
    sparse: bool | Literal["rows"] = False
    refuses_sparse: str = ""
    refuses_dense: str = ""
    decay: str = "decoupled"
    check: Callable[[Mapping[str, Any]], str | None] | None = None
    refuses_complex: str = ""
    says: Mapping[str, str] = field(default_factory=dict)
    lr_scale: str | None = None
    refuses: Mapping[str, str] = field(default_factory=dict)
    at_construction: Callable[[Group], dict[str, Any]] | None = None
    advice: str = ""
    asks: frozenset[str] = frozenset()
    averages: str | None = None
    key: str = ""
    """Under which it is registered: its name, and from the second declaration on also which one it is."""

    @property
    def followers(self) -> dict[str, tuple[Callable[..., Any], frozenset[str]]]:
        """The slots that follow the parameter: how, and what each function asks for."""
        return {
            s.name: (s.follows, read_signature(self, s.follows, 2, (), ()))
            for s in self.slots
            if s.follows is not None
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself: a rule can be tried on plain tensors and numbers."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return find_rule, (self.key,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rule:
        return self


RULES: dict[str, Rule] = {}
"""Every declared rule by key."""
LATEST: dict[str, Rule] = {}
"""The last rule declared under each name."""


def find_rule(key: str) -> Rule:
    """The rule declared under this key; in another process, the one of that name.

    Raises:
        ArgumentError: No rule of that name has been declared.
    """
    found = RULES.get(key) or LATEST.get(key.partition("#")[0])
    if found is None:
        raise ArgumentError(
            f"no rule is named {key!r}.{suggest(key, LATEST)} Known: {', '.join(sorted(LATEST))}; one of "
            "your own is known once the module that declares it is imported"
        )
    return found


def _register(new: Rule) -> None:
    """Keep a rule under a key that stays its own: who declares a name again does not change what runs."""
    old = LATEST.get(new.name)
    if old is not None and old.function.__module__ != new.function.__module__:
        raise DeclarationError(
            f"a rule named {new.name!r} exists already, in {old.function.__module__}; "
            "pass name= to call yours otherwise"
        )
    versions = sum(r.name == new.name for r in RULES.values())
    object.__setattr__(new, "key", f"{new.name}#{versions + 1}" if versions else new.name)
    RULES[new.key] = LATEST[new.name] = new


def _checked(new: Rule) -> frozenset[str]:
    """Refuse a declaration that contradicts itself or its function; return what the function asks for."""
    new._check_names()
    read = {h.name for h in new.hypers if h.derived}  # a number that another declares may be read
    own = {*new.names(), *(h.place()[0] for h in new.hypers if not h.derived)} - read
    for taken in RESERVED & own:
        raise DeclarationError(f"{new.name}: the name {taken!r} is taken; call it otherwise")
    if "step" in {*(s.name for s in new.slots), *new.arguments()}:
        raise DeclarationError(
            f"{new.name}: 'step' is the step count, a Scalar; call the other otherwise"
        )
    if new.lr_scale is not None and new.lr_scale not in {s.name for s in new.scalars}:
        raise DeclarationError(
            f"{new.name}: lr_scale={new.lr_scale!r} is no declared scalar; there are "
            f"{', '.join(s.name for s in new.scalars) or 'none'}"
        )
    if new.decay not in DECAYS:
        raise DeclarationError(
            f"{new.name}: decay={new.decay!r}; allowed: {', '.join(map(repr, DECAYS))}"
        )
    seen = tuple(s for s in new.slots if s.follows is None)
    asks = read_signature(new, new.function, 1, seen, ())
    followers = (asked for _, asked in new.followers.values())
    check_used(new, asks.union({new.lr_scale or ""}, *followers))
    return asks


@overload
def rule(function: Callable[..., Any], /) -> Rule: ...


@overload
def rule(
    *,
    slots: tuple[Slot, ...] = ...,
    scalars: tuple[Scalar, ...] = ...,
    hypers: tuple[Hyper, ...] = ...,
    switches: tuple[Switch, ...] = ...,
    paper: str = ...,
    name: str | None = ...,
    sparse: bool | Literal["rows"] = ...,
    refuses_sparse: str = ...,
    refuses_dense: str = ...,
    decay: str = ...,
    check: Callable[[Mapping[str, Any]], str | None] | None = ...,
    says: Mapping[str, str] | None = ...,
    lr_scale: str | None = ...,
    refuses: Mapping[str, str] | None = ...,
    advice: str = ...,
    averages: str | None = ...,
    at_construction: Callable[[Group], dict[str, Any]] | None = ...,
    refuses_complex: str = ...,
) -> Callable[[Callable[..., Any]], Rule]: ...


def rule(
    function: Callable[..., Any] | None = None,
    /,
    *,
    slots: tuple[Slot, ...] = (),
    scalars: tuple[Scalar, ...] = (),
    hypers: tuple[Hyper, ...] = (),
    switches: tuple[Switch, ...] = (),
    paper: str = "",
    name: str | None = None,
    sparse: bool | Literal["rows"] = False,
    refuses_sparse: str = "",
    refuses_dense: str = "",
    decay: str = "decoupled",
    check: Callable[[Mapping[str, Any]], str | None] | None = None,
    says: Mapping[str, str] | None = None,
    lr_scale: str | None = None,
    refuses: Mapping[str, str] | None = None,
    advice: str = "",
    averages: str | None = None,
    at_construction: Callable[[Group], dict[str, Any]] | None = None,
    refuses_complex: str = "",
) -> Rule | Callable[[Callable[..., Any]], Rule]:
    """Declare an update rule.

    The function gets the gradient and the slots by position, numbers by keyword, and returns the
    direction (which the learning rate multiplies) and the new slots. If it asks for `lr` it returns
    the step itself.

    Args:
        function: The rule, where the decorator stands without parentheses.
        slots: Tensors that live across steps.
        scalars: Numbers that live across steps; returned after the slots.
        hypers: Numbers of the group.
        switches: Python values it may test with `if`.
        paper: Authors, year, arXiv number, algorithm.
        name: Under which it is registered; the function's name by default.
        sparse: Whether it takes sparse gradients. True: with the numbers of dense ones, row by row where rows
            without gradient stay as they are anyway. "rows": they stay as they are by definition.
        refuses_sparse: The sentence where it does not; torch's own where torch has one.
        refuses_dense: The sentence to refuse dense gradients with, if it does.
        decay: One of DECAYS: what `weight_decay` means where the user does not choose a style; "own" where
            the rule places it itself: it asks for `weight_decay`, and for `decays`, a switch that is on
            while there is decay and no Decay option does it instead.
        check: Looks at a group's numbers together and returns a complaint or None.
        says: Sentences to begin errors with about "lr" and "weight_decay", where torch has its own.
        lr_scale: Name of a scalar that multiplies lr where decay uses it: a rule that finds its own rate.
        refuses: Names of options that do not go around it, and why; all others do.
        advice: How its authors set its numbers, for who comes from AdamW; with its source.
        averages: Name of the slot that holds an average of the weights (`optimizer.averaged()`).
        at_construction: Keys that a group gets from its own numbers when it is added.
        refuses_complex: The sentence with which complex parameters are refused, if they are.

    Raises:
        DeclarationError: The function's signature disagrees with the declaration.
    """
    given = {k: v for k, v in locals().items() if k not in ("function", "name")}
    given |= {"says": says or {}, "refuses": refuses or {}}

    def declare(function: Callable[..., Any]) -> Rule:
        new = Rule(name=name or function.__name__, function=function, **given)
        new._check_names()
        if new.decay == "own":
            switches = (*new.switches, DECAYS_ITSELF)
            new = replace(new, hypers=(*new.hypers, OWN_DECAY), switches=switches)
        object.__setattr__(new, "asks", _checked(new))
        object.__setattr__(new, "__doc__", function.__doc__)
        _register(new)
        return new

    return declare if function is None else declare(function)
