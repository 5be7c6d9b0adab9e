"""RAdam, and Ranger: RAdam with centralized gradients and Lookahead."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, sqrt, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, rule
from thalweg.optim.numbers import BETAS, EPS, MOMENTS
from thalweg.options import Centralize, Decay, Lookahead


def rectified(beta2: Any, t: Any) -> tuple[Any, Any]:
    """The length of the mean square's memory, and by how much its variance then falls short (r_t squared)."""
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * t * beta2**t / (1.0 - beta2**t)
    variance = (
        (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
    )
    return length, variance


@rule(
    slots=MOMENTS,
    hypers=(*BETAS, EPS, Hyper("n_sma_threshold", 5.0, low=4.0)),
    paper="Liu, Jiang, He, Chen, Liu, Gao, Han 2019, arXiv:1908.03265, Algorithm 2",
    refuses_sparse="RAdam does not support sparse gradients",
    advice="lr and betas as for AdamW, without warm-up, whose place the rectification takes: Liu et al. "
    "2019, arXiv:1908.03265, section 5",
    decay="l2",
)
def radam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, n_sma_threshold, t):
    """Adam once the mean square is trusted; until then the mean alone."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    length, variance = rectified(beta2, t)
    mean = exp_avg / (1.0 - beta1**t)
    adapted = mean * sqrt(variance * (1.0 - beta2**t)) / (sqrt(exp_avg_sq) + eps)
    return where(length > n_sma_threshold, adapted, mean), exp_avg, exp_avg_sq


class RAdam(Optimizer):
    """Adam that waits for its mean square: in the first steps it is momentum, then Adam, rectified.

    Formula:
        r = 2 / (1 - beta2) - 1;  r_t = r - 2 t beta2^t / (1 - beta2^t)
        c = (r_t - 4)(r_t - 2) r / ((r - 4)(r - 2) r_t)
        r_t > 5: p = p - lr * m_hat * sqrt(c (1 - beta2^t)) / (sqrt(v) + eps)
        else:    p = p - lr * m_hat

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root of the uncorrected mean square, >= 0.
        weight_decay: >= 0; an L2 penalty unless `decoupled_weight_decay` or a Decay option says otherwise.
        decoupled_weight_decay: Decay as AdamW does.
        foreach, maximize, capturable, differentiable: As in torch.
        fused: As in torch's other classes: torch's RAdam has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Liu, Jiang, He, Chen, Liu, Gao, Han 2019, arXiv:1908.03265, Algorithm 2.

    Differs:
        As torch: rectified from r_t > 5 on, where the paper has > 4; eps, which the paper does not have.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.RAdam([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.8, 0.8]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=radam))


class Ranger(Optimizer):
    """RAdam with centralized gradients (tensors of two or more dimensions), decoupled decay and Lookahead.

    It is a composition: the RAdam rule with the options Centralize, Decay("decoupled") and Lookahead, whose
    slow weights are evaluated by `with optimizer.averaged():`.

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        alpha: Lookahead's share of the way, in [0, 1].
        k: Steps between Lookahead's syncs, >= 1.
        n_sma_threshold: Rectify once r_t is longer than this, >= 4.
        betas: Decay rates of RAdam's means, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, decoupled.
        foreach, maximize, capturable, differentiable, fused: As in torch.
        options: What else to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Wright 2019, "New Deep Learning Optimizer, Ranger: Synergistic combination of RAdam + LookAhead";
        Liu et al. 2019, arXiv:1908.03265; Zhang et al. 2019, arXiv:1907.08610; Yong et al. 2020,
        arXiv:2004.01461.

    Differs:
        The slow weights are taken before the first step; widely copied code takes them at the first sync,
        which then does nothing.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = thalweg.Ranger([w], lr=0.1, k=2)
        >>> sorted(optimizer.param_groups[0]["options"])
        ['centralize', 'lookahead']
    """

    composes = (Centralize, Decay, Lookahead)
    advice = (
        "lr as for RAdam, flat for three quarters of the run and lowered after (a step or a cosine), "
        "betas=(0.95, 0.999): Wright 2019, github.com/lessw2020/Ranger-Deep-Learning-Optimizer"
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        n_sma_threshold: float = 5,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        own = (Centralize(), Decay("decoupled"), Lookahead(k, alpha))
        super().__init__(**passed(locals(), "alpha", "k", "own", rule=radam, parts=own))
