"""Cautious masking: no step where the direction and the gradient disagree."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import count, sign, sum, where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Switch


@option(
    "direction",
    rank=20,
    switches=(Switch("rescale", True),),
    paper="Liang et al. 2024, arXiv:2411.16085, Algorithm 1",
)
def cautious(u: Any, *, g: Any, rescale: bool) -> Any:
    """The direction where its sign is the gradient's, else zero."""
    agrees = sign(u) * g > 0.0  # u * g underflows where both are small
    kept = where(agrees, u, 0.0)
    if not rescale:
        return kept
    return kept * (count(u) / (sum(where(agrees, 1.0, 0.0)) + 1.0))


class Cautious(Option):
    """Leave out the elements of the step whose sign is not the gradient's.

    Momentum may point against the gradient of the moment; such elements are zeroed. With rescaling the
    rest grows by d / (kept + 1), so that the step keeps its size; this takes a sum over each tensor first
    and so a second sweep over memory. The gradient is the one that the rule saw.

    Args:
        rescale: Whether to scale up what is kept, per tensor.

    Reference:
        Liang, Chen, Liu, Liu 2024, arXiv:2411.16085, Algorithm 1.
    """

    spec = cautious

    def __init__(self, rescale: bool = True) -> None:
        super().__init__(rescale=rescale)
