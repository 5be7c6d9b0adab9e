"""The trust ratio: each tensor's step in proportion to the tensor."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import norm, where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Switch, returns_step


@option(
    "direction",
    rank=30,
    switches=(Switch("has_rows", min_ndim=2), Switch("is_step", read=returns_step)),
    paper="You et al. 2020, arXiv:1904.00962, Algorithm 2",
)
def trust_ratio(u: Any, *, p: Any, lr: Any, has_rows: bool, is_step: bool) -> Any:
    """The direction, as long as the parameter; vectors stay as they are."""
    if not has_rows:
        return u
    size, length = norm(p), norm(u)
    ratio = (lr * size if is_step else size) / length
    return u * where((size > 0.0) & (length > 0.0), ratio, 1.0)


class TrustRatio(Option):
    """Scale each tensor's direction to the norm of the parameter, so that a step changes it by lr.

    What makes LAMB of Adam, for any rule. For tensors of two or more dimensions; biases and norm weights
    keep their direction, and so does what is all zero (parameter or direction). It is the direction after
    decay inside it (`Decay("direction")`) and after Cautious. It takes a sum over each tensor first and so
    a second sweep over memory.

    Reference:
        You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh 2020, arXiv:1904.00962,
        Algorithm 2, with phi(z) = z.

    Differs:
        The paper scales every layer; the authors' code leaves out biases and norm weights, as here.
    """

    spec = trust_ratio

    def __init__(self) -> None:
        super().__init__()
