"""Numbers that a whole group or the whole optimizer shares: Prodigy's distance, and rules of one's own."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import thalweg
from cases import BACKENDS, assert_same_bits, everything
from oracles.prodigy import Prodigy
from thalweg import Hyper, Scalar, rule
from thalweg.errors import CheckpointError, DeclarationError, StepError
from thalweg.ops import norm, sum, where
from thalweg.options import Cautious, ClipNorm, Lookahead, SkipNonFinite

KWARGS = [
    {},
    {"weight_decay": 0.1, "growth_rate": 1.5, "d0": 1e-4},
    {"use_bias_correction": True, "betas": (0.8, 0.95), "beta3": 0.9},
    {"safeguard_warmup": True, "d_coef": 2.0, "eps": 1e-4, "d0": 1e-3},
]


def weights(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 5), (7,), (33,))]
    return [torch.nn.Parameter(x.to(dtype)) for x in made]


def grads_at(params, step, missing=()):
    """Towards a far point, with noise: d grows for a while."""
    generator = torch.Generator().manual_seed(1000 + step)
    noise = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params]
    return [
        None if (step, i) in missing else (p.detach() - 3.0 + 0.1 * x).to(p.dtype)
        for i, (p, x) in enumerate(zip(params, noise, strict=True))
    ]


def walk(optimizer, params, steps, start=0, missing=()):
    for step in range(start, start + steps):
        for p, g in zip(params, grads_at(params, step, missing), strict=True):
            p.grad = g
        optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kwargs", KWARGS)
def test_prodigy_follows_the_paper(backend, kwargs) -> None:
    p = weights()
    ours = thalweg.Prodigy([{"params": p[:2]}, {"params": p[2:]}], **kwargs, **BACKENDS[backend])
    oracle = Prodigy([x.detach().numpy() for x in p], **kwargs)
    missing = {(3, 0), (4, 0), (5, 2)}
    for step in range(50):
        grads = grads_at(p, step, missing)
        for x, g in zip(p, grads, strict=True):
            x.grad = g
        for group in ours.param_groups:
            group["lr"] = 1.0 if step < 30 else 0.5
        ours.step()
        oracle.step([None if g is None else g.numpy() for g in grads], lr=1.0 if step < 30 else 0.5)
    assert {g["d"] for g in ours.param_groups} == {ours.param_groups[0]["d"]}
    assert ours.param_groups[0]["d"] == pytest.approx(oracle.d, rel=1e-9)
    assert oracle.d > 100 * oracle.d0 or kwargs.get("d0", 0) >= 1e-4
    for x, y in zip(p, oracle.params, strict=True):
        torch.testing.assert_close(x.detach(), torch.from_numpy(y), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options", [[], [Cautious()], [ClipNorm(1.0)], [Lookahead(k=2)], [SkipNonFinite()]]
)
def test_prodigys_backends_agree_to_the_bit(options) -> None:
    results = []
    for backend in ("eager", "fused"):
        p = weights(torch.float32)
        optimizer = thalweg.Prodigy(p, d0=1e-3, options=options, **BACKENDS[backend])
        walk(optimizer, p, 8)
        results.append([*everything(optimizer), torch.tensor(optimizer.param_groups[0]["d"])])
    assert_same_bits(*results)


def test_it_runs_in_one_pass() -> None:
    p = weights(torch.float32)
    optimizer = thalweg.Prodigy(p)
    walk(optimizer, p, 2)
    assert "1 pass" in optimizer.explain()


def test_a_shared_scalar_is_saved_and_resumes_to_the_bit() -> None:
    p = weights(torch.float32)
    optimizer = thalweg.Prodigy(p, d0=1e-3)
    walk(optimizer, p, 8)
    q = weights(torch.float32)
    first = thalweg.Prodigy(q, d0=1e-3)
    walk(first, q, 4)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = thalweg.Prodigy(q, d0=1e-3)
    second.load_state_dict(torch.load(file, weights_only=True))
    walk(second, q, 4, start=4)
    assert_same_bits(everything(optimizer), everything(second))
    assert optimizer.param_groups[0]["d"] == second.param_groups[0]["d"]
    twin_q, twin = copy.deepcopy((q, second))
    walk(twin, twin_q, 1, start=8)
    walk(second, q, 1, start=8)
    assert_same_bits(twin_q, q)


def test_a_checkpoint_without_it_is_refused() -> None:
    p, q = weights(torch.float32), weights(torch.float32)
    optimizer = thalweg.Prodigy(p, d0=1e-3)
    walk(optimizer, p, 3)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["d_max"]
    other = thalweg.Prodigy(q, d0=1e-3)
    with pytest.raises(CheckpointError, match="group 0 has no 'd_max'"):
        other.load_state_dict(saved)
    assert not other.state
    other.load_state_dict(saved, strict=False)
    assert other.param_groups[0]["d_max"] == 1e-3
    assert other.param_groups[0]["d"] == optimizer.param_groups[0]["d"]


def test_a_step_held_back_leaves_it() -> None:
    p = weights(torch.float32)
    optimizer = thalweg.Prodigy(p, d0=1e-3, options=[SkipNonFinite()])
    walk(optimizer, p, 3)
    before = {k: optimizer.param_groups[0][k] for k in ("d", "d_max", "d_numerator")}
    p[0].grad[0] = float("nan")
    optimizer.step()
    assert {k: optimizer.param_groups[0][k] for k in before} == before
    walk(optimizer, p, 1)
    assert optimizer.param_groups[0]["d_numerator"] != before["d_numerator"]


def test_a_group_that_comes_late_has_the_optimizers_number() -> None:
    p = weights(torch.float32)
    optimizer = thalweg.Prodigy(p[:2], d0=1e-3)
    walk(optimizer, p[:2], 5)
    d = optimizer.param_groups[0]["d"]
    assert d != 1e-3
    optimizer.add_param_group({"params": [p[2]]})
    assert optimizer.param_groups[1]["d"] == d
    walk(optimizer, p[:2], 3, start=5)  # no gradient for the late one: the number is its too
    assert optimizer.param_groups[1]["d"] == optimizer.param_groups[0]["d"] > d


@rule(
    name="test_group_scalar",
    scalars=(Scalar("total", 0.0, scope="group"), Scalar("rate", "rho", scope="group")),
    hypers=(Hyper("rho", 0.5),),
)
def of_a_group(g, *, total, rate, lr, rho):
    """Counts lr up, and halves a rate that began as a hyper."""
    return total * g, total + lr, rate * 0.5


def test_a_groups_scalar_is_the_groups() -> None:
    p = weights()
    optimizer = thalweg.Optimizer(
        [{"params": p[:2], "lr": 0.25}, {"params": p[2:], "lr": 1.0, "rho": 8.0}], rule=of_a_group
    )
    walk(optimizer, p, 3)
    assert [(g["total"], g["rate"]) for g in optimizer.param_groups] == [(0.75, 0.0625), (3.0, 1.0)]
    p[2].grad = None
    optimizer.step()
    assert [g["total"] for g in optimizer.param_groups] == [1.0, 3.0]


def test_it_must_be_alike_for_all_parameters() -> None:
    @rule(name="test_of_t", scalars=(Scalar("total", scope="optimizer"),))
    def of_t(g, *, total, t):
        return g, total + t

    @rule(name="test_of_norm", scalars=(Scalar("total", scope="group"),))
    def of_norm(g, *, total):
        return g, total + norm(g)

    for broken in (of_t, of_norm):
        with pytest.raises(DeclarationError, match="which each parameter has its own of"):
            thalweg.Optimizer(weights(), rule=broken)

    @rule(name="test_of_all", scalars=(Scalar("total", scope="optimizer"),))
    def of_all(g, *, total):
        return where(total > 1.0, g, 0.0 * g), total + sum(g * g, over="all")

    optimizer = thalweg.Optimizer(weights(), rule=of_all)
    walk(optimizer, optimizer.param_groups[0]["params"], 2)
    assert optimizer.param_groups[0]["total"] > 1.0


@pytest.mark.parametrize(
    ("scalars", "sentence"),
    [
        ((Scalar("a", "nothing", scope="group"),), "has init='nothing'"),
        ((Scalar("a", scope="model"),), "has scope='model'"),
    ],
)
def test_wrong_declarations(scalars, sentence) -> None:
    with pytest.raises(DeclarationError, match=sentence):

        @rule(name="test_wrong_scalar", scalars=scalars, hypers=(Hyper("rho", 0.5),))
        def wrong(g, *, a, rho):
            return g * rho, a


def test_a_number_that_was_taken_away_is_asked_for() -> None:
    p = weights()
    optimizer = thalweg.Prodigy(p)
    walk(optimizer, p, 1)
    optimizer.param_groups[0]["d"] = None
    with pytest.raises(StepError, match="'d' is None"):
        walk(optimizer, p, 1)
