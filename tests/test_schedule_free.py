"""Schedule-free: the paper's numbers, eval() and train(), and checkpoints that hold the right weights."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import thalweg
from cases import BACKENDS, assert_same_bits, everything
from thalweg import options as o
from thalweg.errors import ArgumentError, StepError


class Oracle:
    """Defazio et al. 2024, one tensor, in float64: z, x and y apart, as the paper writes them."""

    def __init__(self, y, kind, lr, beta, beta2, eps, decay, warmup, r, power, silent=True):
        self.z = self.x = np.array(y, dtype=np.float64)
        self.y, self.v = self.z.copy(), np.zeros_like(self.z)
        self.kind, self.lr, self.beta, self.beta2, self.eps = kind, lr, beta, beta2, eps
        self.silent = silent
        self.decay, self.warmup, self.r, self.power = decay, warmup, r, power
        self.t, self.total, self.largest = 0, 0.0, 0.0

    def step(self, g):
        self.t += 1
        t, b = self.t, self.beta2
        lr = self.lr * (min(1.0, t / self.warmup) if self.warmup else 1.0)
        u = np.asarray(g, dtype=np.float64)
        if self.kind != "SGD":
            self.v = b * self.v + (1 - b) * u * u
            adapted = u / (np.sqrt(self.v / (1 - b**t)) + self.eps)
        if self.kind == "AdamW":
            u = adapted
        if self.kind == "RAdam":
            inf = 2 / (1 - b) - 1
            rho = inf - 2 * t * b**t / (1 - b**t)
            if rho > 4:
                lr *= np.sqrt((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho))
                u = adapted
            else:
                lr = 0.0 if self.silent else lr
        self.z = self.z - lr * (u + self.decay * self.y)
        self.largest = max(self.largest, lr)
        weight = t**self.r * self.largest**self.power
        self.total += weight
        c = weight / self.total if self.total else 0.0
        self.x = (1 - c) * self.x + c * self.z
        self.y = self.beta * self.x + (1 - self.beta) * self.z


CASES = {
    "sgd": ("SGD", {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "warmup_steps": 5}, (0.8, 0.0)),
    "adamw": (
        "AdamW",
        {"lr": 0.01, "betas": (0.95, 0.99), "eps": 1e-6, "weight_decay": 0.1, "r": 1.0},
        (0.95, 0.99),
    ),
    "adamw weights": ("AdamW", {"lr": 0.02, "weight_lr_power": 1.0, "warmup_steps": 9}, (0.9, 0.999)),
    "radam": ("RAdam", {"lr": 0.02, "weight_decay": 0.01}, (0.9, 0.999)),
    "radam sgd first": (
        "RAdam",
        {"lr": 0.02, "weight_decay": 0.01, "silent_sgd_phase": False, "betas": (0.9, 0.99)},
        (0.9, 0.99),
    ),
}  # fmt: skip


def weights(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in ((6, 5), (40,))
    ]


def walk(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (p.detach() + noise).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_it_follows_the_paper(case, backend) -> None:
    kind, kwargs, (beta, beta2) = CASES[case]
    p = weights()
    ours = getattr(thalweg, f"{kind}ScheduleFree")(p, **kwargs, **BACKENDS[backend])
    oracles = [
        Oracle(
            x.detach().numpy(), kind, kwargs["lr"], beta, beta2, kwargs.get("eps", 1e-8),
            kwargs.get("weight_decay", 0.0), kwargs.get("warmup_steps", 0), kwargs.get("r", 0.0),
            kwargs.get("weight_lr_power", 2.0), kwargs.get("silent_sgd_phase", True),
        )
        for x in p
    ]  # fmt: skip
    for step in range(50):
        generator = torch.Generator().manual_seed(step)
        for x, oracle in zip(p, oracles, strict=True):
            x.grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            oracle.step(x.grad.numpy())
        ours.step()
    for x, oracle in zip(p, oracles, strict=True):
        torch.testing.assert_close(x.detach(), torch.from_numpy(oracle.y), rtol=1e-10, atol=1e-12)
    ours.eval()
    for x, oracle in zip(p, oracles, strict=True):
        torch.testing.assert_close(x.detach(), torch.from_numpy(oracle.x), rtol=1e-9, atol=1e-11)


def test_the_average_beats_the_fast_weights_on_noise() -> None:
    """Noise of the gradient averages out, without a schedule."""
    p = weights()
    optimizer = thalweg.SGDScheduleFree(p, lr=0.5)
    walk(optimizer, p, 300)
    fast = torch.cat([optimizer.state[x]["schedule_free_z"].flatten() for x in p]).norm()
    with optimizer.averaged():
        average = torch.cat([x.detach().flatten() for x in p]).norm()
    assert average < 0.5 * fast


def test_eval_and_train_lose_no_bit() -> None:
    p = weights(torch.float32)
    optimizer = thalweg.AdamWScheduleFree(p, lr=0.01)
    walk(optimizer, p, 4)
    before = [x.detach().clone() for x in p]
    addresses = [x.data_ptr() for x in p]
    optimizer.eval()
    optimizer.eval()  # once more is nothing
    assert any(not torch.equal(x, b) for x, b in zip(p, before, strict=True))
    assert [x.data_ptr() for x in p] == addresses
    with pytest.raises(StepError, match="call train"):
        optimizer.step()
    optimizer.train()
    optimizer.train()
    assert_same_bits(p, before)
    assert optimizer.param_groups[0]["train_mode"] is True
    walk(optimizer, p, 1, start=4)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: thalweg.AdamWScheduleFree(p, lr=0.01),
        lambda p: thalweg.AdamW(p, lr=0.01, options=[o.Average(0.9)]),
    ],
)
def test_a_checkpoint_taken_in_eval_goes_on_from_the_weights(make) -> None:
    p, q = weights(torch.float32), weights(torch.float32)
    unbroken, first = make(p), make(q)
    walk(unbroken, p, 8)
    walk(first, q, 4)
    first.eval()
    file = io.BytesIO()
    torch.save({"model": [x.detach() for x in q], "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    r = [torch.nn.Parameter(x.clone()) for x in saved["model"]]
    second = make(r)
    second.load_state_dict(saved["optimizer"])
    with pytest.raises(StepError, match="call train"):
        second.step()
    twin_r, twin = copy.deepcopy((r, second))
    for params, optimizer in ((r, second), (twin_r, twin)):
        optimizer.train()
        walk(optimizer, params, 4, start=4)
        assert_same_bits(everything(unbroken), everything(optimizer))


@pytest.mark.parametrize("rule", ["sgd", "lion", "adam", "radam", "prodigy"])
@pytest.mark.parametrize("others", [[], [o.ClipNorm(1.0), o.Cautious()], [o.SkipNonFinite()]])
def test_it_goes_around_any_rule_and_backends_agree(rule, others) -> None:
    results = []
    for backend in ("eager", "fused"):
        p = weights(torch.float32)
        optimizer = thalweg.Optimizer(
            p, lr=0.01, rule=rule, weight_decay=0.1, options=[o.ScheduleFree(), *others],
            **BACKENDS[backend],
        )  # fmt: skip
        walk(optimizer, p, 6)
        results.append(everything(optimizer))
    assert_same_bits(*results)


def test_what_does_not_go_together() -> None:
    for other in (o.Lookahead(), o.Average()):
        with pytest.raises(ArgumentError, match="exclude each other"):
            thalweg.AdamW(weights(), options=[o.ScheduleFree(), other])
    with pytest.raises(ArgumentError, match="ScheduleFree decays where gradients are taken"):
        thalweg.AdamW(
            weights(), weight_decay=0.1, options=[o.ScheduleFree(), o.Decay("independent")]
        )
    with pytest.raises(ValueError, match="ScheduleFree needs"):
        o.ScheduleFree(beta=0.0)
    optimizer = thalweg.AdamW(weights())
    optimizer.eval()  # without averages nothing happens
    walk(optimizer, optimizer.param_groups[0]["params"], 1)
