"""What the tests run over: every rule in its variants, every option, and tensors of awkward sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import thalweg
from thalweg import options as o

Make = Callable[..., torch.optim.Optimizer]

RULES: dict[str, tuple[type[thalweg.Optimizer], dict[str, Any]]] = {
    "sgd": (thalweg.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "sgd-momentum": (
        thalweg.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01},
    ),
    "sgd-nesterov": (thalweg.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (thalweg.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adam-amsgrad": (thalweg.Adam, {"lr": 0.01, "amsgrad": True}),
    "adam-low-betas": (thalweg.Adam, {"lr": 0.01, "betas": (0.3, 0.0)}),
    "adamw": (thalweg.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "radam": (thalweg.RAdam, {"lr": 0.01, "weight_decay": 0.01}),
    "radam-decoupled": (
        thalweg.RAdam,
        {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True},
    ),
    "adagrad": (
        thalweg.Adagrad,
        {"lr": 0.01, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.01},
    ),
    "adadelta": (thalweg.Adadelta, {"lr": 0.5, "weight_decay": 0.01}),
    "rmsprop": (thalweg.RMSprop, {"lr": 0.01, "weight_decay": 0.01}),
    "rmsprop-centered": (
        thalweg.RMSprop,
        {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-2},
    ),
    "adamax": (thalweg.Adamax, {"lr": 0.01, "weight_decay": 0.01}),
    "nadam": (thalweg.NAdam, {"lr": 0.01, "weight_decay": 0.01}),
    "asgd": (thalweg.ASGD, {"lr": 0.01, "lambd": 0.1, "t0": 2, "weight_decay": 0.01}),
    "rprop": (thalweg.Rprop, {"lr": 0.01, "weight_decay": 0.01}),
    "lion": (thalweg.Lion, {"lr": 0.01, "weight_decay": 0.1}),
    "prodigy": (thalweg.Prodigy, {"lr": 1.0, "d0": 1e-3, "weight_decay": 0.1}),
    "adafactor": (thalweg.Adafactor, {"lr": 0.01, "weight_decay": 0.1}),
    "ranger": (thalweg.Ranger, {"lr": 0.01, "k": 3, "weight_decay": 0.1}),
    "signsgd": (thalweg.SignSGD, {"lr": 0.01, "weight_decay": 0.1}),
    "signum": (thalweg.Signum, {"lr": 0.01}),
    "adabound": (thalweg.AdaBound, {"lr": 0.01, "gamma": 0.1, "weight_decay": 0.01}),
    "amsbound": (thalweg.AMSBound, {"lr": 0.01}),
    "adan": (thalweg.Adan, {"lr": 0.01, "weight_decay": 0.1}),
    "adabelief": (thalweg.AdaBelief, {"lr": 0.01, "weight_decay": 0.1}),
    "adabelief-amsgrad": (thalweg.AdaBelief, {"lr": 0.01, "eps": 1e-8, "amsgrad": True}),
    "adopt": (thalweg.ADOPT, {"lr": 0.01, "weight_decay": 0.01}),
    "ademamix": (
        thalweg.AdEMAMix,
        {"lr": 0.01, "alpha_warmup": 4, "beta3_warmup": 6, "weight_decay": 0.1},
    ),
    "stableadamw": (thalweg.StableAdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "novograd": (thalweg.NovoGrad, {"lr": 0.01, "weight_decay": 0.1}),
    "novograd-averaging": (thalweg.NovoGrad, {"lr": 0.01, "grad_averaging": True}),
    "lars": (thalweg.LARS, {"lr": 1.0, "weight_decay": 0.01}),
    "lars-no-momentum": (thalweg.LARS, {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}),
    "lamb": (thalweg.LAMB, {"lr": 0.01, "weight_decay": 0.1}),
}

CONTIGUOUS = ("adafactor",)
"""Rules that sum over lines and columns: no kernel takes them where lines are no stretches of storage."""

REFUSED = {("prodigy", "independent"), ("prodigy", "direction"), ("prodigy", "trust-ratio")}
"""Rules and options that do not go together: they do not follow the rate that the rule finds."""

OPTIONS: dict[str, Callable[[], o.Option]] = {
    "l2": lambda: o.Decay("l2"),
    "decoupled": lambda: o.Decay("decoupled"),
    "independent": lambda: o.Decay("independent"),
    "direction": lambda: o.Decay("direction"),
    "proximal": lambda: o.Decay("proximal"),
    "cautious-decay": lambda: o.Decay("decoupled", cautious=True),
    "maximize": o.Maximize,
    "clip-value": lambda: o.ClipValue(0.5),
    "clip-norm": lambda: o.ClipNorm(0.7),
    "cautious": lambda: o.Cautious(),
    "cautious-plain": lambda: o.Cautious(rescale=False),
    "centralize": o.Centralize,
    "trust-ratio": o.TrustRatio,
    "lookahead": lambda: o.Lookahead(k=2, alpha=0.3),
    "average": lambda: o.Average(0.9),
    "skip": o.SkipNonFinite,
    "bf16-state": lambda: o.StateDtype(torch.bfloat16),
}

SHAPES: tuple[tuple[int, ...], ...] = (
    (0,),
    (1,),
    (7,),
    (1023,),
    (4097,),
    (33, 5),
    (3, 0, 2),
    (),
    (3, 5000),
    (2, 3, 4, 5),
)
BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def parameters(
    dtype: torch.dtype = torch.float32, shapes: Iterable[tuple[int, ...]] = SHAPES, seed: int = 0
) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in shapes
    ]
    made.append(
        torch.nn.Parameter(
            torch.randn(2, 3, 5, 7, generator=generator)
            .to(dtype)
            .to(memory_format=torch.channels_last)
        )
    )
    return made


def gradients(params: Iterable[Tensor], step: int) -> list[Tensor]:
    """Gradients of a step: of very different sizes, with exact zeros among them."""
    generator = torch.Generator().manual_seed(100 + step)
    found = []
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 10.0 ** (i % 4 - 2)
        g = torch.where(torch.rand(p.shape, generator=generator) < 0.1, 0.0, g)
        found.append(torch.empty_like(p, requires_grad=False).copy_(g))
    return found


def run(
    optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: int, start: int = 0
) -> None:
    for step in range(start, start + steps):
        for p, g in zip(params, gradients(params, step), strict=True):
            p.grad = g
        optimizer.step()


def differing(a: Tensor, b: Tensor) -> int:
    """How many elements differ in their bits; NaNs are alike."""
    return int(((a != b) & ~((a != a) & (b != b))).sum())


def assert_same_bits(ours: list[Any], theirs: list[Any]) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype
        assert differing(a.detach(), b.detach()) == 0, (
            f"tensor {i} of shape {tuple(a.shape)} differs"
        )


def everything(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters and state, in a fixed order."""
    params = [p for g in optimizer.param_groups for p in g["params"]]
    return [*params, *(x for p in params for _, x in sorted(optimizer.state.get(p, {}).items()))]
