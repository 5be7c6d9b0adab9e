"""Muon and MuonAdamW against a float64 reference written from the post and the paper.

Ours iterates in bfloat16, as the post and torch do. What is not that rounding is compared closely with the
iteration put into float64 and float32; the rounding itself is held to what eight bits of mantissa can do.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import thalweg
from oracles import Muon, MuonAdamW, Options, Reference
from oracles.muon import newton_schulz
from thalweg.engine import groups
from thalweg.optim import muon
from trajectories import assert_same_path, follow, hard, walk

DECOUPLED = Options(decay="decoupled")
BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {},
}
CASES = {
    "muon": (thalweg.Muon, Muon, {}),
    "plain momentum": (thalweg.Muon, Muon, {"nesterov": False, "momentum": 0.8}),
    "original": (thalweg.Muon, Muon, {"adjust_lr_fn": "original", "ns_steps": 3}),
    "match_rms_adamw": (thalweg.Muon, Muon, {"adjust_lr_fn": "match_rms_adamw"}),
    "coefficients": (thalweg.Muon, Muon, {"ns_coefficients": (3.0, -3.2, 1.2), "eps": 1e-3}),
    "muon and adamw": (thalweg.MuonAdamW, MuonAdamW, {}),
    "muon and adamw, all numbers": (
        thalweg.MuonAdamW,
        MuonAdamW,
        {"betas": (0.7, 0.95), "adamw_eps": 1e-4, "momentum": 0.9, "adjust_lr_fn": "original"},
    ),
}


def matrices(trajectory):
    """The hard trajectory with every tensor as a matrix: vectors are one row."""

    def shaped(x):
        return x if x is None else x.reshape(len(x) if x.ndim > 1 else 1, -1)

    return replace(
        trajectory,
        weights={n: shaped(w) for n, w in trajectory.weights.items()},
        gradients=[{n: shaped(g) for n, g in step.items()} for step in trajectory.gradients],
    )


def both(name, dtype, **backend):
    cls, rule, numbers = CASES[name]
    trajectory = matrices(hard()) if cls is thalweg.Muon else hard()
    ours = walk(lambda groups: cls(groups, **numbers, **backend), trajectory, dtype)
    oracle = Reference(rule, trajectory.weights, trajectory.groups, DECOUPLED, **numbers)
    return ours, follow(oracle, trajectory), trajectory


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_it_follows_the_reference(name, backend, dtype, monkeypatch):
    monkeypatch.setattr(muon, "ITERATED_IN", dtype)
    monkeypatch.setattr(groups, "_graphs", {})  # what was traced with another dtype, or will be
    ours, theirs, trajectory = both(name, dtype, **BACKENDS[backend])
    relative = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
    assert_same_path(ours, theirs, trajectory, relative, dtype)


BFLOAT16 = 0.06
"""Of a direction: five steps of products rounded to eight bits leave 1 to 4 %, by machine and threads."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_it_follows_the_reference_in_bfloat16_too(name, backend):
    ours, theirs, trajectory = both(name, torch.float32, **BACKENDS[backend])
    assert_same_path(ours, theirs, trajectory, BFLOAT16, torch.float32)


@pytest.mark.parametrize("shape", [(33, 5), (5, 33), (64, 64), (1, 7), (96, 128)])
def test_a_direction_in_bfloat16_is_the_references(shape):
    g = np.random.default_rng(0).standard_normal((3, *shape))
    stack = torch.tensor(g).to(torch.bfloat16)
    numbers = {"coefficients": muon.COEFFICIENTS, "steps": 5, "eps": 1e-7}
    ours = muon.newton_schulz(stack, **numbers).double().numpy()
    for x, u in zip(g, ours, strict=True):
        wanted = newton_schulz(x, **numbers)
        assert np.linalg.norm(u - wanted) < BFLOAT16 * np.linalg.norm(wanted)


def test_the_reference_brings_singular_values_near_one():
    """The post: from 0.7 to about 1.2, for those that begin above a hundredth of the norm."""
    g = np.random.default_rng(1).standard_normal((24, 40))
    u = newton_schulz(g, muon.COEFFICIENTS, 5, 1e-7)
    values = np.linalg.svd(u, compute_uv=False)
    assert values.min() > 0.65
    assert values.max() < 1.25
    left, _, right = np.linalg.svd(g, full_matrices=False)
    mixed = left.T @ u @ right.T
    assert np.abs(mixed - np.diag(mixed.diagonal())).max() < 1e-12  # singular vectors are kept


SLIPS = {
    "eps": {"eps": 1e-2},
    "a step less": {"ns_steps": 4},
    "no look ahead": {"nesterov": False},
    "momentum": {"momentum": 0.9},
    "rate": {"adjust_lr_fn": "match_rms_adamw"},
    "coefficient": {"ns_coefficients": (3.4445, -4.7750, 2.2)},
}


@pytest.mark.parametrize("name", SLIPS)
def test_bfloat16_hides_no_slip(name):
    trajectory = matrices(hard())
    slipped = walk(lambda groups: torch.optim.Muon(groups, **SLIPS[name]), trajectory)
    oracle = Reference(Muon, trajectory.weights, trajectory.groups, DECOUPLED)
    theirs = follow(oracle, trajectory)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(slipped, theirs, trajectory, BFLOAT16)


def test_the_reference_agrees_with_torch():
    trajectory = matrices(hard())
    for numbers in ({}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}):
        theirs = walk(lambda groups, n=numbers: torch.optim.Muon(groups, **n), trajectory)
        oracle = Reference(Muon, trajectory.weights, trajectory.groups, DECOUPLED, **numbers)
        assert_same_path(follow(oracle, trajectory), theirs, trajectory, BFLOAT16)
