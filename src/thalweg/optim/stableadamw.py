"""StableAdamW."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, maximum, mean, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, rule
from thalweg.optim.numbers import MOMENTS, betas, epsilon


@rule(
    slots=MOMENTS,
    hypers=(
        *betas(0.9, 0.99),
        epsilon(1e-8, above=0.0),
        Hyper("clip_thresh", 1.0, above=0.0, high=math.inf, closed=True),
    ),
    paper="Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi, Schmidt 2023, arXiv:2304.13013, Algorithm 2",
    advice="lr and weight_decay as for AdamW, without clipping the gradient's norm, whose place the clipped "
    "update takes: Wortsman et al. 2023, arXiv:2304.13013, section 3",
    decay="own",
)
def stableadamw(
    g, exp_avg, exp_avg_sq, *, p, beta1, beta2, eps, clip_thresh, weight_decay, decays, t
):
    """AdamW's update, made smaller where the mean square has not kept up with the gradients."""
    exp_avg = lerp(exp_avg, g, (1.0 - beta1) / (1.0 - beta1**t))
    exp_avg_sq = lerp(exp_avg_sq, g * g, (1.0 - beta2) / (1.0 - beta2**t))
    rms = sqrt(mean(g * g / maximum(exp_avg_sq, eps * eps)))
    u = exp_avg / (sqrt(exp_avg_sq) + eps)
    if decays:
        u = u + weight_decay * p
    return u / maximum(rms / clip_thresh, 1.0), exp_avg, exp_avg_sq


class StableAdamW(Optimizer):
    """AdamW that takes smaller steps where gradients outgrow their mean square, tensor by tensor.

    It stands in for clipping by norm: loss spikes come from a mean square that lags behind, and the root
    mean square of g^2 / v tells (1 where it has kept up). It takes a sum over each tensor first and so a
    second sweep over memory.

    Formula:
        m, v as Adam with beta(1 - beta^(t-1)) / (1 - beta^t) for each beta: corrected as they are kept
        r = max(1, sqrt(mean(g^2 / max(v, eps^2))) / clip_thresh), a number per tensor
        p = p - lr / r * (m / (sqrt(v) + eps) + weight_decay * p)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        weight_decay: >= 0, decoupled, with the reduced lr unless a Decay option says otherwise.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root, > 0.
        clip_thresh: Root mean square from which steps are reduced, > 0.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi, Schmidt 2023, arXiv:2304.13013, Algorithm 2.

    Differs:
        Decay with the reduced lr as in the paper; the authors' code has the full one, which is
        Decay("decoupled"). Their `precision` and `custom_scalar` are GradScaler's work.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.StableAdamW([w], lr=0.1, weight_decay=0.0)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        weight_decay: float = 0.2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        clip_thresh: float = 1.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=stableadamw))
