"""How many lines an optimizer takes in its family's file: its rule's declaration and function, its class.

`python tests/line_counts.py` prints them. Blank lines, docstrings, imports and advice to users do not
count; helpers of the same file that the rule or the class uses do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import thalweg.optim

FAMILY = Path(thalweg.optim.__file__).parent

Top = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def line_counts(path: Path) -> dict[str, int]:
    """Of every public class in a file, by name."""
    text = path.read_text()
    tops: dict[str, Top] = {}
    for node in ast.parse(text).body:
        if isinstance(node, Top):
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            tops[getattr(targets[0], "id", "") or getattr(node, "name", "")] = node
    filled = {i for i, line in enumerate(text.splitlines(), 1) if line.strip()}
    return {
        name: len(set().union(*map(_lines, _used(node, tops))) & filled)
        for name, node in tops.items()
        if isinstance(node, ast.ClassDef) and not name.startswith("_")
    }


def _used(node: Top, tops: dict[str, Top]) -> list[Top]:
    """A definition and what it uses of the same file, but for the other classes."""
    found, left = [node], [node]
    while left:
        for name in {x.id for x in ast.walk(left.pop()) if isinstance(x, ast.Name)}:
            other = tops.get(name)
            if other is not None and other not in found and not isinstance(other, ast.ClassDef):
                found.append(other)
                left.append(other)
    return found


def _lines(node: Top) -> set[int]:
    start = min(x.lineno for x in [node, *getattr(node, "decorator_list", [])])
    return set(range(start, node.end_lineno + 1)) - set(_docstrings(node))


def _docstrings(node: Top) -> Iterator[int]:
    """What is written for the reader: docstrings, and `advice` of a declaration or class."""
    for part in ast.walk(node):
        target = part.targets[0] if isinstance(part, ast.Assign) else None
        if "advice" in (getattr(part, "arg", None), getattr(target, "id", None)):
            yield from range(part.lineno, part.end_lineno + 1)
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
            yield from range(part.body[0].lineno, part.body[0].end_lineno + 1)


def all_counts() -> dict[str, int]:
    """Of every public class of the family."""
    counts: dict[str, int] = {}
    for path in sorted(FAMILY.glob("*.py")):
        counts |= line_counts(path)
    return counts


if __name__ == "__main__":
    for name, lines in sorted(all_counts().items(), key=lambda pair: -pair[1]):
        print(f"{lines:4} {name}")
