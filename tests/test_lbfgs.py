"""LBFGS: torch's numbers to the bit, its checkpoints, and what torch has broken around it."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch

import thalweg
from oracles.lbfgs import lbfgs
from trajectories import assert_same_bits, through_bytes

# What torch tests itself with, and more.
CONFIGURATIONS = {
    "default": {},
    "lr": {"lr": 0.01},
    "tensor lr": {"lr": torch.tensor(0.001)},
    "tolerance": {"tolerance_grad": 1e-6},
    "strong wolfe": {"line_search_fn": "strong_wolfe"},
    "short": {"max_iter": 4, "history_size": 2, "max_eval": 9},
    "short search": {"max_iter": 5, "history_size": 3, "line_search_fn": "strong_wolfe"},
}


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (2, 3), ())
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in shapes
    ]


def closure_of(optimizer, params):
    """Return the closure of a bent valley over all elements."""

    def closure():
        optimizer.zero_grad()
        x = torch.cat([p.reshape(-1) for p in params])
        loss = (10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        loss.backward()
        return loss

    return closure


def run(optimizer, params, steps):
    return [optimizer.step(closure_of(optimizer, params)).item() for _ in range(steps)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_numbers_are_torchs_to_the_bit(name, dtype):
    kwargs = CONFIGURATIONS[name]
    results = []
    for module in (thalweg, torch.optim):
        params = parameters(dtype)
        optimizer = module.LBFGS(params, **kwargs)
        losses = run(optimizer, params, 4)
        results.append([losses, [p.detach() for p in params], optimizer.state_dict()])
    assert_same_bits(*results)
    assert results[0][0][-1] < results[0][0][0]


@pytest.mark.parametrize("history", [100, 3])
def test_follows_the_reference(history):
    """A quadratic bowl of nine dimensions, a step of our own per iteration."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((9, 9))
    hessian, start = root @ root.T / 9 + np.eye(9), rng.standard_normal(9)
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = thalweg.LBFGS([w], lr=0.5, max_iter=1, history_size=history)
    a = torch.tensor(hessian)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * w @ a @ w
        loss.backward()
        return loss

    for expected in lbfgs(lambda x: hessian @ x, start, lr=0.5, iterations=8, history=history):
        optimizer.step(closure)
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_as_the_original(copier, search):
    """torch's copy has lost its parameters and cannot step."""
    params = parameters()
    optimizer = thalweg.LBFGS(params, max_iter=4, line_search_fn=search)
    run(optimizer, params, 2)
    twin = copier(optimizer)
    twins = twin.param_groups[0]["params"]
    assert all(a is not b for a, b in zip(params, twins, strict=True))
    expected = run(optimizer, params, 2)
    assert run(twin, twins, 2) == expected
    assert_same_bits([p.detach() for p in twins], [p.detach() for p in params])


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("order", ["ours first", "torch first", "ours alone"])
def test_checkpoints_go_both_ways(order, search):
    kwargs = {"max_iter": 4, "line_search_fn": search}
    whole = parameters()
    expected = run(torch.optim.LBFGS(whole, **kwargs), whole, 4)
    modules = {
        "ours first": (thalweg, torch.optim),
        "torch first": (torch.optim, thalweg),
        "ours alone": (thalweg, thalweg),
    }
    first, second = modules[order]
    params = parameters()
    optimizer = first.LBFGS(params, **kwargs)
    losses = run(optimizer, params, 2)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = second.LBFGS(others)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    assert losses + run(other, others, 2) == expected
    assert_same_bits([p.detach() for p in others], [p.detach() for p in whole])


def test_loading_copies_the_checkpoint():
    """torch's next step writes into the tensors of the dict that it was given."""
    params = parameters()
    optimizer = thalweg.LBFGS(params, max_iter=3)
    run(optimizer, params, 1)
    saved = through_bytes(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    others = parameters()
    other = thalweg.LBFGS(others)
    other.load_state_dict(saved)
    run(other, others, 2)
    assert_same_bits(saved, kept)


def test_channels_last_and_missing_gradients():
    """A gradient that no view flattens is read in the parameter's logical order."""
    torch.manual_seed(0)
    weights = torch.randn(2, 3, 4, 5)
    paths = []
    for layout in (torch.channels_last, torch.contiguous_format):
        p = torch.nn.Parameter(weights.clone(memory_format=layout))
        unused = torch.nn.Parameter(torch.ones(3))
        optimizer = thalweg.LBFGS([p, unused], max_iter=5)

        def closure(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = ((p - 1) ** 4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert torch.equal(unused.detach(), torch.ones(3))
        paths.append(p.detach().contiguous())
    torch.testing.assert_close(*paths, rtol=1e-6, atol=1e-7)
    assert not torch.equal(paths[0], weights)


def test_hooks_run_once_and_the_closure_is_needed():
    params = parameters()
    optimizer = thalweg.LBFGS(params, max_iter=2)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    run(optimizer, params, 2)
    assert seen == [1, 1]
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()


def test_it_steps_under_torchs_name(monkeypatch):
    torchs, ours = parameters(), parameters()
    theirs = torch.optim.LBFGS
    run(theirs(torchs), torchs, 2)
    for module in (torch.optim, inspect.getmodule(theirs)):
        monkeypatch.setattr(module, "LBFGS", thalweg.LBFGS)
    run(torch.optim.LBFGS(ours), ours, 2)
    assert_same_bits(ours, torchs)


def test_signature_is_torchs():
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(m.LBFGS).parameters.values()]
        for m in (thalweg, torch.optim)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("kwargs", "kind", "words"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1"),
        ({"lr": torch.tensor([1.0, 2.0])}, ValueError, "Tensor lr must be 1-element"),
        ({"histroy_size": 3}, TypeError, "Did you mean 'history_size'"),
        ({"options": []}, TypeError, "unexpected keyword argument 'options'"),
        ({"history_size": 0}, ValueError, "history_size value: 0. LBFGS needs"),
        ({"max_iter": 2.5}, ValueError, "max_iter value: 2.5"),
        ({"line_search_fn": "armijo"}, RuntimeError, "only 'strong_wolfe' is supported"),
    ],
)
def test_bad_arguments_are_refused_at_construction(kwargs, kind, words):
    with pytest.raises(kind, match=words):
        thalweg.LBFGS(parameters(), **kwargs)


def test_several_groups_are_refused_in_torchs_words():
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        thalweg.LBFGS([{"params": [p]} for p in parameters()])


def test_it_is_known_by_name():
    optimizer = thalweg.create_optimizer(torch.nn.Linear(2, 1), "lbfgs(max_iter=3)", lr=0.5)
    assert type(optimizer) is thalweg.LBFGS
    assert optimizer.param_groups[0]["max_iter"] == 3
    with pytest.raises(TypeError, match="'options'"):
        thalweg.create_optimizer(torch.nn.Linear(2, 1), "lbfgs + lookahead")


def test_the_closure_runs_on_all_threads_and_the_step_on_one():
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = thalweg.LBFGS([w], max_iter=2)
    optimizer._gather_flat_grad = lambda: (found.append(torch.get_num_threads()), w.grad.clone())[1]

    def closure():
        found.append(torch.get_num_threads())
        w.grad = w.detach().clone()
        return (w**2).sum()

    optimizer.step(closure)
    after = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert found[:2] == [2, 1]
    assert set(found[::2]) == {2}
    assert set(found[1::2]) == {1}
    assert after == 2
