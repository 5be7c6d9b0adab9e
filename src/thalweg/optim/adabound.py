"""AdaBound and AMSBound."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import clamp, lerp, maximum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Slot, Switch, first_lr, rule
from thalweg.optim.numbers import BETAS, EPS, MOMENTS


@rule(
    slots=(*MOMENTS, Slot("max_exp_avg_sq", when="amsbound", signed=False)),
    hypers=(
        *BETAS,
        Hyper("final_lr", 0.1, low=0.0),
        Hyper("gamma", 1e-3, above=0.0, high=1.0, says="Invalid gamma parameter"),
        EPS,
        Hyper("base_lr", 1e-3, above=0.0, derived=True),
    ),
    switches=(Switch("amsbound"),),
    paper="Luo, Xiong, Liu, Sun 2019, arXiv:1902.09843, Algorithms 2 and 3",
    advice="lr and betas as for Adam; final_lr is the SGD's that it ends as, and 0.1 serves without tuning: "
    "Luo et al. 2019, arXiv:1902.09843, appendix G",
    decay="l2",
    at_construction=lambda group: {"base_lr": first_lr("the bounds are", group)},
)
def adabound(
    g, exp_avg, exp_avg_sq, max_exp_avg_sq, *, lr, base_lr, beta1, beta2, final_lr, gamma, eps, t
):
    """The running mean times Adam's rate of each weight, held between bounds that close on final_lr."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    largest = None if max_exp_avg_sq is None else maximum(max_exp_avg_sq, exp_avg_sq)
    corrected = lr * sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
    rate = corrected / (sqrt(exp_avg_sq if largest is None else largest) + eps)
    final = final_lr * lr / base_lr
    low, high = final * (1.0 - 1.0 / (gamma * t + 1.0)), final * (1.0 + 1.0 / (gamma * t))
    return clamp(rate, low, high) * exp_avg, exp_avg, exp_avg_sq, largest


class AdaBound(Optimizer):
    """Adam that becomes SGD with momentum: each weight's rate is held between bounds that close on final_lr.

    Early it is as quick as Adam, late it generalises as SGD does; `final_lr` is SGD's learning rate and
    mostly needs no tuning. Both bounds follow a schedule of lr: they scale with lr over lr at construction.

    Formula:
        m, v as Adam;  f = final_lr * lr / lr at construction
        eta = clip(lr * sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps),
                   f * (1 - 1 / (gamma * t + 1)), f * (1 + 1 / (gamma * t)))
        p = p - eta * m

    Args:
        params: Parameters, named parameters, or groups.
        lr: Adam's learning rate, >= 0, and > 0 at construction.
        betas: Decay rates of the two means, each in [0, 1).
        final_lr: SGD's learning rate, which the bounds close on, >= 0.
        gamma: How fast they close, in (0, 1): half way after about 1 / gamma steps.
        eps: Added to the root, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise ("decoupled" is AdaBoundW).
        amsbound: Divide by the largest mean square so far (AMSBound; one more slot).
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Luo, Xiong, Liu, Sun 2019, arXiv:1902.09843, Algorithm 2; AMSBound: Algorithm 3.

    Differs:
        As the authors' code: both means are bias-corrected, eps, gamma in the place of 1 - beta2, the
        bounds follow the schedule, and no 1 / sqrt(t), which the paper has for its proof.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.AdaBound([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsbound: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=adabound))


class AMSBound(AdaBound):
    """AdaBound with the largest mean square so far, so that no weight's rate rises again; one more slot.

    Formula:
        as AdaBound, with the largest v so far for v

    Args:
        params: Parameters, named parameters, or groups.
        lr: Adam's learning rate, >= 0, and > 0 at construction.
        betas: Decay rates of the two means, each in [0, 1).
        final_lr: SGD's learning rate, which the bounds close on, >= 0.
        gamma: How fast they close, in (0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Luo, Xiong, Liu, Sun 2019, arXiv:1902.09843, Algorithm 3.

    Differs:
        As AdaBound.

    Example:
        >>> import torch, thalweg
        >>> optimizer = thalweg.AMSBound([torch.nn.Parameter(torch.ones(2))])
        >>> optimizer.param_groups[0]["amsbound"]
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), amsbound=True))
