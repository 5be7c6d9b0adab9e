"""Rprop."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import clamp, sign, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Scalar, Slot, rule

_ETAS = "Invalid eta values"


@rule(
    slots=(Slot("prev"), Slot("step_size", init="lr", signed=False)),
    scalars=(Scalar("step"),),
    hypers=(
        Hyper("etaminus", 0.5, above=0.0, high=1.0, at="etas[0]", says=_ETAS, jointly=True),
        Hyper("etaplus", 1.2, above=1.0, at="etas[1]", says=_ETAS, jointly=True),
        Hyper("step_size_min", 1e-6, low=0.0, at="step_sizes[0]"),
        Hyper("step_size_max", 50.0, low=0.0, high=math.inf, closed=True, at="step_sizes[1]"),
    ),
    paper="Riedmiller and Braun 1993 (ICNN); iRprop-: Igel and Huesken 2000 (NC)",
    advice="for gradients of all data: over mini-batches its steps do not average out, which is why RMSprop "
    "exists: Tieleman and Hinton 2012, Coursera lecture 6.5",
    refuses_sparse="Rprop does not support sparse gradients",
    decay="decoupled",
)
def rprop(g, prev, step_size, *, etaminus, etaplus, step_size_min, step_size_max, lr):  # noqa: ARG001 - a step
    """A step against the gradient's sign, of a size that grows while the sign holds."""
    agreement = g * prev
    turned = agreement < 0.0
    factor = where(turned, etaminus, where(agreement > 0.0, etaplus, 1.0))
    step_size = clamp(step_size * factor, step_size_min, step_size_max)
    g = where(turned, 0.0, g)  # wait where the sign has changed; the next step counts as neither
    return sign(g) * step_size, g, step_size


class Rprop(Optimizer):
    """Rprop: every weight has a step size of its own, which only the signs of its gradients change.

    For full batches: with minibatches signs flip by chance and the sizes shrink. lr is where the sizes
    begin and nothing later, so that a schedule of lr does nothing
    but to weight_decay.

    Formula:
        s = clamp(s * (etaplus if g * g_before > 0, etaminus if < 0, else 1), min, max)
        g = 0 where g * g_before < 0
        p = p - sign(g) * s;  g_before = g

    Args:
        params: Parameters, named parameters, or groups.
        lr: Where the step sizes begin, >= 0; a number or a tensor of one element.
        etas: Factors on the step size at a change of sign, in (0, 1), and without, > 1.
        step_sizes: Smallest and largest step size, each >= 0.
        capturable, foreach, maximize, differentiable: As in torch.
        weight_decay: >= 0, decoupled (and so following lr) unless a Decay option says otherwise.
        fused: As in torch's other classes: torch's Rprop has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Riedmiller and Braun 1993, "A direct adaptive method for faster backpropagation learning: the RPROP
        algorithm", ICNN; as iRprop- of Igel and Huesken 2000, "Improving the Rprop learning algorithm", NC.

    Differs:
        As torch: iRprop-, which waits a step at a change of sign, where Riedmiller and Braun take the last
        step back. From torch: weight_decay, which torch's Rprop does not have; decoupled, since under an L2
        penalty weights would move at lr = 0.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
        >>> optimizer = thalweg.Rprop([w], lr=0.25)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.75, -0.75, 0.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        weight_decay: float = 0,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=rprop))
