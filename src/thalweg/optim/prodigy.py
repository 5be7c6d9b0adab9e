"""Prodigy: Adam that finds its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import abs, lerp, maximum, minimum, sqrt, sum, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Scalar, Slot, Switch, rule
from thalweg.optim.numbers import BETAS, EPS, MOMENTS


def _check(group: Mapping[str, Any]) -> str | None:
    style = group.get("decay_style")
    if group["weight_decay"] and style in ("direction", "independent"):
        return (
            f"Decay({style!r}) does not follow the rate that Prodigy finds; use 'decoupled' or 'l2'"
        )
    return None


@rule(
    slots=(*MOMENTS, Slot("s"), Slot("p0", init="param")),
    scalars=(
        Scalar("d", "d0", scope="optimizer"),
        Scalar("d_max", "d0", scope="optimizer"),
        Scalar("d_numerator", 0.0, scope="optimizer"),
    ),
    hypers=(
        *BETAS,
        Hyper("beta3", None, low=0.0, high=1.0, none=lambda _: 0.0),
        EPS,
        Hyper("d0", 1e-6, above=0.0),
        Hyper("d_coef", 1.0, above=0.0),
        Hyper("growth_rate", math.inf, low=1.0, high=math.inf, closed=True),
    ),
    switches=(
        Switch("use_bias_correction"),
        Switch("safeguard_warmup"),
        Switch("has_beta3", read=lambda group: group["beta3"] is not None),
    ),
    paper="Mishchenko and Defazio 2023, arXiv:2306.06101, Algorithm 4",
    refuses_sparse="Prodigy does not support sparse gradients",
    advice="lr stays 1 and a schedule only lowers it, as the rate is found; weight_decay as for AdamW: "
    "Mishchenko and Defazio 2023, arXiv:2306.06101",
    lr_scale="d",
    check=_check,
    refuses={"trust_ratio": "the ratio would replace the rate that the rule finds"},
)
def prodigy(
    g,
    exp_avg,
    exp_avg_sq,
    s,
    p0,
    *,
    p,
    lr,
    t,
    d,
    d_max,
    d_numerator,
    beta1,
    beta2,
    beta3,
    eps,
    d0,
    d_coef,
    growth_rate,
    use_bias_correction,
    safeguard_warmup,
    has_beta3,
):
    """Adam with d times lr, and d from how far the weights came along the gradients."""
    correction = sqrt(1.0 - beta2**t) / (1.0 - beta1**t) if use_bias_correction else 1.0
    beta3 = beta3 if has_beta3 else sqrt(beta2)
    rate = d * lr * correction
    exp_avg = lerp(exp_avg, d * g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, d * d * (g * g), 1.0 - beta2)
    s = beta3 * s + (d / d0) * (d if safeguard_warmup else rate) * g
    moved = sum((d / d0) * rate * (g * (p0 - p)), over="all")
    d_numerator = beta3 * d_numerator + moved
    total = sum(abs(s), over="all")
    estimate = where(total > 0.0, d_coef * d_numerator / total, d)
    best = maximum(d_max, estimate)
    start = where(d == d0, maximum(d, estimate), d)
    d_next = where(total > 0.0, minimum(best, start * growth_rate), d)
    step = rate * (exp_avg / (sqrt(exp_avg_sq) + d * eps))
    return step, exp_avg, exp_avg_sq, s, p0, d_next, best, d_numerator


class Prodigy(Optimizer):
    """Adam whose learning rate is found on the way: `lr` stays 1, and d grows to the distance to travel.

    The gradients' agreement with the way that the weights have come bounds the distance to the solution
    from below; the bound, d, multiplies lr. It never shrinks. Use it with a schedule that ends low (cosine),
    and `safeguard_warmup=True` if there is a warm-up. Costs four numbers a weight.

    Formula:
        rate = d * lr
        m = beta1 m + (1 - beta1) d g;   v = beta2 v + (1 - beta2) d^2 g^2
        r = beta3 r + (d / d0) rate <g, p0 - p>;   s = beta3 s + (d / d0) rate g      (over all tensors)
        p = p - rate * m / (sqrt(v) + d * eps)
        d = max(d, d_coef * r / |s|_1), at most growth_rate * d

    Args:
        params: Parameters, named parameters, or groups.
        lr: Multiplies d, >= 0; leave it 1 and let schedules scale it.
        betas: Decay rates of the two means, each in [0, 1).
        beta3: Decay rate of r and s, in [0, 1); the root of betas[1] if None.
        eps: Added to the root, times d; >= 0.
        weight_decay: >= 0; multiplied by d * lr where it is decoupled.
        decouple: Decay beside the step, as AdamW; else an L2 penalty.
        use_bias_correction: Adam's correction of the first steps.
        safeguard_warmup: Leave lr out of s, so that a warm-up does not blow up d.
        d0: The first d, > 0.
        d_coef: Multiplies the estimate, > 0: 0.5 or 2 where d comes out too large or small.
        growth_rate: How much d may grow in a step, >= 1.
        foreach, maximize, capturable, differentiable, fused: As in torch.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Mishchenko and Defazio 2023, arXiv:2306.06101, Algorithm 4.

    Differs:
        From the authors' code, as in the paper: eps is multiplied by the d of this step, not the next. Bias
        correction scales the step, not the decay; steps are counted per parameter. `fsdp_in_use` and
        `slice_p` do not exist here.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Prodigy([w])
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     (w**2).sum().backward()
        ...     optimizer.step()
        >>> optimizer.param_groups[0]["d"] > 1e-3
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        **flags: Unpack[Flags],
    ) -> None:
        numbers = passed(locals(), "decouple", rule=prodigy)
        super().__init__(**numbers, decoupled_weight_decay=decouple)
