"""Checkpoints matched by name: in another order, over other groups, in part."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import thalweg
from subjects import SHAPES, SUBJECTS, clones, make, parameters, run
from thalweg.errors import CheckpointError
from trajectories import assert_same_bits, snapshot, through_bytes

NAMES = ["body.weight", "body.scale", "head.weight", "head.bias"]
ORDER = [2, 0, 3, 1]


def named(params, order=range(4), names=NAMES):
    return [(names[i], params[i]) for i in order]


def go_on(optimizer, params, first=3, count=3):
    run(optimizer, params, first, count)
    return params


@pytest.fixture
def saved():
    params = parameters()
    optimizer = make("adamw", named(params))
    run(optimizer, params, 0, 3)
    return params, optimizer, through_bytes(optimizer.state_dict())


@pytest.mark.parametrize("name", SUBJECTS)
def test_another_order_is_matched_by_name(name):
    params = parameters()
    optimizer = make(name, named(params))
    run(optimizer, params, 0, 3)
    others = clones(params)
    other = make(name, named(others, ORDER))
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    assert other.param_groups[0]["param_names"] == [NAMES[i] for i in ORDER]
    for p, q in zip(params, others, strict=True):
        assert_same_bits(dict(other.state[q]), dict(optimizer.state[p]))
    go_on(optimizer, params)
    go_on(other, others)
    # what sums over all tensors does so in their order
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)


def test_without_names_on_one_side_it_goes_by_position(saved):
    params, optimizer, state = saved
    others = clones(params)
    plain = make("adamw", others)
    plain.load_state_dict(state)
    assert plain.param_groups[0]["param_names"] == NAMES  # as in torch
    go_on(plain, others)
    for group in state["param_groups"]:
        del group["param_names"]
    third = clones(params)
    other = make("adamw", named(third, names=["a", "b", "c", "d"]))
    other.load_state_dict(state)
    assert_same_bits(go_on(other, third), others)
    assert_same_bits(go_on(optimizer, params), others)


def test_groups_split_otherwise(saved):
    params, optimizer, state = saved
    others = clones(params)
    groups = [{"params": named(others, [3, 1])}, {"params": named(others, [2, 0])}]
    other = make("adamw", groups, lr=0.5)
    other.load_state_dict(state)
    assert [g["lr"] for g in other.param_groups] == [0.0625] * 2
    assert_same_bits(go_on(other, others), go_on(optimizer, params))

    joined = clones(params)  # and back into one: the two have the same numbers
    one = make("adamw", named(joined, ORDER))
    one.load_state_dict(other.state_dict())
    assert_same_bits(dict(one.state[joined[0]]), dict(other.state[others[0]]))


def test_groups_of_different_numbers_do_not_become_one():
    params = parameters()
    groups = [
        {"params": named(params, [0, 1]), "lr": 0.25},
        {"params": named(params, [2, 3]), "weight_decay": 0.5},
    ]
    optimizer = make("adamw", groups)
    run(optimizer, params, 0, 2)
    others = clones(params)
    other = make("adamw", named(others), lr=0.125)
    before = snapshot(other)
    with pytest.raises(
        CheckpointError, match=r"groups 0 and 1, which differ in lr, .*0\.25 and 0\.0625"
    ):
        other.load_state_dict(optimizer.state_dict())
    assert_same_bits(snapshot(other), before)
    other.load_state_dict(optimizer.state_dict(), strict=False)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == (0.125, 0.125)
    assert_same_bits(dict(other.state[others[2]]), dict(optimizer.state[params[2]]))


def test_what_is_missing_and_unexpected_is_listed(saved):
    params, _, state = saved
    others = clones(params)
    names = ["body.weight", "body.scale", "top.weight", "top.bias"]
    other = make("adamw", named(others, names=names))
    run(other, others, 0, 1)
    before = snapshot(other)
    with pytest.raises(
        CheckpointError,
        match=r"it lacks 'top.weight', 'top.bias'; only it has 'head.weight', 'head.bias'.*strict=False",
    ):
        other.load_state_dict(state)
    assert_same_bits(snapshot(other), before)
    other.load_state_dict(state, strict=False)
    assert other.param_groups[0]["param_names"] == names
    assert set(other.state) == set(others[:2])
    assert other.state[others[0]]["step"].item() == 3
    run(other, others, 3, 1)
    assert [other.state[p]["step"].item() for p in others] == [4, 4, 1, 1]


def test_a_group_of_new_parameters_shares_the_optimizers_numbers():
    params = parameters()
    optimizer = thalweg.Prodigy(named(params, [0, 1]), d0=1e-3)
    run(optimizer, params[:2], 0, 4)
    d = optimizer.param_groups[0]["d"]
    assert d != 1e-3
    others = clones(params)
    groups = [{"params": named(others, [2, 3])}, {"params": named(others, [1, 0])}]
    other = thalweg.Prodigy(groups, d0=1e-3)
    other.load_state_dict(optimizer.state_dict(), strict=False)
    assert [g["d"] for g in other.param_groups] == [d, d]


def test_many_names_are_counted():
    shapes = {f"layer.{i}": torch.nn.Parameter(torch.zeros(1)) for i in range(30)}
    other = thalweg.AdamW(list(shapes.items()))
    state = thalweg.AdamW([("x", torch.nn.Parameter(torch.zeros(1)))]).state_dict()
    with pytest.raises(CheckpointError, match=r"'layer.7' and 22 more"):
        other.load_state_dict(state)


@pytest.mark.parametrize("pattern", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}"])
def test_wrappers_of_modules_change_no_name(saved, pattern):
    """DistributedDataParallel and torch.compile rename what they wrap; torch loads that by position."""
    params, optimizer, state = saved
    others = clones(params)
    other = make("adamw", named(others, ORDER, [pattern.format(n) for n in NAMES]))
    other.load_state_dict(state)
    assert_same_bits(go_on(other, others), go_on(optimizer, params))


def test_names_that_stand_for_two_parameters_are_no_names(saved):
    params, _, state = saved
    for group in state["param_groups"]:
        group["param_names"] = ["same"] * 4
    others = clones(params)
    other = make("adamw", named(others))
    other.load_state_dict(state)
    assert_same_bits(dict(other.state[others[2]]), state["state"][2])


def test_torchs_named_checkpoint_in_another_order():
    params = parameters()
    theirs = torch.optim.AdamW(named(params), lr=0.0625)
    run(theirs, params, 0, 3)
    others = clones(params)
    ours = thalweg.AdamW(named(others, ORDER), lr=0.5)
    ours.load_state_dict(through_bytes(theirs.state_dict()))
    run(theirs, params, 3, 3)
    run(ours, others, 3, 3)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("base", [thalweg.SGD, torch.optim.SGD])
def test_a_wrappers_entries_follow_the_names(base):
    """Slow weights that went to another parameter of the same shape would not be noticed."""
    params = [torch.nn.Parameter(torch.full((3,), float(i))) for i in range(4)]
    optimizer = thalweg.Lookahead(base(named(params), lr=0.1, momentum=0.5), k=2)
    run(optimizer, params, 0, 3)
    others = clones(params)
    other = thalweg.Lookahead(base(named(others, ORDER), lr=0.1, momentum=0.5), k=2)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    assert_same_bits(go_on(other, others), go_on(optimizer, params))


def test_lbfgs_refuses_another_order():
    params = parameters()
    state = thalweg.LBFGS(named(params)).state_dict()
    other = thalweg.LBFGS(named(clones(params), ORDER))
    with pytest.raises(CheckpointError, match=r"another order.*'body.weight', 'body.scale'"):
        other.load_state_dict(state)
    thalweg.LBFGS(named(clones(params))).load_state_dict(state)


# --- distributed checkpoint, whose groups keep names in the saved order ---------------------------


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ParameterDict(
            {f"p{i}": torch.nn.Parameter(torch.full(SHAPES[i], 0.5 + i)) for i in range(4)}
        )


@pytest.mark.parametrize("names", ["model's", "own", "none"])
@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoint_into_another_order(flatten, names):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    source, target = Model(), Model()
    params, others = list(source.parameters()), list(target.parameters())
    optimizer = thalweg.AdamW(list(source.named_parameters()), lr=0.01)
    run(optimizer, params, 0, 3)
    state = through_bytes(get_optimizer_state_dict(source, optimizer, options=options))
    target.load_state_dict(source.state_dict())
    pairs = list(target.named_parameters())
    if names == "own":
        pairs = [(NAMES[i], p) for i, (_, p) in enumerate(pairs)]
    shuffled = [pairs[i] for i in ORDER]
    if flatten and names == "none":
        state = {k: v for k, v in state.items() if not k.endswith("param_names")}
    other = thalweg.AdamW([p for _, p in shuffled] if names == "none" else shuffled, lr=0.01)
    set_optimizer_state_dict(target, other, optim_state_dict=copy.deepcopy(state), options=options)
    group = other.param_groups[0]
    assert group.get("param_names") == (None if names == "none" else [n for n, _ in shuffled])
    for p, q in zip(params, others, strict=True):
        assert_same_bits(dict(other.state[q]), dict(optimizer.state[p]))
    run(optimizer, params, 3, 2)
    run(other, others, 3, 2)
    assert_same_bits(others, params)
