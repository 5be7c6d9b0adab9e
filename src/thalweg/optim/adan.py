"""Adan."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, sqrt, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Slot, rule
from thalweg.optim.numbers import EPS, SQUARE, betas
from thalweg.options import ClipNorm, Decay


@rule(
    slots=(Slot("exp_avg"), Slot("exp_avg_diff"), SQUARE, Slot("pre_grad")),
    hypers=(*betas(0.98, 0.92, 0.99), EPS),
    paper="Xie, Zhou, Li, Lin, Yan 2022, arXiv:2208.06677, Algorithm 1",
    advice="lr 5 to 10 times AdamW's, weight_decay=0.02: Xie et al. 2022, arXiv:2208.06677, and "
    "github.com/sail-sg/Adan",
    decay="proximal",
)
def adan(g, exp_avg, exp_avg_diff, exp_avg_sq, pre_grad, *, beta1, beta2, beta3, eps, t, first):
    """Means of the gradient and of its change, over the root of the mean square of both together."""
    change = where(first, 0.0, g - pre_grad)
    ahead = g + beta2 * change
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_diff = lerp(exp_avg_diff, change, 1.0 - beta2)
    exp_avg_sq = lerp(exp_avg_sq, ahead * ahead, 1.0 - beta3)
    u = exp_avg / (1.0 - beta1**t) + exp_avg_diff * (beta2 / (1.0 - beta2**t))
    return u / (sqrt(exp_avg_sq / (1.0 - beta3**t)) + eps), exp_avg, exp_avg_diff, exp_avg_sq, g


class Adan(Optimizer):
    """Adan: Nesterov momentum for Adam, from the running mean of the gradient's change; four slots.

    It takes larger learning rates than AdamW (the authors: 5 to 10 times) and fewer epochs, at twice
    AdamW's state. The betas are shares that are kept, as in the authors' code, and not the paper's.

    Formula:
        d = g - g of the last step, at first 0
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * d
        n = beta3 * n + (1 - beta3) * (g + beta2 * d)^2
        u = (m / (1 - beta1^t) + beta2 * v / (1 - beta2^t)) / (sqrt(n / (1 - beta3^t)) + eps)
        p = (p - lr * u) / (1 + lr * weight_decay)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Shares of the three means that are kept, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, proximal (after the step) unless `no_prox` or a Decay option says otherwise.
        max_grad_norm: Clip the joint norm of all gradients to this, > 0; 0 does not clip. The same as
            the option ClipNorm.
        no_prox: Decay as AdamW does. The same as the option Decay("decoupled").
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Xie, Zhou, Li, Lin, Yan 2022, arXiv:2208.06677, Algorithm 1.

    Differs:
        As the authors' code: betas are 1 - the paper's, the means begin at zero and are bias-corrected,
        where the paper begins them with the first gradients. ClipNorm adds 1e-6 to the norm, not eps.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Adan([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    numbers = (Hyper("max_grad_norm", 0.0, low=0.0, high=math.inf, closed=True),)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        given = passed(locals(), "max_grad_norm", "no_prox", rule=adan)
        chosen = [*flags.get("options", ())]
        if no_prox:
            chosen.append(Decay("decoupled"))
        if max_grad_norm != 0:
            chosen.append(ClipNorm(max_grad_norm))
        super().__init__(**given | {"options": chosen})
