"""NovoGrad."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, sqrt, sum, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Scalar, Slot, Switch, rule
from thalweg.optim.numbers import EPS, betas


@rule(
    slots=(Slot("exp_avg"),),
    scalars=(Scalar("exp_avg_sq", wide=True),),
    hypers=(*betas(0.95, 0.98), EPS),
    switches=(Switch("grad_averaging"),),
    paper="Ginsburg, Castonguay, Hrinchuk, Kuchaiev et al. 2019, arXiv:1905.11286, Algorithm 1",
    advice="lr found anew, without warm-up; betas=(0.95, 0.98): Ginsburg et al. 2019, arXiv:1905.11286",
    decay="own",
)
def novograd(
    g, exp_avg, *, p, exp_avg_sq, first, beta1, beta2, eps, weight_decay, decays, grad_averaging
):
    """A decaying sum of gradients, each over the root of its tensor's mean square norm."""
    square = sum(g * g)
    square = where(first, square, lerp(exp_avg_sq, square, 1.0 - beta2))
    scaled = g / (sqrt(square) + eps)
    if decays:
        scaled = scaled + weight_decay * p
    exp_avg = beta1 * exp_avg + ((1.0 - beta1) * scaled if grad_averaging else scaled)
    return exp_avg, exp_avg, square


class NovoGrad(Optimizer):
    """SGD with momentum on gradients that are normalised tensor by tensor; one slot and one number.

    It takes half of Adam's memory. A step does not grow with the gradient's size, so that it is robust to
    the choice of lr and its warm-up. The normalised gradient has norm about 1 whatever the size of the
    tensor: learning rates are larger than Adam's.

    Formula:
        v = beta2 * v + (1 - beta2) * |g|^2, at first |g|^2: a number per tensor
        m = beta1 * m + (g / (sqrt(v) + eps) + weight_decay * p)
        p = p - lr * m

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Shares of the decaying sum and of the mean square norm that are kept, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, added to the normalised gradient unless a Decay option says otherwise.
        grad_averaging: Weigh what is added to m with 1 - beta1, so that it is a mean.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Ginsburg, Castonguay, Hrinchuk, Kuchaiev, Lavrukhin, Leary, Li, Nguyen, Zhang, Cohen 2019,
        arXiv:1905.11286, Algorithm 1.

    Differs:
        eps at the first step too. The betas are the paper's; the authors' `amsgrad` is left out.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = thalweg.NovoGrad([w], lr=0.5)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [2.7, 3.6]
        >>> optimizer.state[w]["exp_avg_sq"].item()
        100.0
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0,
        grad_averaging: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=novograd))
