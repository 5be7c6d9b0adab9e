"""Functions of whole matrices: Muon against torch's, stacks, options around them, and what is refused."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import thalweg
from cases import BACKENDS, OPTIONS, assert_same_bits, everything
from oracles.muon import newton_schulz as reference
from thalweg import ops, rule
from thalweg.errors import StepError
from thalweg.ops import matrix
from thalweg.optim.muon import COEFFICIENTS, LARGE, newton_schulz

SHAPES = ((48, 16), (16, 48), (48, 16), (32, 32), (5, 7), (48, 16))


def weights(shapes=SHAPES, seed=0, dtype=torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def walk(optimizer, params, steps=4, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def change(params, before) -> float:
    return max(float((p - b).detach().abs().max()) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
        {"ns_coefficients": (3.0, -3.2, 1.2), "eps": 1e-3},
    ],
)
def test_muon_is_torchs(backend, kwargs) -> None:
    p, q = weights(), weights()
    before = copy.deepcopy(p)
    ours, theirs = (
        thalweg.Muon(p, lr=0.02, **kwargs, **BACKENDS[backend]),
        torch.optim.Muon(q, lr=0.02, **kwargs),
    )
    walk(ours, p)
    walk(theirs, q)
    # What is rounded to bfloat16 on the way may round to the neighbour: 2^-8 of a step of about lr.
    far = max(float((a - b).detach().abs().max()) for a, b in zip(p, q, strict=True))
    assert far < 0.02 * change(p, before)


def test_muon_loads_torchs_checkpoint_and_torch_loads_ours() -> None:
    p, q = weights(), weights()
    ours, theirs = thalweg.Muon(p, lr=0.02), torch.optim.Muon(q, lr=0.02)
    walk(ours, p)
    walk(theirs, q)
    thalweg.Muon(p, lr=0.02).load_state_dict(theirs.state_dict())
    torch.optim.Muon(q, lr=0.02).load_state_dict(ours.state_dict())


def test_stacks_change_no_bit() -> None:
    """A matrix is orthogonalized alike, alone or beside others of its shape."""
    together, alone = weights(((40, 24),) * 4), weights(((40, 24),) * 4)
    ours = thalweg.Muon(together, lr=0.02)
    each = [thalweg.Muon([p], lr=0.02) for p in alone]
    for step in range(3):
        for i, (p, q) in enumerate(zip(together, alone, strict=True)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i))
            q.grad = p.grad.clone()
        ours.step()
        for o in each:
            o.step()
    assert_same_bits(together, alone)


def test_large_matrices_of_a_stack_are_each_their_own() -> None:
    """From 512 rows and columns on they are iterated one by one: a stack of several, of other values."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, LARGE, LARGE, generator=generator)
    stack[2] *= 1e-3
    numbers = {"coefficients": COEFFICIENTS, "steps": 2, "eps": 1e-7}
    together = newton_schulz(stack, **numbers)
    assert_same_bits(together, torch.cat([newton_schulz(x[None], **numbers) for x in stack]))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float((together[i] - together[j]).abs().max()) > 0.01
    for x, u in zip(stack.double().numpy(), together.double().numpy(), strict=True):
        wanted = reference(x, **numbers)
        assert np.abs(u - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("option", [*OPTIONS, None])
def test_options_around_it_and_backends_agree(option) -> None:
    results = []
    for backend in ("eager", "fused"):
        p = weights(((48, 16), (16, 48), (4, 3, 3, 3)))
        options = [OPTIONS[option]()] if option else []
        optimizer = thalweg.MuonAdamW(p, lr=0.02, options=options, **BACKENDS[backend])
        walk(optimizer, p, 5)
        results.append(everything(optimizer))
    assert_same_bits(*results)


def test_a_channels_last_convolution_is_the_same_matrix() -> None:
    p = weights(((8, 4, 3, 3),))
    q = [torch.nn.Parameter(p[0].detach().clone().to(memory_format=torch.channels_last))]
    a, b = thalweg.MuonAdamW(p, lr=0.02), thalweg.MuonAdamW(q, lr=0.02)
    walk(a, p)
    walk(b, q)
    torch.testing.assert_close(p[0], q[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_other_layouts_run_the_reference(layout) -> None:
    base = torch.randn(16, 24)
    p = torch.nn.Parameter(base.t() if layout == "transposed" else torch.randn(24, 32)[:, ::2])
    q = torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
    a, b = thalweg.Muon([p], lr=0.02), thalweg.Muon([q], lr=0.02)
    walk(a, [p])
    walk(b, [q])
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=2e-3)


def test_muon_adamw_is_muon_and_adamw() -> None:
    shapes = ((32, 16), (16,), (16, 16), ())
    p, q = weights(shapes), weights(shapes)
    both = thalweg.MuonAdamW(p, lr=0.02, weight_decay=0.05, betas=(0.8, 0.9), adamw_eps=1e-6)
    muon = thalweg.Muon([q[0], q[2]], lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = thalweg.AdamW([q[1], q[3]], lr=0.02, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-6)
    for step in range(4):
        for i, (a, b) in enumerate(zip(p, q, strict=True)):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * step + i))
            b.grad = a.grad.clone()
        both.step()
        muon.step()
        adamw.step()
    assert_same_bits(p, q)


def test_a_group_says_which_it_is() -> None:
    p = weights(((32, 16), (16, 4), (8,)))
    optimizer = thalweg.MuonAdamW(
        [
            {"params": [("head", p[0])], "use_muon": False, "lr": 0.5},
            {"params": [("hidden", p[1]), ("bias", p[2])]},
        ],
        lr=0.02, betas=(0.7, 0.9),
    )  # fmt: skip
    found = [(g["rule"], g["param_names"], g["lr"], g.get("betas")) for g in optimizer.param_groups]
    assert found == [
        ("adam", ["head"], 0.5, (0.7, 0.9)),
        ("muon", ["hidden"], 0.02, (0.7, 0.9)),
        ("adam", ["bias"], 0.02, (0.7, 0.9)),
    ]
    with pytest.raises(ValueError, match="use_muon=True"):
        thalweg.MuonAdamW([{"params": [p[2]], "use_muon": True}])


def test_a_copy_gives_late_groups_the_same_numbers() -> None:
    p = weights(((32, 16), (16,)))
    optimizer = copy.deepcopy(thalweg.MuonAdamW(p, lr=0.02, betas=(0.7, 0.9), adamw_eps=1e-5))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert optimizer.param_groups[-1]["betas"] == (0.7, 0.9)
    assert optimizer.param_groups[-1]["eps"] == 1e-5


def test_it_resumes_to_the_bit() -> None:
    shapes = ((48, 16), (16, 48), (7,))
    p = weights(shapes)
    optimizer = thalweg.MuonAdamW(p, lr=0.02)
    walk(optimizer, p, 6)
    q = weights(shapes)
    first = thalweg.MuonAdamW(q, lr=0.02)
    walk(first, q, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = thalweg.MuonAdamW(q, lr=0.02)
    second.load_state_dict(torch.load(file, weights_only=True))
    walk(second, q, 3, start=3)
    assert_same_bits(everything(optimizer), everything(second))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"weight_decay": -1.0}, "weight decay should be >= 0 but is: -1.0"),
        ({"momentum": -1.0}, "momentum should be >= 0 but is: -1.0"),
        ({"adjust_lr_fn": "arbitrary"}, "Adjust learning rate function arbitrary is not supported"),
        ({"ns_steps": 100}, "Number of steps must be less than 100 for computational efficiency"),
        ({"ns_coefficients": (1.0, 2.0)}, "Coefficients must be a tuple of exactly 3 values"),
    ],
)
def test_torchs_sentences(arguments, sentence) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(")):
        thalweg.Muon(weights(), **arguments)


def test_muon_refuses_what_is_no_matrix() -> None:
    sentence = (
        r"^Muon only supports 2D parameters whereas we found a parameter with size: torch.Size"
    )
    with pytest.raises(ValueError, match=sentence):
        thalweg.Muon(weights(((4, 4), (3,))))
    z = torch.nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    says = "^Muon does not support complex parameters: parameter 0 of group 0 is complex"
    with pytest.raises(StepError, match=says):
        thalweg.Muon([z]).step()
    vector = torch.nn.Parameter(torch.ones(3))
    vector.grad = torch.ones(3)
    with pytest.raises(StepError, match="works on matrices"):
        thalweg.Optimizer([vector], rule="muon").step()


def halved(stack, *, by):
    return stack / by


def test_a_rule_of_ones_own_with_reductions_around_the_matrix() -> None:
    """What the function gives can be reduced again, and a function can follow a function."""

    @rule(name="test_matrix_twice")
    def twice(g):
        half = matrix(halved, g * 2.0, by=4.0)
        return matrix(halved, half / ops.norm(half), by=2.0, dtype=torch.float64)

    for options in BACKENDS.values():
        p = torch.nn.Parameter(torch.zeros(3, 4))
        p.grad = torch.arange(12.0).view(3, 4)
        thalweg.Optimizer([p], lr=1.0, rule=twice, **options).step()
        torch.testing.assert_close(p, -p.grad / p.grad.norm() / 2.0)
    g = torch.arange(12.0).view(3, 4)
    torch.testing.assert_close(twice(g), (g / g.norm() / 2.0))
