"""What a seeded wrong edit once slipped past (docs/mutants.md): a test for each, red under that edit."""

from __future__ import annotations

import pytest
import torch

import thalweg
from cases import BACKENDS
from thalweg import Optimizer, Scalar, Slot, rule
from thalweg.ops import mean, sum, where
from thalweg.options import Average, Cautious, ClipNorm, Lookahead, StateDtype


@rule(scalars=(Scalar("total", wide=True),), name="test_total")
def total_rule(g, *, total):
    return g, sum(g, over="all") + 0.0 * total


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sum_over_all_goes_in_the_order_of_the_parameters(backend: str) -> None:
    """Not of the buckets, in which float64 and float32 stand apart: 2^53 + 1 is 2^53, 2^53 + 2 is not."""
    dtypes = [torch.float64, torch.float32] * 2
    params = [torch.nn.Parameter(torch.zeros(1, dtype=dtype)) for dtype in dtypes]
    optimizer = Optimizer(params, lr=0.0, rule=total_rule, **BACKENDS[backend])
    for numbers, expected in (
        ((2.0**53, 1.0, 0.0, 1.0), 2.0**53),
        ((1.0, 2.0**53, 1.0, 0.0), 2.0**53),
        ((1.0, 1.0, 2.0**53, 0.0), 2.0**53 + 2),
    ):
        for p, number in zip(params, numbers, strict=True):
            p.grad = torch.full_like(p, number)
        optimizer.step()
        assert [float(optimizer.state[p]["total"]) for p in params] == [expected] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_may_change_after_many_steps_alike(backend: str) -> None:
    """Right after a change tables are new anyway; here they have held for some steps."""
    found = []
    for cls, flags in ((thalweg.SGD, BACKENDS[backend]), (torch.optim.SGD, {"foreach": False})):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = cls([p], lr=0.1, **flags)
        for change in ({}, {"maximize": True}, {"weight_decay": 0.5}, {"maximize": False}):
            optimizer.param_groups[0].update(change)
            for step in range(3):
                p.grad = torch.full_like(p, 1.0 + step)
                optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sides_of_a_denied_condition(backend: str) -> None:
    @rule(name="test_denied")
    def denied(g, *, t):
        return where(~(g > 0.0), 3.0 * g, g) + where(~(t > 1.0), 10.0, 20.0)

    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([p], lr=1.0, rule=denied, **BACKENDS[backend])
    p.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert p.tolist() == [-11.0, -7.0]
    optimizer.step()
    assert p.tolist() == [-32.0, -24.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sum_of_sums_that_only_a_number_needs_is_made(backend: str) -> None:
    @rule(scalars=(Scalar("spread", wide=True),), name="test_spread")
    def spread_rule(g, *, spread):
        return g, sum((g - mean(g)) ** 2) + 0.0 * spread

    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = Optimizer([p], lr=1.0, rule=spread_rule, **BACKENDS[backend])
    p.grad = torch.tensor([1.0, 3.0, 1.0, 3.0])
    optimizer.step()
    assert float(optimizer.state[p]["spread"]) == 4.0
    assert p.tolist() == [-1.0, -3.0, -1.0, -3.0]


def walk(optimizer_class, params, each, **arguments) -> list[torch.Tensor]:
    """Steps with gradients that come and go; `each(optimizer, params, step)` meddles before each."""
    generator = torch.Generator().manual_seed(7)
    optimizer = optimizer_class(params, lr=0.1, **arguments)
    for step in range(6):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        each(optimizer, params, step)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_put_there_by_hand_may_lie_otherwise_than_their_parameter(backend: str) -> None:
    def replace(optimizer, params, step) -> None:
        if step == 3:
            for p in params:
                for key in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[p][key] = optimizer.state[p][key].contiguous()

    found = []
    for cls, flags in ((thalweg.AdamW, BACKENDS[backend]), (torch.optim.AdamW, {"foreach": False})):
        weight = torch.linspace(-1.0, 1.0, 120).view(2, 3, 4, 5)
        params = [torch.nn.Parameter(weight.to(memory_format=torch.channels_last))]
        found.append(walk(cls, params, replace, **flags))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_in_another_order_keeps_each_ones_count(backend: str) -> None:
    def meddle(optimizer, params, step) -> None:
        if step in (1, 2):
            params[0].grad = None
        if step == 4:
            optimizer.param_groups[0]["params"].reverse()

    found = []
    for cls, flags in ((thalweg.AdamW, BACKENDS[backend]), (torch.optim.AdamW, {"foreach": False})):
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
        found.append(walk(cls, list(params), meddle, **flags))
    torch.testing.assert_close(*found)


def test_a_checkpoint_of_the_same_options_in_another_order_loads() -> None:
    found = []
    for order in (1, -1):
        p = torch.nn.Parameter(torch.ones(3))
        options = [Average(0.5), Lookahead(k=2)][::order]
        optimizer = thalweg.AdamW([p], lr=0.1, options=options)
        p.grad = torch.ones(3)
        optimizer.step()
        if found:
            optimizer.load_state_dict(found[0].state_dict())
        found.append(optimizer)
    first, second = (next(iter(o.state.values())) for o in found)
    assert sorted(first) == sorted(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_schedule_free_evaluates_before_the_first_step_and_beside_idle_weights() -> None:
    params = [torch.nn.Parameter(torch.full((2,), x)) for x in (1.0, 2.0)]
    optimizer = thalweg.SGDScheduleFree(params, lr=0.5)
    with optimizer.averaged():
        assert [p.tolist() for p in params] == [[1.0, 1.0], [2.0, 2.0]]
    params[0].grad = torch.ones(2)
    optimizer.step()
    with optimizer.averaged():
        assert params[0].tolist() == [0.5, 0.5]  # the first average is the first fast weights
        assert params[1].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_of_any_bits_stays_one_in_bfloat16(backend: str) -> None:
    """Rounding adds to the bits: 0x7FFFFFFF, which is a NaN too, would become minus zero."""
    p = torch.nn.Parameter(torch.zeros(4))
    bits = [0x7FC00000, 0x7FFFFFFF, -1, 0x7F800001]
    p.grad = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    options = [StateDtype(torch.bfloat16)]
    optimizer = thalweg.SGD([p], lr=1.0, momentum=0.5, options=options, **BACKENDS[backend])
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.bfloat16
    assert optimizer.state[p]["momentum_buffer"].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_slots_may_change_places(backend: str) -> None:
    @rule(slots=(Slot("one", init=1.0), Slot("two", init=2.0)), name="test_swap")
    def swap(g, one, two):
        return g, two, one

    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = Optimizer([p], lr=1.0, rule=swap, **BACKENDS[backend])
    for one, two in ((2.0, 1.0), (1.0, 2.0)):
        p.grad = torch.ones(3)
        optimizer.step()
        assert optimizer.state[p]["one"].tolist() == [one] * 3
        assert optimizer.state[p]["two"].tolist() == [two] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_below_the_norm_are_not_scaled_up(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = thalweg.SGD(params, lr=1.0, options=[ClipNorm(4.0)], **BACKENDS[backend])
    for p in params:
        p.grad = torch.ones(2)  # a norm of 2
    optimizer.step()
    assert [p.tolist() for p in params] == [[-1.0, -1.0]] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_cautious_sees_agreement_where_a_product_would_underflow(backend: str) -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    options = [Cautious(rescale=False)]
    optimizer = thalweg.SGD([p], lr=1.0, options=options, **BACKENDS[backend])
    p.grad = torch.tensor([1e-30, -1e-30])
    optimizer.step()
    assert torch.equal(p.detach(), -p.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_schedule_free_weighs_by_the_largest_lr_so_far(backend: str) -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = thalweg.SGDScheduleFree([p], lr=1.0, **BACKENDS[backend])
    for lr in (1.0, 0.5):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.ones(2)
        optimizer.step()
    with optimizer.averaged():  # z = -1, -1.5, which count alike
        torch.testing.assert_close(p.detach(), torch.full((2,), -1.25))
