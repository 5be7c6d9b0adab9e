"""A pytest plugin: what is tested is the edited copy, and no other thalweg."""

import os
from pathlib import Path

import pytest

import thalweg


def pytest_sessionstart() -> None:
    found, wanted = Path(str(thalweg.__file__)), Path(os.environ["THALWEG_MUTANT"])
    if wanted not in found.parents:
        pytest.exit(f"the tests import {found}, which is not below {wanted}", returncode=4)
