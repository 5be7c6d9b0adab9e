"""Gradient centralization."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import mean
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Switch


@option(
    "gradient",
    rank=40,
    switches=(Switch("has_rows", min_ndim=2),),
    paper="Yong, Huang, Hua, Zhang 2020, arXiv:2004.01461, equation 1",
)
def centralize(g: Any, *, has_rows: bool) -> Any:
    """The gradient less its mean over each row; vectors stay as they are."""
    return g - mean(g, over="row") if has_rows else g


class Centralize(Option):
    """Subtract from each gradient its mean over all dimensions but the first.

    For tensors of two or more dimensions (a row is what feeds one output unit); biases and norm weights
    stay as they are.

    Reference:
        Yong, Huang, Hua, Zhang 2020, arXiv:2004.01461.
    """

    spec = centralize

    def __init__(self) -> None:
        super().__init__()
