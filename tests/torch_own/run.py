"""Runs torch's `test/test_optim.py`, unedited, and says how every test went."""

from __future__ import annotations

import importlib
import sys
import traceback
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_own import stand_in

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """How a test went: passed, failed or skipped, and torch's words about it."""

    status: str
    says: str = ""


class Recorder(unittest.TestResult):
    """Keeps every test's outcome by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, Outcome] = {}

    def _keep(self, test: unittest.TestCase, status: str, says: str = "") -> None:
        self.outcomes[identity(test)] = Outcome(status, says)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._keep(test, PASSED)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._keep(test, FAILED, "".join(traceback.format_exception(*err)))

    addFailure = addError

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._keep(test, SKIPPED, reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._keep(test, FAILED, "torch expects this test to fail, and it passed")


def identity(test: unittest.TestCase) -> str:
    """`TestOptimRenewedCPU.test_errors_Adam_cpu_float32`: without the module, which depends on the run."""
    return ".".join(test.id().split(".")[-2:])


def run(directory: Path, *, torchs: bool = False, pattern: str = "") -> dict[str, Outcome]:
    """Run torch's tests in this process, whose torch.optim is changed for good.

    Args:
        directory: The `test` directory of a PyTorch checkout: it has `test_optim.py` and `optim/`.
        torchs: Leave torch's own classes where they are.
        pattern: Only tests whose id has this text in it.

    Raises:
        FileNotFoundError: It is another directory.
    """
    if not (directory / "test_optim.py").is_file() or not (directory / "optim").is_dir():
        raise FileNotFoundError(
            f"{directory} has no test_optim.py and optim/; name the test directory of a PyTorch checkout"
        )
    if not torchs:
        if "torch.testing._internal.common_optimizers" in sys.modules:
            raise RuntimeError("common_optimizers is imported already, with torch's own classes")
        stand_in.replace()
    sys.path.insert(0, str(directory))  # as `python test/test_optim.py` does
    module = importlib.import_module("test_optim")
    recorder = Recorder()
    chosen = unittest.TestSuite(
        test
        for test in _flat(unittest.defaultTestLoader.loadTestsFromModule(module))
        if pattern in identity(test)
    )
    chosen.run(recorder)
    return recorder.outcomes


def _flat(suite: Any) -> list[unittest.TestCase]:
    return (
        [t for part in suite for t in _flat(part)]
        if isinstance(suite, unittest.TestSuite)
        else [suite]
    )
