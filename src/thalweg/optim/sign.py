"""SignSGD and Signum."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import lerp, sign
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Slot, rule
from thalweg.optim.numbers import HAS_MOMENTUM


@rule(
    slots=(Slot("exp_avg", when="has_momentum"),),
    hypers=(Hyper("momentum", 0.0, low=0.0, high=1.0),),
    switches=(HAS_MOMENTUM,),
    paper="Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, arXiv:1802.04434, Algorithms 1 and 2",
    advice="momentum=0.9 as for SGD; lr and weight_decay found anew, as the authors did: every weight moves "
    "by lr: Bernstein et al. 2018, arXiv:1802.04434, section 5",
)
def signum(g, exp_avg, *, momentum, has_momentum):
    """The sign of the gradient, or of its running mean."""
    if not has_momentum:
        return sign(g), None
    exp_avg = lerp(exp_avg, g, 1.0 - momentum)
    return sign(exp_avg), exp_avg


class SignSGD(Optimizer):
    """SignSGD: every weight moves by lr against the sign of its gradient; no state.

    The size of the gradient does not matter, only its sign, so that noise moves a weight as far as signal
    does: it wants large batches or a falling lr. A weight whose gradient is exactly zero stays.

    Formula:
        p = p * (1 - lr * weight_decay) - lr * sign(g)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0: how far every weight moves.
        weight_decay: >= 0, decoupled.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, arXiv:1802.04434, Algorithm 1; decay as in
        Bernstein, Zhao, Azizzadenesheli, Anandkumar 2018, arXiv:1810.05291, Algorithm 1.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))
        >>> optimizer = thalweg.SignSGD([w], lr=0.25)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.75, -0.75, 0.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        weight_decay: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=signum))


class Signum(Optimizer):
    """Signum: every weight moves by lr against the sign of its gradient's running mean; one slot.

    Lion with both betas equal is Signum; Lion decides by a fresher mix than it keeps.

    Formula:
        m = momentum * m + (1 - momentum) * g
        p = p * (1 - lr * weight_decay) - lr * sign(m)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0: how far every weight moves.
        momentum: Share of the mean that is kept, in [0, 1); 0 is SignSGD, which keeps no mean.
        weight_decay: >= 0, decoupled (`wd_lh` in the authors' MXNet class; its `wd` is Decay("l2")).
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, arXiv:1802.04434, Algorithm 2; decay as in
        Bernstein, Zhao, Azizzadenesheli, Anandkumar 2018, arXiv:1810.05291, Algorithm 1.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.Signum([w], lr=0.25, momentum=0.75)
        >>> for gradient in ([1.0, 1.0], [-1.0, 1.0]):
        ...     w.grad = torch.tensor(gradient)
        ...     optimizer.step()
        >>> w.tolist()
        [1.0, 0.5]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=signum))
