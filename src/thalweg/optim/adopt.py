"""ADOPT."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import clamp, lerp, maximum, sqrt, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, rule
from thalweg.optim.numbers import MOMENTS, betas, epsilon


@rule(
    slots=MOMENTS,
    hypers=(*betas(0.9, 0.9999), epsilon(1e-6), Hyper("clip_exp", 0.25, low=0.0)),
    paper="Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara et al. 2024, arXiv:2411.02853, Algorithm 2",
    advice="lr as for Adam; beta2=0.9999 and eps=1e-6, where Adam has 0.999 and 1e-8: Taniguchi et al. 2024, "
    "arXiv:2411.02853",
    decay="l2",
)
def adopt(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, clip_exp, t, first):
    """The mean of gradients, each over the root of the mean square that was known before it."""
    bound = (t - 1.0) ** clip_exp
    scaled = clamp(g / maximum(sqrt(exp_avg_sq), eps), -bound, bound)
    mean = where(first, exp_avg, lerp(exp_avg, scaled, 1.0 - beta1))
    square = where(first, g * g, lerp(exp_avg_sq, g * g, 1.0 - beta2))
    return where(first, 0.0, mean), mean, square


class ADOPT(Optimizer):
    """ADOPT: Adam that converges for any beta2: each gradient is divided by what was known before it.

    The first gradient only starts the mean square: nothing moves at the first step (decoupled decay apart).
    No bias correction; the early steps are bounded instead.

    Formula:
        first: v = g^2, and no step; then
        m = beta1 * m + (1 - beta1) * clip(g / max(sqrt(v), eps), -c, c),  c = (t - 1)^clip_exp
        p = p - lr * m;  v = beta2 * v + (1 - beta2) * g^2

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Smallest root to divide by, >= 0.
        clip_exp: The bound grows as this power of the step, >= 0.
        weight_decay: >= 0; an L2 penalty unless `decouple` or a Decay option says otherwise.
        decouple: Decay as AdamW does.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa, Matsuo 2024,
        arXiv:2411.02853, Algorithm 2 (ADOPT with clipping).

    Differs:
        clip_exp is the exponent of the authors' `clip_lambda=lambda step: step**0.25`: groups hold numbers,
        so that checkpoints do. Decoupled decay acts at the first step too, where the authors' code skips it.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.ADOPT([w], lr=0.1)
        >>> for _ in range(2):
        ...     w.grad = torch.ones(2)
        ...     optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.99, 0.99]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_exp: float = 0.25,
        weight_decay: float = 0.0,
        decouple: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        given = passed(locals(), "decouple", rule=adopt)
        super().__init__(**given, decoupled_weight_decay=decouple)
