"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, maximum, mean, minimum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Slot, Switch, rule


def _machine_epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


@rule(
    slots=(
        Slot("row_var", over=-1, when="factored", signed=False),
        Slot("col_var", over=-2, when="factored", signed=False),
        Slot("variance", when="not factored", signed=False),
    ),
    hypers=(
        Hyper("beta2_decay", -0.8, high=0.0, closed=True, says="beta2_decay should be <= 0 but is"),
        Hyper(
            "eps1",
            None,
            low=0.0,
            at="eps[0]",
            says="epsilon1 should be >= 0 but is",
            none=_machine_epsilon,
        ),
        Hyper("eps2", 1e-3, low=0.0, at="eps[1]", says="epsilon2 should be >= 0 but is"),
        Hyper(
            "d",
            1.0,
            low=1.0,
            high=math.inf,
            closed=True,
            says="Clipping threshold d should be >= 1 but is",
        ),
    ),
    switches=(Switch("factored", min_ndim=2),),
    paper="Shazeer and Stern 2018, arXiv:1804.04235, Algorithms 4 and 5",
    advice="lr is the upper bound of a rate relative to the weights' own size, 0.01 in the paper, and falls "
    "as 1 / sqrt(t) without a schedule: Shazeer and Stern 2018, arXiv:1804.04235, Algorithm 5",
    refuses_sparse="Adafactor does not support sparse gradients",
    refuses_complex="Adafactor does not support complex parameters",
    says={
        "lr": "Learning rate should be >= 0 but is",
        "weight_decay": "weight_decay should be >= 0 but is",
    },
)
def adafactor(g, row_var, col_var, variance, *, p, lr, t, beta2_decay, eps1, eps2, d, factored):
    """The gradient over the root of its mean square, of which lines and columns alone are kept."""
    if factored:
        row_var = lerp(row_var, mean(g * g, over=-1), t**beta2_decay)
        col_var = lerp(col_var, mean(g * g, over=-2), t**beta2_decay)
        square = row_var / maximum(mean(row_var, over=-2), eps1) * col_var
    else:
        square = variance = lerp(variance, g * g, t**beta2_decay)
    u = g / sqrt(maximum(square, eps1 * eps1))
    size = maximum(eps2, sqrt(mean(p * p))) * minimum(lr, 1.0 / sqrt(t))
    return u * (size / maximum(1.0, sqrt(mean(u * u)) / d)), row_var, col_var, variance


class Adafactor(Optimizer):
    """Adam's second moment in the memory of two vectors per matrix, with steps relative to the weights' size.

    Of a parameter's last two dimensions only the mean squares per line and per column are kept, and their
    product stands for the whole: a matrix of n times m needs n + m numbers. There is no momentum. `lr` is an
    upper bound of the relative step, not the step: a weight of RMS r moves by about max(eps[1], r) times
    min(lr, 1 / sqrt(t)). Parameters of fewer than two dimensions keep their whole second moment.

    Formula:
        b = 1 - t^beta2_decay;  a = max(eps2, RMS(p)) * min(lr, 1 / sqrt(t))
        R = b * R + (1 - b) * mean of g^2 over the last dimension;  C likewise over the last but one
        V = R * C / max(mean of R, eps1)     (fewer than two dimensions: V = b * V + (1 - b) * g^2)
        u = g / max(sqrt(V), eps1)
        p = p * (1 - lr * weight_decay) - a * u / max(1, RMS(u) / d)

    Args:
        params: Parameters, named parameters, or groups; real and with dense gradients.
        lr: Largest relative step, >= 0; also what decay is multiplied by.
        beta2_decay: Exponent of the decay rate of the second moment, <= 0.
        eps: (eps1, eps2), each >= 0: the least root of the second moment (None: the machine epsilon of the
            parameter's dtype), and the least RMS of a parameter that steps are relative to.
        d: Largest RMS of an update before it is scaled down, >= 1.
        weight_decay: >= 0, decoupled.
        foreach, maximize: As in torch.
        fused: As in torch's other classes: torch's Adafactor has no fused form.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Shazeer and Stern 2018, arXiv:1804.04235, Algorithms 4 and 5.

    Differs:
        As torch: means where the paper has sums; eps1 bounds the root from below instead of being added to
        g^2; lr stands for the paper's 1e-2 in the relative step; the last two dimensions are factored.
        Unlike torch, eps1=None is each parameter's own epsilon also where dtypes are mixed in a group.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(3, 2))
        >>> optimizer = thalweg.Adafactor([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.flatten().tolist()]
        [0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
        >>> {k: tuple(x.shape) for k, x in optimizer.state[w].items() if k != "step"}
        {'row_var': (3, 1), 'col_var': (1, 2)}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=adafactor))
