"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, maximum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Slot, Switch, rule
from thalweg.errors import ArgumentError
from thalweg.optim.numbers import BETAS, EPS, MOMENTS


@rule(
    slots=(*MOMENTS, Slot("max_exp_avg_sq", when="amsgrad", signed=False)),
    hypers=(*BETAS, EPS),
    switches=(Switch("amsgrad"),),
    paper="Kingma and Ba 2014, arXiv:1412.6980, Algorithm 1; Reddi et al. 2018, arXiv:1904.09237",
    refuses_sparse="Adam does not support sparse gradients, please consider SparseAdam instead",
    decay="l2",
)
def adam(g, exp_avg, exp_avg_sq, max_exp_avg_sq, *, beta1, beta2, eps, amsgrad, t):
    """Gradient mean over the root of its mean square."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    largest = maximum(max_exp_avg_sq, exp_avg_sq) if amsgrad else None
    square = (largest if amsgrad else exp_avg_sq) / (1.0 - beta2**t)
    return (exp_avg / (1.0 - beta1**t)) / (sqrt(square) + eps), exp_avg, exp_avg_sq, largest


def _check_tensors(lr: Any, betas: Any, *, lists_on_host: bool) -> None:
    """Refuse the tensor arguments that torch refuses, in its words."""
    if isinstance(lr, Tensor) and lists_on_host:
        raise ArgumentError("lr as a Tensor is not supported for capturable=False and foreach=True")
    betas = betas if isinstance(betas, (tuple, list)) else ()  # what else it is, the engine says
    tensors = [isinstance(b, Tensor) for b in betas]
    if any(tensors) and not all(tensors):
        raise ArgumentError("betas must be either both floats or both Tensors")
    for i, b in enumerate(betas):
        if isinstance(b, Tensor) and lists_on_host:
            raise ArgumentError(
                f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True"
            )
        if isinstance(b, Tensor) and b.numel() != 1:
            raise ArgumentError(f"Tensor betas[{i}] must be 1-element")


class Adam(Optimizer):
    """Adam: the gradient's running mean over the root of its running mean square, both bias-corrected.

    Formula:
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0; an L2 penalty unless `decoupled_weight_decay` or a Decay option says otherwise.
        amsgrad: Divide by the largest mean square so far (one more slot).
        foreach, maximize, capturable, differentiable, fused: As in torch.
        decoupled_weight_decay: Decay as AdamW does.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Kingma and Ba 2014, arXiv:1412.6980, Algorithm 1. AMSGrad: Reddi, Kale, Kumar 2018,
        arXiv:1904.09237, Algorithm 2.

    Differs:
        AMSGrad as in torch: the largest is of the uncorrected mean square, and both are bias-corrected,
        where Algorithm 2 corrects neither.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Adam([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    advice = (
        "lr and betas as for AdamW; weight_decay is added to the gradient and divided with it, so it shrinks "
        "less where gradients are large: Loshchilov and Hutter 2017, arXiv:1711.05101, section 2"
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        options: Sequence[Option] = (),
    ) -> None:
        _check_tensors(lr, betas, lists_on_host=bool(foreach) and not capturable)
        super().__init__(**passed(locals(), rule=adam))


class AdamW(Adam):
    """Adam with weight decay beside the step instead of inside the gradient.

    Formula:
        p = p * (1 - lr * weight_decay), then as Adam

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, decoupled.
        amsgrad: Divide by the largest mean square so far (one more slot).
        maximize, foreach, capturable, differentiable, fused: As in torch.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Loshchilov and Hutter 2017, arXiv:1711.05101, Algorithm 2.

    Differs:
        As torch: decay is multiplied by lr; the paper's schedule multiplier is the schedule of lr.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = thalweg.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[model.weight])
        ['exp_avg', 'exp_avg_sq', 'step']
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), decoupled_weight_decay=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch: whatever a checkpoint of Adam's says, AdamW decays as AdamW."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
