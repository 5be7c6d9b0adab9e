"""Slots that follow the parameter, numbers that begin as the group's, and in what they are stored."""

import pytest
import torch

import thalweg
from cases import BACKENDS, assert_same_bits
from thalweg import Hyper, Scalar, Slot, rule
from thalweg import options as opt
from thalweg.errors import CheckpointError, DeclarationError, TraceError
from thalweg.ops import as_stored

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def _trail(p, trail, *, share):
    return trail + share * (p - trail)


@rule(
    slots=(Slot("trail", init="param", follows=_trail),),
    hypers=(Hyper("share", 0.25, low=0.0, high=1.0),),
)
def trailing(g):
    """Plain descent, and a mean of the weights beside it."""
    return g


def one(dtype=torch.float32, value=8.0):
    return torch.nn.Parameter(torch.full((3,), value, dtype=dtype))


def step(optimizer, p, gradient):
    p.grad = torch.full_like(p, gradient)
    optimizer.step()


@every_backend
def test_a_slot_follows_the_parameter_after_every_option(backend):
    """8 - 4 = 4, pulled to 6 by Lookahead: the trail goes a quarter of the way from 8 to 6."""
    p = one()
    optimizer = thalweg.Optimizer(
        [p], lr=1.0, rule=trailing, options=[opt.Lookahead(k=1, alpha=0.5)], **BACKENDS[backend]
    )
    step(optimizer, p, 4.0)
    assert p.tolist() == [6.0] * 3
    assert optimizer.state[p]["trail"].tolist() == [7.5] * 3


@every_backend
def test_a_step_that_is_held_back_moves_no_follower(backend):
    p = one()
    optimizer = thalweg.ASGD([p], lr=0.5, t0=0, options=[opt.SkipNonFinite()], **BACKENDS[backend])
    step(optimizer, p, 1.0)
    before = {k: v.clone() for k, v in optimizer.state[p].items() if "skip" not in k}
    step(optimizer, p, float("inf"))
    assert_same_bits([optimizer.state[p][k] for k in before], list(before.values()))
    step(optimizer, p, 1.0)
    assert not torch.equal(optimizer.state[p]["ax"], before["ax"])


@every_backend
def test_asgd_evaluates_by_its_average(backend):
    """Once averaging runs, `averaged()` holds the mean of the weights since; torch keeps the same one."""
    pair = []
    for module, kwargs in ((thalweg, BACKENDS[backend]), (torch.optim, {"foreach": False})):
        p = one(torch.float64)
        optimizer = module.ASGD([p], lr=0.5, t0=1, lambd=0.0, **kwargs)
        path = []
        for g in (1.0, -2.0, 3.0, 0.5):
            step(optimizer, p, g)
            path.append(p.detach().clone())
        pair.append((p, optimizer, path))
    (p, optimizer, path), (q, theirs, _) = pair
    torch.testing.assert_close(optimizer.state[p]["ax"], theirs.state[q]["ax"], rtol=1e-12, atol=0)
    with optimizer.averaged():
        # mu is 1 in step 3 too (1 / max(1, 2 - 1)), 1/2 in step 4
        torch.testing.assert_close(p.detach(), (path[2] + path[3]) / 2, rtol=1e-12, atol=0)
    assert torch.equal(p, path[3])


def test_the_average_of_weights_is_stored_as_they_are():
    p = one()
    optimizer = thalweg.ASGD([p], options=[opt.StateDtype(torch.bfloat16)])
    step(optimizer, p, 1.0)
    assert optimizer.state[p]["ax"].dtype == torch.float32


@every_backend
def test_numbers_begin_as_the_lr_of_their_group_and_moment(backend):
    a, b, late = one(), one(), one()
    groups = [{"params": [a, late], "lr": 0.5}, {"params": [b], "lr": 0.25}]
    asgd = thalweg.ASGD(groups, lambd=0.0, alpha=0.0, **BACKENDS[backend])
    a.grad, b.grad = torch.ones(3), torch.ones(3)
    asgd.step()
    assert (a[0].item(), b[0].item(), late[0].item()) == (7.5, 7.75, 8.0)
    asgd.param_groups[0]["lr"] = 2.0
    late.grad = torch.ones(3)
    asgd.step()  # a still takes the size that the first step left, the late one begins with the new lr
    assert (a[0].item(), b[0].item(), late[0].item()) == (7.0, 7.5, 6.0)


@every_backend
def test_a_slots_first_number_stands_in_both_parts_of_a_complex_one(backend):
    for cls, key, kwargs in (
        ("Rprop", "step_size", {"lr": 0.25}),
        ("Adagrad", "sum", {"initial_accumulator_value": 0.25}),
    ):
        p = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        optimizer = getattr(thalweg, cls)([p], **kwargs, **BACKENDS[backend])
        step(optimizer, p, 0.0)
        assert optimizer.state[p][key].tolist() == [0.25 + 0.25j] * 2


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
@every_backend
def test_nadams_product_is_torchs_number_under_either_default(backend, default):
    torch.set_default_dtype(default)
    try:
        paths = []
        for module, kwargs in ((thalweg, BACKENDS[backend]), (torch.optim, {"foreach": False})):
            p = one(torch.float64)
            optimizer = module.NAdam([p], lr=0.1, **kwargs)
            for g in (1.0, -0.7, 0.3):
                step(optimizer, p, g)
            assert optimizer.state[p]["mu_product"].dtype == default
            paths.append((optimizer.state[p]["mu_product"].item(), p.detach()))
        assert paths[0][0] == paths[1][0]
        torch.testing.assert_close(paths[0][1], paths[1][1], rtol=1e-14, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_as_stored_rounds_numbers_and_passes_plain_ones():
    single = torch.tensor(1.0)
    assert as_stored(torch.tensor(0.1, dtype=torch.float64), single).item() != 0.1
    assert as_stored(0.1, 1.0) == 0.1


BAD = {
    "unknown start": (
        {"scalars": (Scalar("eta", init="rate"),)},
        lambda g, *, eta: (eta * g, eta),
        DeclarationError,
        "scalar 'eta' has init='rate'",
    ),
    "a scalar begins as no tensor": (
        {"scalars": (Scalar("eta", init="param"),)},
        lambda g, *, eta: (eta * g, eta),
        DeclarationError,
        "scalar 'eta' has init='param'; it is a number or one of lr",
    ),
    "the rule takes a follower": (
        {"slots": (Slot("trail", follows=lambda p, trail: p),)},
        lambda g, trail: (g, trail),
        DeclarationError,
        "positional arguments",
    ),
    "a follower asks for what is not declared": (
        {"slots": (Slot("trail", follows=lambda p, trail, *, mu: p),)},
        lambda g: g,
        DeclarationError,
        "'mu' is asked for but not declared",
    ),
    "stored as a hyper": (
        {"hypers": (Hyper("a", 1.0),)},
        lambda g, *, a: g * as_stored(a, a),
        TraceError,
        "as_stored.* takes a declared Scalar",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_declarations_are_refused(case):
    declared, function, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        thalweg.Optimizer([one()], rule=rule(name=f"bad {case}", **declared)(function))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda entries: entries.pop("mu_product"), "no 'mu_product' for parameter 0"),
        (lambda entries: entries.update(mu_product="half"), "'mu_product' .* must be one number"),
        (lambda entries: entries.update(step=torch.ones(2)), "'step' .* must be one number"),
    ],
    ids=["missing", "text", "several"],
)
def test_a_checkpoint_without_a_number_is_refused(damage, words):
    p = one()
    optimizer = thalweg.NAdam([p])
    step(optimizer, p, 1.0)
    saved = optimizer.state_dict()
    saved["state"] = {0: dict(saved["state"][0])}
    damage(saved["state"][0])
    before = optimizer.state[p]["mu_product"].item()
    with pytest.raises(CheckpointError, match=words):
        optimizer.load_state_dict(saved)
    assert optimizer.state[p]["mu_product"].item() == before


# --- what torch's classes do besides -------------------------------------------------------------


def test_adagrad_has_its_state_from_the_start_and_shares_it():
    params = [one(), one()]
    optimizer = thalweg.Adagrad(params, initial_accumulator_value=0.5)
    assert [sorted(optimizer.state[p]) for p in params] == [["step", "sum"]] * 2
    assert all(optimizer.state[p]["sum"].tolist() == [0.5] * 3 for p in params)
    optimizer.share_memory()
    sums = [optimizer.state[p]["sum"] for p in params]
    step(optimizer, params[0], 2.0)
    assert all(s.is_shared() for s in sums)
    assert optimizer.state[params[0]]["sum"] is sums[0]
    assert sums[0].tolist() == [4.5] * 3
    assert sums[1].tolist() == [0.5] * 3


@every_backend
def test_centered_rmsprop_survives_a_constant_gradient(backend):
    """The variance of what does not vary rounds to below zero now and then: torch's root is nan there."""
    ends = []
    for module, kwargs in ((thalweg, BACKENDS[backend]), (torch.optim, {"foreach": False})):
        p = torch.nn.Parameter(torch.zeros(64))
        p.grad = torch.linspace(0.1, 3.0, 64)
        optimizer = module.RMSprop([p], centered=True, alpha=0.5, **kwargs)
        for _ in range(60):
            optimizer.step()
        ends.append(p.detach())
    assert torch.isfinite(ends[0]).all()
    assert not torch.isfinite(ends[1]).all(), "torch has mended it: drop the Differs line"
