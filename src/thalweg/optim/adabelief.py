"""AdaBelief."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, maximum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Slot, Switch, rule
from thalweg.optim.numbers import BETAS, epsilon


@rule(
    slots=(
        Slot("exp_avg"),
        Slot("exp_avg_var", signed=False),
        Slot("max_exp_avg_var", when="amsgrad", signed=False),
    ),
    hypers=(*BETAS, epsilon(1e-16)),
    switches=(Switch("amsgrad"),),
    paper="Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan 2020, arXiv:2010.07468, Algorithm 2",
    advice="lr as for AdamW; eps decides how adaptive it is: 1e-16 where Adam beats SGD (transformers, "
    "GANs), 1e-8 where SGD beats Adam (image recognition): Zhuang et al. 2020, arXiv:2010.07468, and "
    "github.com/juntang-zhuang/Adabelief-Optimizer",
)
def adabelief(g, exp_avg, exp_avg_var, max_exp_avg_var, *, beta1, beta2, eps, amsgrad, t):
    """Gradient mean over the root of the mean square of what the mean did not foresee."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_var = lerp(exp_avg_var, (g - exp_avg) ** 2, 1.0 - beta2) + eps
    largest = maximum(max_exp_avg_var, exp_avg_var) if amsgrad else None
    variance = (largest if amsgrad else exp_avg_var) / (1.0 - beta2**t)
    return (exp_avg / (1.0 - beta1**t)) / (sqrt(variance) + eps), exp_avg, exp_avg_var, largest


class AdaBelief(Optimizer):
    """Adam that divides by how far gradients fall from their mean, not by their size.

    Where the gradient is steady it steps further than Adam, where it jumps about less far. eps matters
    more than in Adam: it is added to the variance in every step and decides what a steady gradient's step
    is. The authors take 1e-16 for transformers and GANs and 1e-8 for convolutional networks.

    Formula:
        m = beta1 * m + (1 - beta1) * g;  s = beta2 * s + (1 - beta2) * (g - m)^2 + eps
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the variance and to the root, >= 0.
        weight_decay: >= 0, decoupled unless `weight_decouple` or a Decay option says otherwise.
        amsgrad: Divide by the largest variance so far (one more slot).
        weight_decouple: Decay as AdamW does; False: an L2 penalty.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan 2020, arXiv:2010.07468, Algorithm 2.

    Differs:
        The paper's algorithm: of the authors' later code, `rectify` (on there by default) and
        `degenerated_to_sgd` are left out, and so is `fixed_decay`, for which there is Decay.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.AdaBelief([w], lr=0.09)
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
        eps: float = 1e-16,
        weight_decay: float = 0,
        amsgrad: bool = False,
        weight_decouple: bool = True,
        **flags: Unpack[Flags],
    ) -> None:
        given = passed(locals(), "weight_decouple", rule=adabelief)
        super().__init__(**given, decoupled_weight_decay=weight_decouple)
