"""Adagrad, and Adadelta, which lets its sum decay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Scalar, Slot, rule
from thalweg.optim.numbers import epsilon


@rule(
    slots=(Slot("sum", init="initial_accumulator_value", signed=False),),
    hypers=(
        Hyper("lr_decay", 0.0, low=0.0),
        Hyper("initial_accumulator_value", 0.0, low=0.0),
        epsilon(1e-10),
    ),
    paper="Duchi, Hazan, Singer 2011, JMLR 12, section 1.2 (the diagonal form)",
    sparse=True,
    decay="l2",
)
def adagrad(g, sum, *, lr_decay, eps, t):
    """The gradient over the root of the sum of all squares so far."""
    sum = sum + g * g
    return (g / (1.0 + (t - 1.0) * lr_decay)) / (sqrt(sum) + eps), sum


class Adagrad(Optimizer):
    """Adagrad: each weight's step shrinks with the root of the sum of its squared gradients.

    Good for sparse features, whose weights keep large steps while frequent ones settle. The sum only
    grows, so that steps shrink for ever; in long trainings of networks RMSprop or Adam take over. As in
    torch, state is made when the optimizer is, not in the first step.

    Formula:
        s = s + g^2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        lr_decay: How fast lr falls with the step count, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        initial_accumulator_value: What the sum begins as, >= 0.
        eps: Added to the root, >= 0.
        foreach, maximize, differentiable, fused: As in torch.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Duchi, Hazan, Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization", Journal of Machine Learning Research 12.

    Differs:
        As torch: lr_decay and the sum's initial value, which the paper does not have; eps stands beside
        the root, where the paper adds delta to it. A sparse gradient gives the numbers of the dense one,
        with weight_decay too, where torch refuses the two together.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Adagrad([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=adagrad))
        self._begin_state()

    def share_memory(self) -> None:
        """Move the sums to shared memory, for training by several processes, as in torch."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["sum"].share_memory_()


@rule(
    slots=(Slot("square_avg", signed=False), Slot("acc_delta", signed=False)),
    scalars=(Scalar("step"),),
    hypers=(Hyper("rho", 0.9, low=0.0, high=1.0, closed=True), epsilon(1e-6)),
    paper="Zeiler 2012, arXiv:1212.5701, Algorithm 1",
    advice="lr stays 1, as the ratio of two root mean squares is the rate; the paper's rho is 0.95: Zeiler "
    "2012, arXiv:1212.5701, section 4",
    refuses_sparse="Adadelta does not support sparse gradients",
    decay="l2",
)
def adadelta(g, square_avg, acc_delta, *, rho, eps):
    """The gradient, in units of recent steps over recent gradients."""
    square_avg = lerp(square_avg, g * g, 1.0 - rho)
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    return delta, square_avg, lerp(acc_delta, delta * delta, 1.0 - rho)


class Adadelta(Optimizer):
    """Adadelta: steps as large as recent steps were, relative to recent gradients.

    It needs no learning rate: lr is a factor on the step, and 1 is the paper's. The first steps are of the
    size of sqrt(eps), so that eps is the number that matters at the start. Under a gradient that keeps
    its size steps grow until it does not.

    Formula:
        v = rho * v + (1 - rho) * g^2
        d = sqrt(a + eps) / sqrt(v + eps) * g
        a = rho * a + (1 - rho) * d^2
        p = p - lr * d

    Args:
        params: Parameters, named parameters, or groups.
        lr: Factor on the step, >= 0; a number or a tensor of one element.
        rho: Decay rate of both means, in [0, 1].
        eps: Added inside both roots, >= 0.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        foreach, capturable, maximize, differentiable: As in torch.
        fused: As in torch's other classes: torch's Adadelta has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    Differs:
        As torch: lr, which the paper does not have, multiplies the step; the mean of squared steps is of
        steps before that.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Adadelta([w])
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9968, 0.9968]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=adadelta))
