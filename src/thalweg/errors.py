"""Every exception that Thalweg raises on purpose: one family, and torch's own types within it.

ThalwegError
  ArgumentError       ValueError     a value out of range, an unknown name, options that exclude each other
  ArgumentTypeError   TypeError      something of the wrong kind
  DeclarationError    TypeError      a rule or an option that disagrees with what it declares
  TraceError          TypeError      a rule that does what a traced rule cannot
  BackendError        RuntimeError   a backend that was asked for and cannot run
  CompilerError       RuntimeError   the C toolchain failed
  CheckpointError     ValueError     a checkpoint that does not fit this optimizer
  StepError           RuntimeError   a step that cannot be taken; nothing was changed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from inspect import Signature
from typing import Any


class ThalwegError(Exception):
    """The root of the family."""


class ArgumentError(ThalwegError, ValueError):
    """A value out of range, an unknown name, or options that exclude each other."""


class ArgumentTypeError(ThalwegError, TypeError):
    """An argument of the wrong kind."""


class DeclarationError(ThalwegError, TypeError):
    """A rule or an option disagrees with its declaration."""


class TraceError(ThalwegError, TypeError):
    """A rule does what a traced rule cannot."""


class BackendError(ThalwegError, RuntimeError):
    """A backend was asked for that cannot run here."""


class CompilerError(ThalwegError, RuntimeError):
    """The C toolchain failed."""


class CheckpointError(ThalwegError, ValueError):
    """A checkpoint does not fit this optimizer."""


class StepError(ThalwegError, RuntimeError):
    """A step cannot be taken; parameters, state and counts are as they were."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or an empty string."""
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def unknown(title: str, name: str, known: Sequence[str]) -> str:
    """The sentence for an argument that does not exist."""
    return (
        f"{title} got an unexpected keyword argument {name!r}.{suggest(name, known)} "
        f"Known: {', '.join(known) or 'none'}."
    )


def misfit(
    title: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str | None:
    """The sentence for arguments that a signature does not take, or None.

    Args:
        title: Who is called.
        signature: Without `self`.
        args: What is passed by position.
        kwargs: What is passed by name.
    """
    known = list(signature.parameters)
    for name in kwargs:
        if name not in known and not any(
            p.kind is p.VAR_KEYWORD for p in signature.parameters.values()
        ):
            return unknown(title, name, known)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as e:
        return f"{title}: {e}. Its arguments: {', '.join(known) or 'none'}."
    return None
