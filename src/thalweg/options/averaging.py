"""Averages of the weights, kept in the same pass as the step."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import lerp
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Slot


@option(
    "after",
    rank=20,
    slots=(Slot("ema", init="param"),),
    hypers=(Hyper("decay", 0.999, low=0.0, high=1.0),),
    paper="Polyak and Juditsky 1992; exponential form as in Tarvainen and Valpola 2017, arXiv:1703.01780",
    averages="ema",
)
def average(p: Any, ema: Any, *, decay: Any) -> Any:
    """The average moves 1 - decay of the way to the new weights."""
    return p, lerp(ema, p, 1.0 - decay)


class Average(Option):
    """Keep an exponential moving average of the weights; `with optimizer.averaged():` evaluates it.

    It begins as the weights before the first step, and is of the weights after every other option. It
    averages parameters alone: buffers such as batch-norm statistics stay the model's.

    Args:
        decay: In [0, 1); 1 / (1 - decay) steps are its memory.

    Reference:
        Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    spec = average

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(decay=decay)
