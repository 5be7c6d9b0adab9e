"""What a dotted name stands for: the user's own classes and functions, by name."""

from __future__ import annotations

import importlib
from typing import Any

from thalweg.errors import ArgumentError


def import_object(spec: str) -> Any:
    """Return what "package.module:attribute" names, or "package.module.attribute".

    Raises:
        ArgumentError: The module cannot be imported, or has no such attribute.

    Example:
        >>> from thalweg.importing import import_object
        >>> import_object("torch.optim:SGD") is import_object("torch.optim.SGD")
        True
    """
    name, colon, path = spec.partition(":")
    if not colon:
        name, path = _longest_module(spec)
    found = _module(name, spec)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise ArgumentError(f"{spec}: {name} has no attribute {path!r}.")
        found = getattr(found, attribute)
    return found


def _module(name: str, spec: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the user's module does while it is imported
        raise ArgumentError(f"{spec}: cannot import {name}: {said(error)}") from error


def _longest_module(spec: str) -> tuple[str, str]:
    """Split a dotted name where its module ends."""
    name, _, path = spec.rpartition(".")
    while "." in name:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # noqa: PERF203
            if not f"{name}.".startswith(f"{error.name}."):
                break  # the module is there, and what it imports is not
            name, _, last = name.rpartition(".")
            path = f"{last}.{path}"
        except Exception:
            break  # said where it is imported again
        else:
            break
    return name, path


def said(error: Exception) -> str:
    """An exception in a message: its type and text, one full stop."""
    return f"{type(error).__name__}: {error}".rstrip(".") + "."
