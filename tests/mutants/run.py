"""Copies the checkout aside, applies one edit there, and lets the copy's tests look at it."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from mutants.edit import Edit

ROOT = Path(__file__).parents[2]
COPIED = (
    "src",
    "tests",
    "docs",
    "benchmarks",
    "examples",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "pyproject.toml",
    "mkdocs.yml",
)
FALLBACK = (
    "tests/test_oracles.py tests/test_options.py tests/test_engine.py tests/test_factored.py",
    "tests/test_reviewed.py tests/test_tables.py tests/test_kept_numbers.py tests/test_modern.py "
    "tests/test_shared_scalars.py tests/test_schedule_free.py tests/test_matrix.py tests/test_sparse.py",
    "tests/test_drop_in.py tests/test_drop_in_state.py tests/test_drop_in_tensors.py "
    "tests/test_torch_parity.py tests/test_backends.py",
    "tests/test_vocabulary.py tests/test_triton.py tests/test_wrappers.py tests/test_wrappers_state.py "
    "tests/test_failed_step.py tests/test_lbfgs.py tests/test_torch_configurations.py",
)
"""What looks at a mutant that the tests named beside it have passed, some files at a time."""
WHOLE = ("tests --deselect tests/test_mutants.py",)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torch._dynamo", "numpy", "pytest"])
"""Makes processes in which what all runs import, but not thalweg, is there already."""
BROKEN = 77
"""How a process ends in which the copy cannot be imported."""
LONGEST = 1800
"""Seconds after which a run counts as hung: a mutant that never returns is noticed."""


class MutantError(Exception):
    """The check itself went wrong; nothing is known of the mutant."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Args:
        edit: Which.
        noticed_by: The first test that failed; empty where none did.
        seconds: How long it took.
        further: Whether the tests named beside it passed, and others noticed.
    """

    edit: Edit
    noticed_by: str
    seconds: float
    further: bool = False


def applied(edit: Edit, root: Path) -> str:
    """The file's text with the edit in it.

    Raises:
        MutantError: The old text does not stand there exactly once.
    """
    text = (root / "src/thalweg" / edit.file).read_text()
    if text.count(edit.old) != 1:
        raise MutantError(
            f"{edit.name}: its old text stands {text.count(edit.old)} times in {edit.file}, and must "
            "stand there once; bring tests/mutants up to date"
        )
    return text.replace(edit.old, edit.new)


def copy_of(folder: Path) -> Path:
    """The checkout's files in a folder of their own, so that nothing finds the original beside them."""
    for name in COPIED:
        there = ROOT / name
        if there.is_dir():
            shutil.copytree(
                there, folder / name, symlinks=True
            )  # compiled modules with it: dates stay
        elif there.exists():
            shutil.copy2(there, folder / name)
    return folder


def examine(edit: Edit | None, selections: tuple[str, ...], cache: Path) -> Verdict:
    """Run selections of tests on a copy with the edit, until one notices.

    Args:
        edit: Which; None for the source as it is.
        selections: Arguments of pytest, a process for each.
        cache: Where compiled kernels may stay between runs: they are found by their text.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        root = copy_of(Path(name))
        if edit is not None:
            path = root / "src/thalweg" / edit.file
            path.write_text(applied(edit, ROOT))
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
                compiled.unlink()
        for i, selection in enumerate(selections):
            found = tested(root, selection, cache)
            if found:
                return Verdict(edit or NOTHING, found, time.monotonic() - began, further=i > 0)
    return Verdict(edit or NOTHING, "", time.monotonic() - began)


def tested(root: Path, selection: str, cache: Path) -> str:
    """The first test that fails in a copy, or nothing."""
    said = root / "said.txt"
    child = FORKS.Process(target=look, args=(root, selection, cache, said))
    child.start()
    child.join(LONGEST)
    if child.exitcode is None:
        os.killpg(child.pid, signal.SIGKILL)  # with whatever the tests have started
        child.join()
        return "a run that did not end"
    if child.exitcode == 0:
        return ""
    if child.exitcode == BROKEN:
        return "importing the package"
    if child.exitcode < 0:
        return f"a run that signal {-child.exitcode} ended"
    text = said.read_text() if said.exists() else ""
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - .*)?$", text, re.MULTILINE)
    if failed is None or child.exitcode not in (1, 2):
        raise MutantError(f"pytest {selection} ended with {child.exitcode}:\n{text[-3000:]}")
    return failed[1]


def look(root: Path, selection: str, cache: Path, said: Path) -> None:
    """In a process of its own, which has torch but no thalweg yet: the copy's tests on the copy."""
    paths = [str(root / "src"), str(root)]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # of the processes that tests start
    os.environ.update(THALWEG_MUTANT=str(root), XDG_CACHE_HOME=str(cache))
    own = (ROOT, ROOT / "src", ROOT / "tests")  # an environment may lie in the checkout too
    sys.path[:] = paths + [p for p in sys.path if p and Path(p) not in own]
    os.setsid()
    words = shlex.split(selection)
    while "=" in words[0]:
        os.environ.update([words.pop(0).split("=", 1)])
    os.chdir(root)
    with said.open("w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
        try:
            importlib.import_module("thalweg")
        except Exception:
            traceback.print_exc()
            sys.exit(BROKEN)
        flags = ["-x", "-q", "-p", "mutants.witness", "-p", "no:cacheprovider"]
        sys.exit(pytest.main([*flags, *words]))


NOTHING = Edit("(none)", "", "", "", "the source as it is", ())
