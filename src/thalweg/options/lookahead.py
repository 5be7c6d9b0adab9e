"""Lookahead: slow weights that the fast ones are pulled back to."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import lerp, where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Scalar, Slot


@option(
    "after",
    rank=10,
    slots=(Slot("slow", init="param"),),
    scalars=(Scalar("step"),),
    hypers=(
        Hyper("k", 6, low=1, integer=True),
        Hyper("alpha", 0.5, low=0.0, high=1.0, closed=True),
    ),
    paper="Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610, Algorithm 1",
    shows="slow",
)
def lookahead(p: Any, slow: Any, *, k: Any, alpha: Any, t: Any) -> Any:
    """Every k steps both become the point `alpha` of the way from slow to fast."""
    new = lerp(slow, p, alpha)
    sync = t % k == 0
    return where(sync, new, p), where(sync, new, slow)


class Lookahead(Option):
    """Every k steps, go back to `alpha` of the way from where the slow weights stood.

    The slow weights are taken when state is created (before the first step), so that the first sync is
    a real one. They cost one more tensor per parameter, and are touched only every k steps. The step
    count is each parameter's own, and saved: a run resumed between syncs goes on exactly.

    Between syncs the model holds the fast weights; what the paper evaluates is the slow ones: `with
    optimizer.averaged():`, or right after a sync, where both are the same. In a group that averages weights
    (`Average`, ASGD) that shows its average instead. `optimizer.eval()` leaves the fast weights in place.

    Args:
        k: Steps between syncs, >= 1.
        alpha: Share of the way, in [0, 1].

    Reference:
        Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610, Algorithm 1.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = thalweg.SGD([w], lr=0.25, options=[thalweg.options.Lookahead(k=2)])
        >>> for _ in range(3):
        ...     w.grad = torch.ones(1)
        ...     optimizer.step()
        >>> with optimizer.averaged():
        ...     w.item()
        0.75
        >>> w.item()
        0.5
    """

    spec = lookahead

    def __init__(self, k: int = 6, alpha: float = 0.5) -> None:
        super().__init__(k=k, alpha=alpha)
