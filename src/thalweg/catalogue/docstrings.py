"""What a class's docstring says, by its sections."""

from __future__ import annotations

import inspect
import re
import textwrap

_HEADING = re.compile(r"^(Formula|Args|Raises|Returns|Reference|Differs|Example):$", re.M)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*): ", re.M)


def sections(cls: type) -> dict[str, str]:
    """The sections by heading; what stands before the first one under ""."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    before, *rest = _HEADING.split(text)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return {"": before.strip()} | {k: textwrap.dedent(v.strip("\n")).rstrip() for k, v in pairs}


def first_sentence(cls: type) -> str:
    """The first paragraph, on one line."""
    return _flat(sections(cls)[""].partition("\n\n")[0])


def prose(cls: type) -> str:
    """The paragraphs after the first."""
    return sections(cls)[""].partition("\n\n")[2].strip()


def one_line(cls: type, heading: str) -> str:
    """A section on one line; empty where there is none."""
    return _flat(sections(cls).get(heading, ""))


def meanings(cls: type) -> dict[str, str]:
    """What is said about each argument."""
    _, *rest = _ENTRY.split(sections(cls).get("Args", ""))
    return {
        name: _flat(text)
        for names, text in zip(rest[::2], rest[1::2], strict=True)
        for name in names.split(", ")
    }


def _flat(text: str) -> str:
    return " ".join(text.split())
