"""The modern rules' numbers against other packages' where those have the paper's numbers.

A peer may count steps per group and write to gradients, so that each has gradients of its own here, and
no parameter is ever without one.
"""

import pytest
import torch

import thalweg
from trajectories import assert_same_path, hard, tensors

po = pytest.importorskip("pytorch_optimizer")

# what is built -> (our class, its arguments), (their class, its arguments)
PEERS = {
    "signum": (("Signum", {}), ("SignSGD", {"momentum": 0.9})),
    "adabound": (
        ("AdaBound", {"gamma": 0.05}),
        ("AdaBound", {"gamma": 0.05, "weight_decouple": False}),
    ),
    "amsbound": (
        ("AMSBound", {"gamma": 0.05}),
        ("AdaBound", {"gamma": 0.05, "ams_bound": True, "weight_decouple": False}),
    ),
    "adan": (("Adan", {}), ("Adan", {"weight_decouple": False})),
    "adan no prox": (("Adan", {"no_prox": True}), ("Adan", {"weight_decouple": True})),
    "adabelief": (("AdaBelief", {}), ("AdaBelief", {"rectify": False})),
    "ademamix": (
        ("AdEMAMix", {"alpha": 5.0}),
        ("AdEMAMix", {"alpha": 5.0, "weight_decouple": True}),
    ),
    "stableadamw": (("StableAdamW", {}), ("StableAdamW", {"kahan_sum": False, "eps": 1e-8})),
    "novograd": (("NovoGrad", {}), ("NovoGrad", {"betas": (0.95, 0.98), "weight_decouple": False})),
}


LOOP = {"foreach": False, "triton": False}
RELATIVE = 1e-8  # some of the peers' numbers pass through float32


def walk(make, trajectory):
    weights = tensors(trajectory.weights, torch.float64)
    optimizer = make(trajectory.group_dicts(weights))
    path = []
    for gradients in trajectory.gradients:
        for name, w in weights.items():
            g = gradients[name]
            w.grad = torch.full_like(w, 0.1) if g is None else torch.tensor(g)
        optimizer.step()
        path.append({n: w.detach().numpy().copy() for n, w in weights.items()})
    return path


@pytest.mark.parametrize("name", PEERS)
def test_ours_agree_with_pytorch_optimizer(name):
    (cls, kwargs), (their_cls, their_kwargs) = PEERS[name]
    trajectory = hard(steps=30)
    ours = walk(lambda groups: getattr(thalweg, cls)(groups, **kwargs), trajectory)
    theirs = walk(lambda groups: getattr(po, their_cls)(groups, **their_kwargs), trajectory)
    assert_same_path(ours, theirs, trajectory, RELATIVE)


def test_stableadamw_agrees_with_optimi():
    optimi = pytest.importorskip("optimi")
    trajectory = hard(steps=30)
    ours = walk(thalweg.StableAdamW, trajectory)
    theirs = walk(lambda groups: optimi.StableAdamW(groups, lr=1.0, eps=1e-8, **LOOP), trajectory)
    assert_same_path(ours, theirs, trajectory, RELATIVE)
