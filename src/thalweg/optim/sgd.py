"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Switch, rule
from thalweg.optim.numbers import BUFFER, HAS_MOMENTUM


def _nesterov_needs_momentum(group: Mapping[str, Any]) -> str | None:
    if group.get("nesterov") and (group["momentum"] <= 0 or group["dampening"] != 0):
        return "Nesterov momentum requires a momentum and zero dampening"
    return None


@rule(
    slots=(BUFFER,),
    hypers=(Hyper("momentum", 0.0, low=0.0), Hyper("dampening", 0.0)),
    switches=(Switch("nesterov"), HAS_MOMENTUM),
    paper="Polyak 1964; Sutskever, Martens, Dahl, Hinton 2013 (ICML)",
    sparse=True,
    advice="lr is another scale, found anew: ResNets were trained with lr=0.1, momentum=0.9, "
    "weight_decay=1e-4 at batch 256: He et al. 2015, arXiv:1512.03385, section 3.4",
    decay="l2",
    check=_nesterov_needs_momentum,
)
def sgd(g, momentum_buffer, *, momentum, dampening, nesterov, has_momentum, first):
    """The gradient, or a decaying sum of gradients that begins as the first one."""
    if not has_momentum:
        return g, None
    buffer = where(first, g, momentum * momentum_buffer + (1.0 - dampening) * g)
    return (g + momentum * buffer if nesterov else buffer), buffer


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, dampening and Nesterov's form.

    Formula:
        b = momentum * b + (1 - dampening) * g, at first b = g
        p = p - lr * (g + momentum * b if nesterov else b)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        momentum: Share of the buffer that is kept, >= 0; 0 keeps none and stores none.
        dampening: The new gradient counts 1 - dampening.
        weight_decay: >= 0; an L2 penalty unless a Decay option says otherwise.
        nesterov: Look ahead along the buffer; needs momentum and no dampening.
        maximize, foreach, differentiable, fused: As in torch.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Sutskever, Martens, Dahl, Hinton 2013, "On the importance of initialization and momentum in deep
        learning", ICML.

    Differs:
        As torch: lr multiplies the buffer, where Sutskever et al. have it inside, so that a change of lr
        acts at once; the first buffer is the whole gradient, undamped.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.SGD([w], lr=0.1, momentum=0.9)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.8, 0.8]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        super().__init__(**passed(locals(), rule=sgd))
