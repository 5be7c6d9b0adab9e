"""What a second hostile review broke, one test each; each failed before it was mended."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import thalweg
from cases import BACKENDS
from thalweg import Hyper, Scalar, Slot, rule
from thalweg import options as o
from thalweg.errors import ArgumentError, BackendError, DeclarationError, StepError, TraceError
from thalweg.ops import matrix


def weight(*shape: int, value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full(shape, value))


def test_schedule_free_groups_take_the_constructors_arguments() -> None:
    sgd = thalweg.SGDScheduleFree([{"params": [weight(2)], "momentum": 0.5}], lr=0.1)
    assert sgd.param_groups[0]["schedule_free_beta"] == 0.5
    assert "momentum" not in sgd.param_groups[0]
    group = {"params": [weight(2)], "betas": (0.5, 0.6), "warmup_steps": 100, "r": 2.0}
    (found,) = thalweg.AdamWScheduleFree([group]).param_groups
    assert (found["schedule_free_beta"], found["beta2"]) == (0.5, 0.6)
    assert (found["schedule_free_warmup_steps"], found["schedule_free_r"]) == (100, 2.0)
    with pytest.raises(ValueError, match="cycle_momentum"):
        torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.1, total_steps=10)


@pytest.mark.parametrize("flags", BACKENDS.values())
def test_nothing_is_written_before_every_matrix_function_is_done(flags) -> None:
    left = [100]

    def counted(x):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError("no room")
        return x

    @rule(name="test_fails_later")
    def fails_later(g, *, t):
        return matrix(counted, g) * t

    a, b = weight(2, 2), torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = thalweg.Optimizer([a, b], lr=1.0, rule=fails_later, **flags)
    for p in (a, b):
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().clone() for p in (a, b)]
    left[0] = 2  # the second bucket's fails
    with pytest.raises(MemoryError):
        optimizer.step()
    for p, x in zip((a, b), before, strict=True):
        assert torch.equal(p, x)
    left[0] = 100
    optimizer.step()
    assert a[0, 0] == before[0][0, 0] - 2.0


def test_a_matrix_function_gives_a_stack_of_the_same_shape() -> None:
    @rule(name="test_first_of_stack")
    def first(g):
        return matrix(_first, g)

    p = [weight(2, 2), weight(2, 2)]
    for x in p:
        x.grad = torch.ones_like(x)
    with pytest.raises(StepError, match="gives None"):
        thalweg.Optimizer(p, rule=first).step()
    assert p[0][0, 0] == 1.0

    @rule(name="test_anew")
    def anew(g):
        return matrix(lambda x: x, g)

    with pytest.raises(TraceError, match="made anew"):
        thalweg.Optimizer(p, rule=anew)


def _first(x):
    return None


@pytest.mark.parametrize("style", ["direction", "independent"])
def test_prodigy_refuses_what_does_not_follow_its_rate(style) -> None:
    with pytest.raises(ArgumentError, match="rate that Prodigy finds"):
        thalweg.Prodigy([weight(2)], weight_decay=0.1, options=[o.Decay(style)])
    with pytest.raises(ArgumentError, match="does not go with the option trust_ratio"):
        thalweg.Prodigy([weight(2)], options=[o.TrustRatio()])


def test_numbers_that_a_number_of_all_groups_follows_from_are_alike() -> None:
    with pytest.raises(ArgumentError, match="d_coef must be alike in all of them"):
        thalweg.Prodigy([{"params": [weight(2)]}, {"params": [weight(2)], "d_coef": 3.0}])
    thalweg.Prodigy([{"params": [weight(2)]}, {"params": [weight(2)], "lr": 0.5}])


def test_prodigys_beta3_follows_beta2() -> None:
    paths = []
    for arguments in ({"beta3": None}, {"beta3": 0.81**0.5}):
        p = weight(3)
        optimizer = thalweg.Prodigy([{"params": [p], "betas": (0.9, 0.81), **arguments}], d0=1e-2)
        for step in range(6):
            p.grad = p.detach() - 3.0 - 0.1 * step
            optimizer.step()
        paths.append(p.detach())
    torch.testing.assert_close(*paths)


@pytest.mark.parametrize("make", [thalweg.SGD, thalweg.SGDScheduleFree])
def test_a_parameter_that_stands_twice_keeps_its_weights(make) -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    options = [] if make is thalweg.SGDScheduleFree else [o.Average(0.9)]
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = make([p, p], lr=0.1, options=options)
    for _ in range(3):
        p.grad = torch.ones(2)
        optimizer.step()
    before = p.detach().clone()
    with optimizer.averaged():
        pass
    assert torch.equal(p, before)


@pytest.mark.parametrize("option", [o.ScheduleFree(), o.Lookahead(k=1), None])
def test_differentiable_steps_see_what_slots_began_as(option) -> None:
    def walked(start):
        p = start * 1.0
        optimizer = thalweg.SGD([p], lr=0.1, differentiable=True, options=[option] * bool(option))
        for _ in range(2):
            p.grad = start * start * 0.3
            optimizer.step()
        return p.sum()

    start = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(walked, (start,))


def test_autograd_does_not_go_through_matrices_and_says_so() -> None:
    with pytest.raises(BackendError, match="functions of whole matrices"):
        thalweg.Muon([weight(2, 2)], differentiable=True)


def test_a_step_that_fails_leaves_the_versions() -> None:
    p = weight(3)
    optimizer = thalweg.AdamW([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    loss = (p * p).sum()
    optimizer.param_groups[0]["lr"] = "x"
    with pytest.raises(StepError):
        optimizer.step()
    loss.backward()


def test_removed_parameters_are_let_go() -> None:
    p = [weight(4) for _ in range(5)]
    optimizer = thalweg.AdamW(p, lr=0.1)
    watched = [weakref.ref(x) for x in p[2:]]
    while len(p) > 2:
        for x in p:
            x.grad = torch.ones(4)
        optimizer.step()
        gone = p.pop()
        optimizer.param_groups[0]["params"].pop()
        del optimizer.state[gone], gone
    for x in p:
        x.grad = torch.ones(4)
    optimizer.step()
    del x
    gc.collect()
    assert [r() for r in watched] == [None] * 3


def test_muon_adamw_keeps_its_numbers_and_adds_all_or_nothing() -> None:
    matrix_, vector = weight(4, 3), weight(3)
    optimizer = copy.deepcopy(thalweg.MuonAdamW([matrix_], betas=(0.5, 0.6), adamw_eps=1e-3))
    optimizer.add_param_group({"params": [vector]})
    assert (optimizer.param_groups[1]["betas"], optimizer.param_groups[1]["eps"]) == (
        (0.5, 0.6),
        1e-3,
    )
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [weight(2, 2), vector]})
    assert len(optimizer.param_groups) == 2
    group = {"params": [vector], "adamw_eps": 1e-2, "use_muon": False}
    assert thalweg.MuonAdamW([group]).param_groups[0]["eps"] == 1e-2


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (
            lambda p: thalweg.MuonAdamW([p], betas=(2.0, 3.0)),
            ValueError,
            "beta parameter at index 0",
        ),
        (lambda p: thalweg.MuonAdamW([p], adamw_eps=-1.0), ValueError, "Invalid epsilon value"),
        (lambda p: thalweg.MuonAdamW([{"params": [p], "use_moun": 1}]), TypeError, "'use_muon'"),
        (lambda p: thalweg.MuonAdamW([{"params": {p}}]), TypeError, "sets"),
        (lambda p: thalweg.MuonAdamW([{"params": ["x"]}]), TypeError, "can only optimize Tensors"),
    ],
)
def test_muon_adamw_refuses_nonsense(broken, error, says) -> None:
    with pytest.raises(error, match=says):
        broken(weight(4, 3))


def test_lists_are_as_good_as_tuples() -> None:
    p = weight(4, 3)
    p.grad = torch.randn(4, 3)
    thalweg.Muon([p], ns_coefficients=[3.4, -4.7, 2.0]).step()


def test_names_in_the_state_do_not_collide() -> None:
    @rule(name="test_collides", slots=(Slot("average_ema"),))
    def collides(g, average_ema):
        return g, average_ema + g

    with pytest.raises(ArgumentError, match="'average_ema'"):
        thalweg.Optimizer([weight(2)], rule=collides, options=[o.Average()])


def test_lr_scale_names_a_scalar() -> None:
    with pytest.raises(DeclarationError, match="no declared scalar"):

        @rule(name="test_lr_scale", scalars=(Scalar("d", 0.5, scope="group"),), lr_scale="dd")
        def scaled(g, *, d):
            return g, d

    @rule(
        name="test_lr_scale_right",
        scalars=(Scalar("d", "half", scope="group"),),
        hypers=(Hyper("half", 0.5),),
        lr_scale="d",
    )
    def right(g, *, d):
        return g, d

    p = weight(2)
    p.grad = torch.ones(2)
    thalweg.Optimizer([p], rule=right, lr=1.0).step()
    assert p.tolist() == [0.5, 0.5]


def test_a_closure_is_not_run_for_a_step_that_is_refused() -> None:
    p = weight(2)
    optimizer = thalweg.SGDScheduleFree([p])
    p.grad = torch.ones(2)
    optimizer.step()
    optimizer.eval()
    calls = []
    with pytest.raises(StepError, match="call train"):
        optimizer.step(lambda: calls.append(1))
    assert calls == []


def test_a_checkpoint_taken_in_eval_does_not_stop_one_without_averages() -> None:
    p = weight(2)
    first = thalweg.AdamW([p], options=[o.Average(0.9)])
    p.grad = torch.ones(2)
    first.step()
    first.eval()
    second = thalweg.AdamW([p])
    second.load_state_dict(first.state_dict(), strict=False)
    second.step()
