"""A wrong edit: where, what stands there, what is put in its place, and who ought to notice.

Each is a slip that somebody could make and overlook. `old` must stand in the file exactly once. `tests` are
arguments of pytest, without brackets, so that the default run's share of combinations is what looks;
`NAME=value` before them is put into the environment.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """One wrong edit of a file below src/thalweg."""

    name: str
    file: str
    old: str
    new: str
    what: str
    tests: tuple[str, ...]


def oracle(which: str) -> tuple[str, ...]:
    """The float64 reference of one algorithm."""
    return (f'tests/test_oracles.py -k "follows and {which}"',)


INTERPRETED = "TRITON_INTERPRET=1 tests/triton_interpreted.py"
"""What tests/test_triton.py runs in a process of its own: here the first failure ends it."""
