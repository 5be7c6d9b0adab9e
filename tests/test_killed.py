"""Training killed with SIGKILL and resumed from its last checkpoint ends as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import recipes
from trajectories import assert_same_bits

STEPS = 9
HERE = Path(__file__).parent


def work(path, *when):
    """Run the script; return the numbers that it prints, or that it was killed."""
    done = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(path), str(STEPS), *map(str, when)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return "killed"
    assert done.returncode == 0, done.stderr
    return [int(x) for x in done.stdout.split()]


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_resumed_for_every_algorithm_and_option(tmp_path):
    """In the first step, inside a save, between steps: wherever a seeded count of calls comes to."""
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    in_step, in_save = work(whole)
    assert in_step > 10_000 < in_save
    rng = random.Random(20261120)
    moments = [("step 1", in_step), ("save 3", in_save), ("step 5", in_step + in_save)]
    taken = []
    for when, events in moments:
        assert work(broken, when, rng.randrange(1, events)) == "killed"
        taken.append(load(broken)["steps"])
    assert work(broken) != "killed"
    assert all(t in (at, at + 1) for t, at in zip(taken, (1, 3, 5), strict=True)), taken
    assert [x.name for x in tmp_path.iterdir() if "tmp" in x.name] == []
    unbroken, resumed = load(whole), load(broken)
    assert set(unbroken["weights"]) == set(recipes.recipes())
    for name in unbroken["weights"]:
        start = recipes.begin(recipes.recipes()[name])[0]
        assert not torch.equal(recipes.flat(start), recipes.flat(unbroken["weights"][name])), name
        try:
            assert_same_bits(resumed["weights"][name], unbroken["weights"][name])
            assert_same_bits(resumed["optimizers"][name], unbroken["optimizers"][name])
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}") from None
