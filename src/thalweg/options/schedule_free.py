"""Schedule-free: gradients are taken between the fast weights and their average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.ops import lerp, maximum, minimum, where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Group, Hyper, Scalar, Slot, Switch
from thalweg.errors import ArgumentError
from thalweg.options.decay import BESIDE, style_of


def _decays(group: Group) -> bool:
    """Whether there is decoupled decay to do: of what stands beside the step it is the only one done here."""
    style = style_of(group)
    if (style in BESIDE and style != "decoupled") or group.get("decay_cautious"):
        what = f"{'cautious ' * bool(group.get('decay_cautious'))}{style} decay"
        raise ArgumentError(
            f"ScheduleFree decays where gradients are taken, and {what} of {group['rule']} acts on the "
            "weights beside the step, which ScheduleFree replaces: choose options=[Decay('decoupled'), ...] "
            "or 'l2'"
        )
    return style == "decoupled"


def _average(y: Tensor, state: Mapping[str, Any], group: Group) -> Tensor:
    """The average x of y = beta x + (1 - beta) z."""
    z = state["schedule_free_z"].to(y.dtype)
    return torch.lerp(y, z, 1.0 - 1.0 / float(group["schedule_free_beta"]))


@option(
    "apply",
    slots=(Slot("z", init="param"),),
    scalars=(
        Scalar("k", scope="group"),
        Scalar("weight_sum", scope="group"),
        Scalar("lr_max", scope="group"),
    ),
    hypers=(
        Hyper("beta", 0.9, above=0.0, high=1.0, closed=True),
        Hyper("warmup_steps", 0, low=0, integer=True),
        Hyper("r", 0.0),
        Hyper("weight_lr_power", 2.0, low=0.0),
        Hyper("weight_decay", 0.0, low=0.0, at="weight_decay", derived=True),
    ),
    switches=(Switch("decays", read=_decays),),
    paper="Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky 2024, arXiv:2405.15682",
    averages=_average,
    excludes=("lookahead", "average"),
)
def schedule_free(
    p: Any,
    step: Any,
    z: Any,
    *,
    lr: Any,
    k: Any,
    weight_sum: Any,
    lr_max: Any,
    beta: Any,
    warmup_steps: Any,
    r: Any,
    weight_lr_power: Any,
    weight_decay: Any,
    decays: bool,
) -> Any:
    """The fast weights z step; the average x follows; p is between them."""
    ramp = minimum(1.0, (k + 1.0) / warmup_steps)
    rate = lr * ramp
    lr_max = maximum(rate, lr_max)
    weight = (k + 1.0) ** r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    share = where(weight_sum > 0.0, weight / weight_sum, 0.0)
    step = step * ramp
    if decays:
        step = step + rate * weight_decay * p
    y = lerp(p, z, share) - (1.0 - beta * (1.0 - share)) * step
    return y, z - step, k + 1.0, weight_sum, lr_max


class ScheduleFree(Option):
    """Train without a schedule: what is evaluated is an average of the weights that made the steps.

    While training, parameters hold y, between the fast weights z and their average x. Call
    `optimizer.eval()` (or `with optimizer.averaged():`) before evaluating or saving a model, and
    `optimizer.train()` before going on; batch-norm statistics are those of y and want a few batches at x.
    Use a rule without momentum: beta is one.

    Formula:
        z = z - lr * (u + weight_decay * y)
        x = x + c (z - x),  c = w_k / (w_1 + ... + w_k),  w_k = k^r * max(lr)^weight_lr_power
        y = beta x + (1 - beta) z

    Args:
        beta: How near to the average gradients are taken, in (0, 1].
        warmup_steps: Steps in which lr ramps up from 0, >= 0.
        r: Power of the step in the average's weights.
        weight_lr_power: Power of the largest lr in them, >= 0.

    Raises:
        ValueError: A number out of range, or a decay style beside the step that is not plainly decoupled
            (Adan's own is one: choose Decay("decoupled")).

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky 2024, arXiv:2405.15682.
    """

    spec = schedule_free

    def __init__(
        self,
        beta: float = 0.9,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        super().__init__(beta=beta, warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power)
