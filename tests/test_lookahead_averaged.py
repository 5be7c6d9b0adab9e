"""`averaged()` with the option Lookahead: the slow weights, as of the wrapper, and nothing else changes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import thalweg
from cases import BACKENDS, assert_same_bits, everything
from thalweg import options as o
from thalweg.engine.averages import keeps_average
from thalweg.errors import ArgumentError, StepError


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in ((6, 5), (40,))
    ]


def walk(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return optimizer


def clones(params):
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_shows_the_slow_weights_and_gives_the_fast_ones_back(backend, dtype):
    p, q = weights(dtype), weights(dtype)
    optimizer = thalweg.Ranger(p, lr=0.01, k=3, **BACKENDS[backend])
    unbroken = thalweg.Ranger(q, lr=0.01, k=3, **BACKENDS[backend])
    walk(optimizer, p, 3)
    slow = clones(p)  # a sync has just been
    walk(optimizer, p, 2, start=3)
    fast, addresses = clones(p), [x.data_ptr() for x in p]
    with optimizer.averaged():
        assert_same_bits(p, slow)
        assert [x.data_ptr() for x in p] == addresses
    assert_same_bits(p, fast)
    with pytest.raises(KeyError, match="validation failed"), optimizer.averaged():
        raise KeyError("validation failed")
    assert_same_bits(p, fast)
    assert not torch.equal(p[0], slow[0])
    walk(optimizer, p, 4, start=5)
    walk(unbroken, q, 9)
    assert_same_bits(everything(optimizer), everything(unbroken))
    assert (
        optimizer.state[p[0]]["lookahead_slow"].dtype == dtype
    )  # a copy, no average that rounds away


def test_it_is_what_the_wrapper_shows():
    p, q = weights(), weights()
    option = walk(thalweg.AdamW(p, lr=0.01, options=[o.Lookahead(k=3)]), p, 5)
    wrapper = walk(thalweg.Lookahead(thalweg.AdamW(q, lr=0.01), k=3), q, 5)
    with option.averaged(), wrapper.averaged():
        assert_same_bits(p, q)


def test_neither_groups_nor_state_get_a_key():
    """So that old checkpoints load into new optimizers and new ones into old, flat ones too."""
    p = weights()
    optimizer = walk(thalweg.Ranger(p, lr=0.01), p, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with optimizer.averaged():
        pass
    optimizer.eval()
    optimizer.train()
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert "train_mode" not in after["param_groups"][0]
    assert [list(s) for s in after["state"].values()] == [list(s) for s in before["state"].values()]


def test_eval_leaves_the_fast_weights():
    p = weights()
    optimizer = walk(thalweg.Ranger(p, lr=0.01), p, 2)
    fast = clones(p)
    optimizer.eval()
    assert_same_bits(p, fast)
    assert not keeps_average(optimizer.param_groups[0])  # Ultralytics keeps its EMA
    walk(optimizer, p, 1, start=2)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.step(),
        lambda x: x.state_dict(),
        lambda x: x.load_state_dict({}),
        copy.deepcopy,
        pickle.dumps,
        lambda x: x.averaged().__enter__(),
    ],
    ids=["step", "state_dict", "load_state_dict", "deepcopy", "pickle", "averaged"],
)
def test_inside_what_would_go_wrong_is_refused(act):
    p = weights()
    optimizer = walk(thalweg.Ranger(p, lr=0.01), p, 2)
    fast = clones(p)
    with optimizer.averaged(), pytest.raises(StepError, match=r"inside averaged\(\)"):
        act(optimizer)
    assert_same_bits(p, fast)
    copy.deepcopy(optimizer).state_dict()  # and after it all is as it was
    walk(optimizer, p, 1, start=2)


@pytest.mark.parametrize("both", ["average", "asgd"])
def test_an_average_wins(both):
    p = weights()
    if both == "average":
        optimizer = thalweg.SGD(p, lr=0.1, options=[o.Lookahead(k=3), o.Average(0.5)])
    else:
        optimizer = thalweg.ASGD(p, lr=0.1, t0=1, options=[o.Lookahead(k=3)])
    walk(optimizer, p, 5)
    fast = clones(p)
    key = {"average": "average_ema", "asgd": "ax"}[both]
    with optimizer.averaged():
        assert_same_bits(p, [optimizer.state[x][key] for x in p])
        assert not torch.equal(p[0], optimizer.state[p[0]]["lookahead_slow"])
        optimizer.state_dict()  # which the average allows
    assert_same_bits(p, fast)


def test_each_group_shows_its_own():
    p = weights()
    groups = [
        {"params": [p[0]], "options": [o.Average(0.5)]},
        {"params": [p[1]], "options": [o.Lookahead(k=3)]},
    ]
    optimizer = walk(thalweg.SGD(groups, lr=0.1), p, 5)
    fast = clones(p)
    with optimizer.averaged():
        assert torch.equal(p[0], optimizer.state[p[0]]["average_ema"])
        assert torch.equal(p[1], optimizer.state[p[1]]["lookahead_slow"])
        assert not torch.equal(p[1], fast[1])
    assert_same_bits(p, fast)
    walk(optimizer, p, 1, start=5)


def test_what_never_stepped_is_left():
    p = weights()
    optimizer = thalweg.Ranger(p, lr=0.01)
    start = clones(p)
    walk(optimizer, p[1:], 2)
    fast = clones(p)
    with optimizer.averaged():
        assert_same_bits(p, start)
    assert_same_bits(p, fast)


def test_without_either_it_is_refused():
    with pytest.raises(ArgumentError, match="needs an option that averages"):
        thalweg.AdamW(weights()).averaged().__enter__()
