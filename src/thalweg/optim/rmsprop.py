"""RMSprop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, maximum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Scalar, Slot, Switch, rule
from thalweg.optim.numbers import BUFFER, EPS, HAS_MOMENTUM


@rule(
    slots=(Slot("square_avg", signed=False), BUFFER, Slot("grad_avg", when="centered")),
    scalars=(Scalar("step"),),
    hypers=(Hyper("momentum", 0.0, low=0.0), Hyper("alpha", 0.99, low=0.0), EPS),
    switches=(Switch("centered"), HAS_MOMENTUM),
    paper="Tieleman and Hinton 2012, Coursera lecture 6.5; centered: Graves 2013, arXiv:1308.0850, eq. 38-45",
    advice="alpha=0.9 in the lecture (the default is torch's): Tieleman and Hinton 2012, Coursera lecture "
    "6.5",
    refuses_sparse="RMSprop does not support sparse gradients",
    decay="l2",
)
def rmsprop(
    g, square_avg, momentum_buffer, grad_avg, *, momentum, alpha, eps, centered, has_momentum
):
    """The gradient over the root of its mean square, or over its standard deviation."""
    square_avg = lerp(square_avg, g * g, 1.0 - alpha)
    variance = square_avg
    if centered:
        grad_avg = lerp(grad_avg, g, 1.0 - alpha)
        variance = maximum(square_avg - grad_avg * grad_avg, 0.0)  # rounding may take it below
    u = g / (sqrt(variance) + eps)
    buffer = momentum * momentum_buffer + u if has_momentum else None
    return (buffer if has_momentum else u), square_avg, buffer, grad_avg


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of its running mean square, with momentum if wanted.

    Adam without bias correction, and with momentum after the division instead of before it. The first
    steps are large: the mean square begins at zero, so that the first step is lr / sqrt(1 - alpha).

    Formula:
        v = alpha * v + (1 - alpha) * g^2
        centered: a = alpha * a + (1 - alpha) * g;  v' = max(v - a^2, 0), else v' = v
        b = momentum * b + g / (sqrt(v') + eps)
        p = p - lr * b

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        alpha: Decay rate of the mean square, >= 0, usually in [0.9, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        momentum: Share of the buffer that is kept, >= 0; 0 keeps none and stores none.
        centered: Divide by the standard deviation instead (one more slot).
        capturable, foreach, maximize, differentiable: As in torch.
        fused: As in torch's other classes: torch's RMSprop has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Tieleman and Hinton 2012, "Lecture 6.5 - rmsprop", Coursera: Neural Networks for Machine Learning.
        Centered: Graves 2013, arXiv:1308.0850, equations 38 to 45.

    Differs:
        As torch: eps beside the root, where Graves has it inside; lr multiplies the buffer, where Graves
        has it inside. From torch: a variance that rounding takes below zero counts as zero, where torch's
        root makes it NaN.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.RMSprop([w], lr=0.1, alpha=0.75)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.8, 0.8]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=rmsprop))
