"""What happens to the gradient before the rule sees it: direction, and bounds on its size."""

from __future__ import annotations

import math
from typing import Any

from thalweg.engine.ops import clamp, minimum, norm
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Switch


@option(
    "gradient",
    rank=10,
    switches=(Switch("on", read=lambda group: bool(group["maximize"])),),
    builtin=True,
)
def maximize(g: Any, *, on: bool) -> Any:
    """Climb: the gradient changes sign."""
    return -g if on else g


class Maximize(Option):
    """Climb instead of descend: the same as `maximize=True`, for all rules and per group."""

    spec = maximize

    def __init__(self) -> None:
        super().__init__()

    def keys(self) -> dict[str, Any]:
        """Torch's own key."""
        return {"maximize": True}


@option(
    "gradient", rank=20, hypers=(Hyper("max_value", 1.0, above=0.0, high=math.inf, closed=True),)
)
def clip_value(g: Any, *, max_value: Any) -> Any:
    """Each element between -max_value and max_value."""
    return clamp(g, -max_value, max_value)


class ClipValue(Option):
    """Clip each gradient element to [-max_value, max_value], as `clip_grad_value_` does, inside the step.

    `p.grad` itself is not written; NaN stays NaN.

    Args:
        max_value: > 0.
    """

    spec = clip_value

    def __init__(self, max_value: float) -> None:
        super().__init__(max_value=max_value)


@option(
    "gradient",
    rank=30,
    hypers=(Hyper("max_norm", 1.0, above=0.0, high=math.inf, closed=True),),
    scope="optimizer",
)
def clip_norm(g: Any, *, max_norm: Any) -> Any:
    """Scaled down so that the norm of all gradients together is at most max_norm."""
    return g * minimum(max_norm / (norm(g, over="all") + 1e-6), 1.0)


class ClipNorm(Option):
    """Scale all gradients so that their joint Euclidean norm is at most max_norm, inside the step.

    As `clip_grad_norm_` (with its 1e-6 in the denominator), but `p.grad` is not written and the norm is
    summed in float64. It is the norm of what stands before it in the table: after `ClipValue`.

    Args:
        max_norm: > 0; the same in all groups.

    Reference:
        Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063.
    """

    spec = clip_norm

    def __init__(self, max_norm: float) -> None:
        super().__init__(max_norm=max_norm)
