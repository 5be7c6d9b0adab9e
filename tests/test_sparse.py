"""Sparse gradients: on the rows that have one, with the numbers of torch."""

from __future__ import annotations

import copy

import pytest
import torch

import thalweg
from thalweg import options as o


def gradient(step, shape=(9, 4), sparse_dim=1, dtype=torch.float64):
    """Two or three entries, one of them twice."""
    generator = torch.Generator().manual_seed(step)
    places = torch.stack([torch.randint(n, (3,), generator=generator) for n in shape[:sparse_dim]])
    places[:, 2] = places[:, 0]
    values = torch.randn(3, *shape[sparse_dim:], generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(places, values.to(dtype), shape)


def pair(shape=(9, 4), dtype=torch.float64):
    p = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
    return p, copy.deepcopy(p)


@pytest.mark.parametrize("sparse_dim", [1, 2])
@pytest.mark.parametrize("kwargs", [{}, {"betas": (0.5, 0.9), "eps": 1e-3}, {"maximize": True}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sparse_adam_is_torchs(kwargs, sparse_dim, dtype) -> None:
    p, q = pair(dtype=dtype)
    ours, theirs = (
        thalweg.SparseAdam([p], lr=0.1, **kwargs),
        torch.optim.SparseAdam([q], lr=0.1, **kwargs),
    )
    for step in range(20):
        p.grad = gradient(step, sparse_dim=sparse_dim, dtype=dtype)
        q.grad = gradient(step, sparse_dim=sparse_dim, dtype=dtype)
        ours.step()
        theirs.step()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            ours.state[p][key], theirs.state[q][key], rtol=tolerance, atol=tolerance
        )
    assert float(ours.state[p]["step"]) == theirs.state[q]["step"] == 20


def test_rows_without_gradient_keep_everything() -> None:
    p, _ = pair()
    optimizer = thalweg.SparseAdam([p], lr=0.1)
    p.grad = torch.sparse_coo_tensor([[2]], torch.ones(1, 4, dtype=torch.float64), p.shape)
    optimizer.step()
    before = [p.detach().clone(), optimizer.state[p]["exp_avg"].clone()]
    p.grad = torch.sparse_coo_tensor([[5]], torch.ones(1, 4, dtype=torch.float64), p.shape)
    optimizer.step()
    for now, then in zip((p.detach(), optimizer.state[p]["exp_avg"]), before, strict=True):
        assert torch.equal(now[2], then[2])
        assert not torch.equal(now[5], then[5])


def test_no_entries_move_nothing_but_the_count() -> None:
    p, q = pair()
    optimizer = thalweg.SparseAdam([p], lr=0.1)
    p.grad = torch.sparse_coo_tensor(
        torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 4), p.shape
    ).double()
    optimizer.step()
    assert torch.equal(p, q)
    assert float(optimizer.state[p]["step"]) == 1.0


def test_checkpoints_go_both_ways() -> None:
    p, q = pair()
    ours, theirs = thalweg.SparseAdam([p], lr=0.1), torch.optim.SparseAdam([q], lr=0.1)
    for x, optimizer in ((p, ours), (q, theirs)):
        x.grad = gradient(0)
        optimizer.step()
    saved = theirs.state_dict()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(saved)
    for x, optimizer in ((p, ours), (q, theirs)):
        x.grad = gradient(1)
        optimizer.step()
    # torch takes our count, a float32 tensor, into 1 - beta2^t, which then is right to 1e-5.
    torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_what_is_refused_in_torchs_words() -> None:
    p, _ = pair()
    optimizer = thalweg.SparseAdam([p])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"^SparseAdam does not support dense gradients"):
        optimizer.step()
    complex_one = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(
        ValueError, match=r"^Complex params at indices \[\[0, 0\]\]: SparseAdam does"
    ):
        thalweg.SparseAdam([complex_one])
    with pytest.raises(ValueError, match=r"^Sparse params at indices \[\[0, 0\]\]: SparseAdam req"):
        thalweg.SparseAdam([torch.zeros(3, layout=torch.sparse_coo)])
    for wrong in ({"lr": 0.0}, {"eps": 0.0}, {"betas": (1.0, 0.9)}):
        with pytest.raises(ValueError, match=r"^Invalid"):
            thalweg.SparseAdam([p], **wrong)


def test_options_see_the_touched_rows() -> None:
    p, q = pair()
    clipped = thalweg.SparseAdam([p], lr=0.1, options=[o.ClipNorm(0.1)])
    by_hand = torch.optim.SparseAdam([q], lr=0.1)
    for step in range(3):
        p.grad = gradient(step)
        g = gradient(step).coalesce()
        scale = min(1.0, 0.1 / (float(g.values().norm()) + 1e-6))
        q.grad = g * scale
        clipped.step()
        by_hand.step()
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("option", [o.Centralize(), o.Lookahead(), o.Average(), o.ScheduleFree()])
def test_options_of_whole_tensors_are_refused_at_construction(option) -> None:
    with pytest.raises(ValueError, match="sparse_adam does not go with the option"):
        thalweg.SparseAdam([pair()[0]], options=[option])
