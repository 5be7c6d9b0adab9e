"""Checkpoints of every release so far load, step, and give the weights that were recorded then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import recipes
import thalweg

MUSEUM = Path(__file__).parent / "museum"
PIECES = sorted(MUSEUM.glob("*/*.pt"))
LIMIT = 300_000


def tolerance(recipe):
    """Rounding of powers and roots differs between machines; bfloat16 products more."""
    return 2e-2 if re.match(r"muon", recipe) else 1e-5


def restored(piece):
    """Return parameters and an optimizer made anew from what the file says."""
    split = piece["weights"].split([torch.Size(s).numel() for s in piece["shapes"]])
    tensors = [
        torch.nn.Parameter(x.reshape(s).clone())
        for x, s in zip(split, piece["shapes"], strict=True)
    ]
    optimizer = recipes.build(piece["recipe"], tensors)
    optimizer.load_state_dict(piece["optimizer"])
    return tensors, optimizer


@pytest.mark.parametrize("path", PIECES, ids=[f"{p.parent.name}-{p.stem}" for p in PIECES])
def test_a_checkpoint_of_then_goes_on_as_then(path):
    piece = torch.load(path, weights_only=True)
    tensors, optimizer = restored(piece)
    recipes.train(piece["recipe"], tensors, optimizer, piece["steps"], 5)
    moved = (piece["later"] - piece["weights"]).abs().max()
    assert moved > 0
    allowed = tolerance(piece["recipe"]) * moved.item()
    torch.testing.assert_close(recipes.flat(tensors), piece["later"], rtol=1e-6, atol=allowed)


def test_the_museum_has_all_of_this_release():
    """After adding an algorithm or option run tests/museum/make.py; it writes what is missing."""
    there = {path.stem for path in PIECES if path.parent.name == thalweg.__version__}
    assert there == set(recipes.recipes())


def test_the_museum_is_small():
    assert sum(path.stat().st_size for path in PIECES) < LIMIT * len({p.parent for p in PIECES})


@pytest.mark.parametrize(
    "name", ["adamw", "prodigy-growing", "adamwschedulefree", "asgd-averaging"]
)
def test_without_its_state_it_does_not(name):
    """The recorded weights depend on what was loaded: an optimizer that begins anew ends elsewhere."""
    piece = torch.load(MUSEUM / thalweg.__version__ / f"{name}.pt", weights_only=True)
    tensors, _ = restored(piece)
    fresh = recipes.build(piece["recipe"], tensors)
    recipes.train(piece["recipe"], tensors, fresh, piece["steps"], 5)
    assert (recipes.flat(tensors) - piece["later"]).abs().max() > 1e-4
