"""Adamax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, maximum
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Slot, rule
from thalweg.optim.numbers import BETAS, EPS


@rule(
    slots=(Slot("exp_avg"), Slot("exp_inf", signed=False)),
    hypers=(*BETAS, EPS),
    paper="Kingma and Ba 2014, arXiv:1412.6980, Algorithm 2",
    advice="lr twice Adam's (0.002 for 0.001), betas as for Adam: Kingma and Ba 2014, arXiv:1412.6980, "
    "section 7.1",
    refuses_sparse="Adamax does not support sparse gradients",
    decay="l2",
)
def adamax(g, exp_avg, exp_inf, *, beta1, beta2, eps, t):
    """Gradient mean over its largest magnitude, which fades."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_inf = maximum(exp_inf * beta2, abs(g) + eps)
    return (exp_avg / (1.0 - beta1**t)) / exp_inf, exp_avg, exp_inf


class Adamax(Optimizer):
    """Adamax: Adam with the largest recent gradient in place of the mean square.

    No step is larger than about lr, whatever the gradient; a single large gradient shrinks the following
    ones for 1 / (1 - beta2) steps.

    Formula:
        m = beta1 * m + (1 - beta1) * g;  n = max(beta2 * n, |g| + eps)
        p = p - lr * (m / (1 - beta1^t)) / n

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        betas: Decay rates of the mean and of the largest magnitude, each in [0, 1).
        eps: Added to the magnitude, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        foreach, maximize, differentiable, capturable: As in torch.
        fused: As in torch's other classes: torch's Adamax has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Kingma and Ba 2014, arXiv:1412.6980, Algorithm 2.

    Differs:
        As torch: eps, which Algorithm 2 does not have.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Adamax([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=adamax))
