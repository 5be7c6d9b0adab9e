"""LARS."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import norm, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Switch, rule
from thalweg.optim.numbers import BUFFER, HAS_MOMENTUM


@rule(
    slots=(BUFFER,),
    hypers=(
        Hyper("momentum", 0.9, low=0.0),
        Hyper("eeta", 1e-3, above=0.0),
        Hyper("epsilon", 0.0, low=0.0),
    ),
    switches=(HAS_MOMENTUM, Switch("has_rows", min_ndim=2)),
    paper="You, Gitman, Ginsburg 2017, arXiv:1708.03888, Algorithm 1",
    advice="lr is another scale, found anew: a layer's rate is lr * eeta * |p| / |g|, with eeta=0.001; the "
    "authors let lr fall polynomially (power 2), after a warm-up for large batches: You et al. 2017, "
    "arXiv:1708.03888",
    decay="own",
)
def lars(
    g, momentum_buffer, *, p, momentum, eeta, epsilon, weight_decay, has_momentum, decays, has_rows
):
    """A decaying sum of gradients, each as long as its tensor times eeta."""
    size, length = norm(p), norm(g)
    ratio = eeta * size / (length + (weight_decay * size if decays else 0.0) + epsilon)
    scaled = g + weight_decay * p if decays else g
    if has_rows:
        scaled = scaled * where((size > 0.0) & (length > 0.0), ratio, 1.0)
    buffer = momentum * momentum_buffer + scaled if has_momentum else None
    return (buffer if has_momentum else scaled), buffer


class LARS(Optimizer):
    """SGD with momentum whose gradients are scaled, tensor by tensor, to the size of the weights.

    For large batches of images: with it lr grows with the batch where plain SGD diverges. The learning
    rate is a share of the weights' norm (times eeta), so values of 1 to 30 are usual. Tensors of one
    dimension (biases, norm weights) take plain momentum steps; the authors give them no decay, which is a
    group's business.

    Formula:
        r = eeta * |p| / (|g| + weight_decay * |p| + epsilon), 1 for vectors and where |p| or |g| is 0
        b = momentum * b + r * (g + weight_decay * p)
        p = p - lr * b

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        momentum: Share of the buffer that is kept, >= 0; 0 keeps none and stores none.
        weight_decay: >= 0, inside the ratio as above unless a Decay option says otherwise.
        eeta: Trust coefficient, > 0: how long a step is beside the weights.
        epsilon: Added to the denominator, >= 0.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        You, Gitman, Ginsburg 2017, arXiv:1708.03888, Algorithm 1.

    Differs:
        lr multiplies the buffer as in torch's SGD, where the paper has it inside, so that a change of lr
        acts at once. Vectors are left out as the authors' skip_list does with biases and batch norm; the
        paper scales them. lr, which the authors do not default, has SGD's default.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = thalweg.LARS([w], lr=100.0, weight_decay=0.0)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w[0].tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        eeta: float = 1e-3,
        epsilon: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=lars))
