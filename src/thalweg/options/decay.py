"""Weight decay: one number, `weight_decay`, and the style that says what it means."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from thalweg.engine.ops import where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Group, Hyper, Switch, find_rule, first_lr, returns_step
from thalweg.errors import ArgumentError

STYLES = ("l2", "decoupled", "independent", "direction", "proximal")
BESIDE = ("decoupled", "independent", "proximal")
"""Styles that shrink the parameter beside the step: what can be masked."""


def style_of(group: Group) -> str:
    """The user's style, else what torch's flag says, else the rule's; "none" while the number is zero."""
    if group["weight_decay"] == 0:
        return "none"
    chosen = group.get("decay_style")
    if chosen is None and "decoupled_weight_decay" in group:
        chosen = "decoupled" if group["decoupled_weight_decay"] else "l2"
    chosen = chosen or find_rule(group["rule"]).decay
    if chosen not in (*STYLES, "own"):  # "own": the rule itself places it
        raise ArgumentError(f"decay_style {chosen!r} in a group; allowed: {', '.join(STYLES)}")
    return str(chosen)


def _is_cautious(group: Group) -> bool:
    return bool(group.get("decay_cautious", False)) and group["weight_decay"] != 0


def _initial_lr(group: Group) -> dict[str, Any]:
    """Independent decay follows the schedule, relative to the learning rate at construction."""
    if group.get("decay_style") != "independent":
        return {}
    return {"decay_initial_lr": first_lr("Decay('independent') is", group)}


@option(
    "gradient",
    rank=50,
    name="decay",
    hypers=(
        Hyper("weight_decay", 0.0, low=0.0, at="weight_decay"),
        Hyper("initial_lr", 1e-3, low=0.0, at="decay_initial_lr", derived=True),
    ),
    switches=(
        Switch("style", read=style_of),
        Switch("cautious", read=_is_cautious),
        Switch("is_step", read=returns_step),
    ),
    paper="Loshchilov and Hutter 2017, arXiv:1711.05101; cautious: Chen et al. 2025, arXiv:2510.12402",
    builtin=True,
    at_construction=_initial_lr,
)
def decay(g: Any, *, p: Any, weight_decay: Any, style: str) -> Any:
    """The gradient of the penalty weight_decay/2 * |p|^2 joins the loss's."""
    return g + weight_decay * p if style == "l2" else g


@decay.at("direction", rank=10)
def _inside(u: Any, *, p: Any, lr: Any, weight_decay: Any, style: str, is_step: bool) -> Any:
    """The parameter joins the direction, before it is masked or scaled."""
    if style != "direction":
        return u
    return u + (lr * weight_decay if is_step else weight_decay) * p


@decay.at("apply", rank=0)
def _apply(
    p: Any, step: Any, *, lr: Any, weight_decay: Any, initial_lr: Any, style: str, cautious: bool
) -> Any:
    """The parameter shrinks beside the step, by what it was before it."""
    if style not in BESIDE:
        return p - step
    if style == "proximal":
        pulled = (p - step) * (1.0 / (1.0 + lr * weight_decay))
        return where(step * p >= 0.0, pulled, p - step) if cautious else pulled
    rate = lr if style == "decoupled" else lr / initial_lr
    kept = p * (1.0 - rate * weight_decay)
    if cautious:
        kept = where(step * p >= 0.0, kept, p)
    return kept - step


class Decay(Option):
    """What `weight_decay` means.

    "l2": its gradient joins the loss's before the rule (an adaptive rule then rescales it). "decoupled":
    p *= 1 - lr * weight_decay beside the step, as in AdamW. "independent": p *= 1 - weight_decay * lr / lr
    at construction, so that the size of lr does not change the strength of decay but the schedule does.
    "direction": weight_decay * p joins the direction after the rule and before Cautious and TrustRatio, as
    in LAMB. "proximal": p = (p - step) / (1 + lr * weight_decay), as in Adan.

    Args:
        style: "l2", "decoupled", "independent", "direction" or "proximal".
        cautious: Shrink only where the step does not push the weight away from zero (step * p >= 0);
            not with "l2" or "direction".

    Raises:
        ValueError: An unknown style, cautious l2 or direction, or independent with lr = 0 at construction.

    Reference:
        Loshchilov and Hutter 2017, arXiv:1711.05101. Cautious: Chen et al. 2025, arXiv:2510.12402.
        Direction: You et al. 2020, arXiv:1904.00962. Proximal: Xie et al. 2022, arXiv:2208.06677.

    Example:
        >>> import torch, thalweg
        >>> from thalweg.options import Decay
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = thalweg.SGD([w], lr=0.5, weight_decay=0.1, options=[Decay("independent")])
        >>> w.grad = torch.zeros(1)
        >>> optimizer.step()
        >>> round(w.item(), 4)
        0.9
    """

    spec = decay
    example: ClassVar = {"style": "independent"}

    def __init__(
        self,
        style: Literal["l2", "decoupled", "independent", "direction", "proximal"],
        cautious: bool = False,
    ) -> None:
        if style not in STYLES:
            raise ArgumentError(f"Decay style {style!r}; allowed: {', '.join(STYLES)}")
        if cautious and style not in BESIDE:
            raise ArgumentError(
                f"Decay({style!r}, cautious=True): what it adds is not a step of its own to mask; "
                "use 'decoupled'"
            )
        super().__init__(style=style, cautious=cautious)

    def keys(self) -> dict[str, Any]:
        """The style alone: the number is the group's `weight_decay`."""
        return {"decay_style": self.values["style"], "decay_cautious": self.values["cautious"]}
