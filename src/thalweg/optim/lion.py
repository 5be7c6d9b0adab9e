"""Lion."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, sign
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Slot, rule
from thalweg.optim.numbers import betas


@rule(
    slots=(Slot("exp_avg"),),
    hypers=betas(0.9, 0.99),
    paper="Chen et al. 2023, arXiv:2302.06675, Algorithm 2",
    advice="lr 3 to 10 times smaller than AdamW's and weight_decay as much larger, so that lr * weight_decay "
    "stays: Chen et al. 2023, arXiv:2302.06675, section 5",
)
def lion(g, exp_avg, *, beta1, beta2):
    """The sign of the gradient mixed into its running mean."""
    return sign(lerp(exp_avg, g, 1.0 - beta1)), lerp(exp_avg, g, 1.0 - beta2)


class Lion(Optimizer):
    """Lion: every weight moves by lr, in the direction of an interpolated momentum; one slot.

    The step has the same size everywhere, so that nothing is adapted per weight. Coming from AdamW, the
    authors take lr 3 to 10 times smaller and weight_decay as much larger.

    Formula:
        u = sign(beta1 * m + (1 - beta1) * g);  m = beta2 * m + (1 - beta2) * g
        p = p * (1 - lr * weight_decay) - lr * u

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Interpolation of the direction and of the mean, each in [0, 1).
        weight_decay: >= 0, decoupled.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le 2023, arXiv:2302.06675,
        Algorithm 2.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
        >>> optimizer = thalweg.Lion([w], lr=0.25)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.75, -0.75, 0.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=lion))
