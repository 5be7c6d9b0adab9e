"""What a check is: a small function with a name, a reason, and the capabilities that it hangs on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from thalweg.conformance.subject import Subject
from thalweg.errors import ArgumentError, suggest

CAPABILITIES = {
    "sparse": "takes sparse gradients",
    "sparse-only": "takes sparse gradients and no others",
    "real-only": "takes no complex parameters",
    "matrix-only": "takes parameters of two dimensions and no others",
    "closure-required": "evaluates the closure itself, as often as it wants",
    "one-group": "takes one group of parameters, as one vector",
    "coupled": "its parameters share a number, so that each moves otherwise than alone",
    "anchored": "it measures its learning rate against the one that it was made with",
    "number-lr": "takes its learning rate as a number, and refuses a tensor",
    "temporaries": "makes temporaries while it writes, and cannot take back half a step",
}
"""What an optimizer's author may declare; each takes some checks away, or adds one."""


class Failed(Exception):  # noqa: N818  an answer, not an error
    """A check's answer: what was expected and what was got."""


class NotApplicable(Exception):  # noqa: N818
    """The optimizer says by itself that this is not asked of it: a key that its groups lack, say."""


@dataclass(frozen=True)
class Check:
    """One behaviour.

    Args:
        name: Short, with hyphens.
        reason: Who relies on it, in one sentence.
        run: Raises `Failed` if the optimizer does not behave so; whatever else it raises is a failure too.
        group: The file that it stands in.
        needs: Capabilities without any of which it is not applicable.
        unless: Capabilities with any of which it is not applicable.
    """

    name: str
    reason: str
    run: Callable[[Subject], None]
    group: str
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    def excused(self, declared: Collection[str]) -> str | None:
        """Say why it is not applicable to an optimizer that declares this, or None."""
        for name in self.unless:
            if name in declared:
                return f"declared {name}: {CAPABILITIES[name]}"
        if self.needs and not set(self.needs) & set(declared):
            return f"not declared {' or '.join(self.needs)}: {CAPABILITIES[self.needs[0]]}"
        return None


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order of the files."""


def check(
    name: str, reason: str, *, needs: tuple[str, ...] = (), unless: tuple[str, ...] = ()
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as a check; the arguments are those of `Check`."""

    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        group = run.__module__.rpartition(".")[2]
        CHECKS[name] = Check(name, reason, run, group, needs, unless)
        return run

    return register


def chosen(names: Iterable[str] | None) -> list[Check]:
    """The checks of these names, or all.

    Raises:
        ArgumentError: An unknown name, with a suggestion.
    """
    return list(CHECKS.values()) if names is None else [_known(n, CHECKS, "check") for n in names]


def declared(names: Iterable[str]) -> frozenset[str]:
    """The capabilities of these names.

    Raises:
        ArgumentError: An unknown name, with a suggestion.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        _known(name, CAPABILITIES, "capability")
    return frozenset(names)


def _known(name: str, known: dict[str, Any], what: str) -> Any:
    if name not in known:
        raise ArgumentError(
            f"unknown {what} {name!r}.{suggest(name, known)} Known: {', '.join(known)}."
        )
    return known[name]


def fail(expected: str, got: str) -> NoReturn:
    """Answer no."""
    raise Failed(f"expected {expected}; got {got}")


def expect(holds: bool, expected: str, got: str) -> None:
    """Answer no unless it holds."""
    if not holds:
        fail(expected, got)
