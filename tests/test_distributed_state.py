"""torch.distributed.checkpoint over every algorithm and option: exact, and its own step moves nothing.

What it asks of an optimizer that took no step is a step with lr = 0 and gradients of zero; then it loads.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import recipes
import thalweg
from thalweg.errors import CheckpointError
from trajectories import assert_same_bits, snapshot, through_bytes

# What cannot take its step, as torch's cannot: the last test.
RECIPES = {k: v for k, v in recipes.recipes().items() if not v.startswith(("lbfgs", "sparseadam"))}
AVERAGING = ["asgd-averaging", "option-average", "option-schedule_free", "radamschedulefree"]

every_recipe = pytest.mark.parametrize("name", RECIPES)
every_layout = pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])


class Model(torch.nn.Module):
    def __init__(self, tensors):
        super().__init__()
        self.layer = torch.nn.ParameterList(tensors)


def begun(name):
    """Return a model that took no step, its parameters and optimizer."""
    tensors, optimizer = recipes.begin(RECIPES[name])
    return Model(tensors), tensors, optimizer


def trained(name, steps=3):
    model, tensors, optimizer = begun(name)
    recipes.train(RECIPES[name], tensors, optimizer, 0, steps)
    optimizer.zero_grad()
    return model, tensors, optimizer


def same_from_here(name, ours, theirs):
    assert_same_bits(snapshot(ours[1]), snapshot(theirs[1]))
    for tensors, optimizer in (ours, theirs):
        recipes.train(RECIPES[name], tensors, optimizer, 3, 3)
    assert_same_bits(snapshot(ours[1]), snapshot(theirs[1]))


@every_layout
@every_recipe
def test_a_checkpoint_is_exact(name, flatten):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, tensors, optimizer = trained(name)
    before = snapshot(optimizer)
    saved = through_bytes(get_optimizer_state_dict(model, optimizer, options=options))
    assert_same_bits(snapshot(optimizer), before)
    other_model, others, other = begun(name)
    other_model.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other_model, other, optim_state_dict=saved, options=options)
    same_from_here(name, (others, other), (tensors, optimizer))


@every_recipe
def test_its_own_step_moves_no_weight(name):
    """Nor what a group learns, such as Prodigy's d; what counts steps counts it, until the load."""
    model, tensors, optimizer = begun(name)
    before = recipes.flat(tensors)
    numbers = copy.deepcopy([group.get("d") for group in optimizer.param_groups])
    get_optimizer_state_dict(model, optimizer)
    assert torch.equal(recipes.flat(tensors), before)
    assert [group.get("d") for group in optimizer.param_groups] == numbers
    assert all(p.grad is None for p in tensors)


@every_layout
@pytest.mark.parametrize(
    "name", ["adamw-all-at-once", "prodigy-growing", "adamwschedulefree-warmup", "muonadamw", "sgd"]
)
def test_through_its_files(name, flatten, tmp_path):
    """As it is used: the new optimizer's own state is the form that the files are read into."""
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, tensors, optimizer = trained(name)
    other_model, others, other = begun(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one process
        saved = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
        dcp.save(saved, checkpoint_id=tmp_path)
        form = {"optimizer": get_optimizer_state_dict(other_model, other, options=options)}
        dcp.load(form, checkpoint_id=tmp_path)
    other_model.load_state_dict(model.state_dict())
    set_optimizer_state_dict(
        other_model, other, optim_state_dict=form["optimizer"], options=options
    )
    same_from_here(name, (others, other), (tensors, optimizer))


@pytest.mark.parametrize("name", AVERAGING)
def test_taken_while_parameters_hold_averages(name):
    """Nested it goes on from the weights. Flat, torch drops them: refused, where it went on from averages."""
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    model, tensors, optimizer = trained(name)
    optimizer.eval()
    saved = get_optimizer_state_dict(model, optimizer)
    dropped = get_optimizer_state_dict(model, optimizer, options=flat)
    other_model, others, other = begun(name)
    other_model.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match=r"has no 'train_weights'.*optimizer.train\(\)"):
        set_optimizer_state_dict(other_model, other, optim_state_dict=dropped, options=flat)
    set_optimizer_state_dict(other_model, other, optim_state_dict=saved)
    optimizer.train()
    other.train()
    same_from_here(name, (others, other), (tensors, optimizer))


def test_parameters_without_state_begin_anew_where_that_is_allowed():
    """One that never had a gradient has no entry; torch refuses that unless it is told not to."""
    tensors, _ = recipes.begin("adamw")
    model, optimizer = Model(tensors), thalweg.AdamW(tensors)
    for p in tensors[1:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    saved = get_optimizer_state_dict(model, optimizer)
    others, _ = recipes.begin("adamw")
    other_model, other = Model(others), thalweg.AdamW(others)
    options = StateDictOptions(strict=False)
    set_optimizer_state_dict(other_model, other, optim_state_dict=saved, options=options)
    assert set(other.state) == set(others[1:])


@pytest.mark.parametrize("module", [thalweg, torch.optim])
@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_what_takes_no_step_without_closure_or_with_zeros_is_refused_as_in_torch(module, name):
    tensors, _ = recipes.begin("adamw")
    optimizer = getattr(module, name)(tensors)
    with pytest.raises((TypeError, RuntimeError)):
        get_optimizer_state_dict(Model(tensors), optimizer)
