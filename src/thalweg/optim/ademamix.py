"""AdEMAMix."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import exp, lerp, log, minimum, sqrt, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Slot, rule
from thalweg.optim.numbers import EPS, SQUARE, betas


@rule(
    slots=(Slot("exp_avg_fast"), Slot("exp_avg_slow"), SQUARE),
    hypers=(
        *betas(0.9, 0.999, 0.9999),
        Hyper("alpha", 2.0, low=0.0),
        Hyper("beta3_warmup", 0, low=0, integer=True),
        Hyper("alpha_warmup", 0, low=0, integer=True),
        EPS,
    ),
    paper="Pagliardini, Ablin, Grangier 2024, arXiv:2409.03137, Algorithm 1",
    advice="lr and weight_decay as for AdamW; alpha from 4 to 10 with the third beta at 0.9999, and "
    "alpha_warmup and beta3_warmup as long as the run: Pagliardini et al. 2024, arXiv:2409.03137, "
    "section 3",
)
def ademamix(
    g, exp_avg_fast, exp_avg_slow, exp_avg_sq, *, betas, alpha, beta3_warmup, alpha_warmup, eps, t
):
    """A fast and a slow gradient mean over the root of the mean square."""
    beta1, beta2, beta3 = betas
    alpha = alpha * where(t < alpha_warmup, t / alpha_warmup, 1.0)
    way = t / beta3_warmup
    length = (1.0 - way) / log(beta1) + way / log(beta3)  # half-lives grow evenly
    slow = where(t < beta3_warmup, minimum(exp(1.0 / length), beta3), beta3)
    exp_avg_fast = lerp(exp_avg_fast, g, 1.0 - beta1)
    exp_avg_slow = lerp(exp_avg_slow, g, 1.0 - slow)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    u = exp_avg_fast / (1.0 - beta1**t) + alpha * exp_avg_slow
    return u / (sqrt(exp_avg_sq / (1.0 - beta2**t)) + eps), exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(Optimizer):
    """AdamW with a second, very slow mean of the gradient beside the fast one; three slots.

    Gradients of tens of thousands of steps ago still count, which pays in long runs. Without warm-ups the
    early steps may diverge: the authors set both to the length of the run. The slow mean is not
    bias-corrected.

    Formula:
        m1 = beta1 * m1 + (1 - beta1) * g;  m2 = b * m2 + (1 - b) * g;  v = beta2 * v + (1 - beta2) * g^2
        u = (m1 / (1 - beta1^t) + a * m2) / (sqrt(v / (1 - beta2^t)) + eps)
        p = p * (1 - lr * weight_decay) - lr * u
        a = alpha * min(t / alpha_warmup, 1)
        b = min(exp(ln(beta1) ln(beta3) / ((1 - s) ln(beta3) + s ln(beta1))), beta3),  s = t / beta3_warmup

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of the fast mean, the mean square and the slow mean, each in [0, 1).
        alpha: Weight of the slow mean, >= 0.
        beta3_warmup: Steps in which the slow mean's rate goes from betas[0] to betas[2]; None or 0: none.
        alpha_warmup: Steps in which alpha grows from 0; None or 0: none.
        eps: Added to the root, >= 0.
        weight_decay: >= 0, decoupled.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Pagliardini, Ablin, Grangier 2024, arXiv:2409.03137, Algorithm 1.

    Differs:
        The schedule of beta3 is the paper's; the authors' code adds 1e-8 inside its logarithms.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.AdEMAMix([w], lr=0.1, alpha_warmup=100, beta3_warmup=100)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 6) for x in w.tolist()]
        [0.899982, 0.899982]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int | None = None,
        alpha_warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        **flags: Unpack[Flags],
    ) -> None:
        beta3_warmup, alpha_warmup = beta3_warmup or 0, alpha_warmup or 0
        super().__init__(**passed(locals(), rule=ademamix))
