"""What a checkpoint may hold: plain data of the right kind, copied; nothing that it names is imported."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

import recipes
import thalweg
from subjects import clones, parameters, run
from thalweg import options as opt
from trajectories import assert_same_bits, snapshot, through_bytes


def trained(**more):
    params = parameters()
    optimizer = thalweg.AdamW(params, lr=0.01, **more)
    run(optimizer, params, 0, 3)
    return params, optimizer, through_bytes(optimizer.state_dict())


def refuses(optimizer, saved, match, **how):
    before, kept = snapshot(optimizer), copy.deepcopy(saved)
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved, **how)
    assert_same_bits(snapshot(optimizer), before)
    assert_same_bits(saved, kept)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("exp_avg", torch.ones(7, dtype=torch.uint8), "has torch.uint8"),
        ("exp_avg", torch.ones(7, dtype=torch.int64), "has torch.int64"),
        ("exp_avg_sq", torch.ones(7, dtype=torch.complex64), "has torch.complex64"),
        ("step", torch.tensor(float("nan")), "counted from 0"),
        ("step", -1.0, "counted from 0"),
        ("step", float("inf"), "counted from 0"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"strict": False}])
def test_what_a_cast_would_make_nonsense_of_is_refused(key, value, words, how):
    _, optimizer, saved = trained()
    saved["state"][0][key] = value
    refuses(optimizer, saved, words, **how)


def test_weights_that_stood_aside_must_fit_too():
    _, optimizer, _ = trained(options=[opt.Average(0.9)])
    optimizer.eval()
    saved = through_bytes(optimizer.state_dict())
    optimizer.train()
    saved["state"][0]["train_weights"] = torch.ones(1)  # would be broadcast
    refuses(optimizer, saved, "'train_weights' for parameter 0 of group 0 has shape")
    del saved["state"][0]["train_weights"]
    refuses(optimizer, saved, "has no 'train_weights'")


def test_what_is_not_ours_is_copied_too():
    params, optimizer, saved = trained()
    saved["state"][0]["history"] = {"norms": [1.0, 2.0], "last": torch.ones(3)}
    saved["state"]["global"] = {"seed": [7]}
    saved["param_groups"][0]["note"] = ["mine"]
    kept = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    optimizer.state[params[0]]["history"]["norms"].append(3.0)
    optimizer.state[params[0]]["history"]["last"].zero_()
    optimizer.state["global"]["seed"].append(8)
    optimizer.param_groups[0]["note"].append("more")
    assert_same_bits(saved, kept)


def test_lists_become_what_they_were():
    """Formats without tuples give lists; the optimizer reads its groups as fast as before."""
    params, optimizer, saved = trained()
    saved["param_groups"][0]["betas"] = [0.8, 0.9]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    run(optimizer, params, 3, 1)


def test_names_in_a_checkpoint_are_compared_and_nothing_else():
    params, optimizer, saved = trained()
    saved["param_groups"][0]["rule"] = "antigravity"
    saved["param_groups"][0]["options"] = ("this", "antigravity.fly")
    saved["param_groups"][0]["state_dtype"] = "antigravity"
    loaded = set(sys.modules)
    refuses(optimizer, saved, "rule 'antigravity'")
    optimizer.load_state_dict(saved, strict=False)
    run(optimizer, params, 3, 1)
    assert not {"this", "antigravity"} & (set(sys.modules) - loaded)
    assert (optimizer.param_groups[0]["rule"], optimizer.param_groups[0]["options"]) == ("adam", ())


@pytest.mark.parametrize("name", recipes.recipes())
def test_every_state_dict_reads_under_weights_only_and_is_copied(name):
    """Also where nothing was stepped yet, and with no tensor shared between checkpoint and optimizer."""
    recipe = recipes.recipes()[name]
    tensors, optimizer = recipes.begin(recipe)
    through_bytes(optimizer.state_dict())
    recipes.train(recipe, tensors, optimizer, 0, 3)
    saved = optimizer.state_dict()
    assert_same_bits(through_bytes(saved), saved)
    others = clones(tensors)
    other = recipes.build(recipe, others)
    other.load_state_dict(saved)
    dtypes = [{k: getattr(v, "dtype", None) for k, v in s.items()} for s in saved["state"].values()]
    mine = other.state_dict()["state"].values()
    assert [{k: getattr(v, "dtype", None) for k, v in s.items()} for s in mine] == dtypes
    kept = copy.deepcopy(saved)
    recipes.train(recipe, others, other, 3, 2)
    assert_same_bits(saved, kept)
