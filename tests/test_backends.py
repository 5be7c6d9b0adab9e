"""Every backend computes the lowered graph: C to the bit as eager, foreach to an ulp of a square root."""

from __future__ import annotations

import pytest
import torch

import thalweg
from cases import (
    BACKENDS,
    CONTIGUOUS,
    OPTIONS,
    REFUSED,
    RULES,
    assert_same_bits,
    everything,
    parameters,
    run,
)
from thalweg import Slot, rule
from thalweg.engine.backends import c_source
from thalweg.ops import maximum, where


def make(
    rule: str, names: tuple[str, ...], params: list[torch.nn.Parameter], **flags: object
) -> thalweg.Optimizer:
    cls, arguments = RULES[rule]
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "lr": arguments["lr"] / 2}]
    return cls(groups, **arguments, options=[OPTIONS[n]() for n in names], **flags)


def pair(
    rule: str, names: tuple[str, ...], dtype: torch.dtype, flags: dict[str, object], steps: int = 8
):
    found = []
    for chosen in (BACKENDS["eager"], flags):
        params = parameters(dtype)
        if rule in CONTIGUOUS:
            params.pop()  # the one that is channels_last
        optimizer = make(rule, names, params, **chosen)
        run(optimizer, params, steps)
        found.append(optimizer)
    return found


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("option", [None, *OPTIONS])
def test_c_gives_eagers_bits(rule: str, option: str | None, threads: int) -> None:
    if (rule, option) in REFUSED:
        pytest.skip("refused at construction")
    eager, fused = pair(rule, (option,) if option else (), torch.float32, BACKENDS["fused"])
    assert "fused" in fused.explain()
    assert "eager" not in fused.explain()
    assert_same_bits(everything(fused), everything(eager))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_c_gives_eagers_bits_in_other_dtypes(rule: str, dtype: torch.dtype) -> None:
    eager, fused = pair(rule, ("cautious", "average"), dtype, BACKENDS["fused"], steps=4)
    if (
        dtype == torch.float64
    ):  # torch's float64 square root and division are not promised to the bit
        for a, b in zip(everything(fused), everything(eager), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15, equal_nan=True)
    else:
        assert_same_bits(everything(fused), everything(eager))


@pytest.mark.parametrize("rule", RULES)
def test_foreach_agrees_with_eager(rule: str) -> None:
    eager, lists = pair(rule, ("clip-norm", "average"), torch.float32, BACKENDS["foreach"])
    assert "foreach" in lists.explain()
    for a, b in zip(everything(lists), everything(eager), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7, equal_nan=True)


@rule(slots=(Slot("last"), Slot("top")), name="backends_unread")
def unread(g, last, top, *, t):
    """One slot that is written without having been read, and one that is where a number says so."""
    return g, g * 2.0, where(t < 2.0, g, maximum(top, g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_written_past_the_caches_has_the_same_bits(dtype):
    """Large tensors, of whose slots some do not begin or end where what is written at once does."""
    sizes = [c_source.FAR - 1, c_source.FAR, c_source.FAR + 7]
    found = []
    for backend in ({"foreach": False, "fused": False}, {"fused": True}):
        generator = torch.Generator().manual_seed(3)
        made = [torch.randn(n, generator=generator).to(dtype) for n in sizes]
        ps = [torch.nn.Parameter(x) for x in made]
        optimizers = [
            thalweg.Optimizer(ps, lr=0.1, rule=unread, **backend),
            thalweg.ASGD(ps, lr=0.1, **backend),
        ]
        for _ in range(2):
            for p in ps:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            for optimizer in optimizers:
                optimizer.step()
        if backend["fused"] and dtype != torch.bfloat16:
            assert all("put_far" in o.explain(source=True) for o in optimizers)
        found.append([p.detach() for p in ps])
        found[-1] += [o.state[p][key] for o in optimizers for p in ps for key in o.state[p]]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
