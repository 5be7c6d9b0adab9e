"""Averaged stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, maximum, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Scalar, Slot, rule


def _average(p: Any, ax: Any, *, mu: Any) -> Any:
    """The weights themselves until averaging starts, then their mean since."""
    return where(mu == 1.0, p, lerp(ax, p, mu))


@rule(
    slots=(Slot("ax", follows=_average),),
    scalars=(Scalar("eta", init="lr"), Scalar("mu", 1.0)),
    hypers=(
        Hyper("lambd", 1e-4),
        Hyper("alpha", 0.75),
        Hyper("t0", 1e6, high=math.inf, closed=True),
    ),
    paper="Polyak and Juditsky 1992; the schedule of eta: Xu 2011, arXiv:1107.2490",
    refuses_sparse="ASGD does not support sparse gradients",
    decay="l2",
    averages="ax",
)
def asgd(g, *, lr, lambd, alpha, t0, eta, p, t):
    """The step of the size that the last step left, and the sizes of the next."""
    step = eta * g + (eta * lambd) * p
    return step, lr / (1.0 + lambd * lr * t) ** alpha, 1.0 / maximum(1.0, t - t0)


class ASGD(Optimizer):
    """Averaged SGD: plain steps that shrink, and the mean of the weights beside them, from step t0 on.

    What one evaluates is the average: `state[p]["ax"]`, or `with optimizer.averaged():`. A change of lr
    acts one step later, since each step leaves the size of the next; lr = 0 alone does not stop the decay
    by lambd in the step after it.

    Formula:
        p = p * (1 - lambd * eta) - eta * g
        ax = ax + mu * (p - ax)
        eta = lr / (1 + lambd * lr * t)^alpha;  mu = 1 / max(1, t - t0)      (for the next step)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        lambd: Decay of the weights, and how fast eta falls.
        alpha: Power with which eta falls.
        t0: Step at which averaging starts; as large as the default: never.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        foreach, maximize, differentiable, capturable: As in torch.
        fused: As in torch's other classes: torch's ASGD has no fused form, ours has.
        options: What to compose around it; the average is of the weights after all of them.

    Raises:
        ValueError: A number out of range.

    Reference:
        Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging", SIAM Journal on
        Control and Optimization 30; the schedule: Xu 2011, arXiv:1107.2490, section 5.

    Differs:
        As torch: alpha is a number, where Xu has 3/4 or 2/3; eta and mu are numbers in torch's precision
        for such (float32 under the default dtype).

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.ASGD([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.8, 0.8]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=asgd))
