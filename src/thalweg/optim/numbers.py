"""Numbers and slots that many rules have, declared in one place."""

from __future__ import annotations

from thalweg.engine.rule import Hyper, Slot, Switch, nonzero


def betas(*defaults: float) -> tuple[Hyper, ...]:
    """The shares of running means that are kept: beta1, beta2, ..., of the group's tuple `betas`."""
    return tuple(
        Hyper(f"beta{i + 1}", default, low=0.0, high=1.0, at=f"betas[{i}]")
        for i, default in enumerate(defaults)
    )


def epsilon(default: float, *, above: float | None = None) -> Hyper:
    """What keeps a division finite: >= 0, or above a bound."""
    low = 0.0 if above is None else None
    return Hyper("eps", default, low=low, above=above, says="Invalid epsilon value")


BETAS = betas(0.9, 0.999)
"""Adam's."""
EPS = epsilon(1e-8)
"""Adam's."""
SQUARE = Slot("exp_avg_sq", signed=False)
"""The running mean square."""
MOMENTS = (Slot("exp_avg"), SQUARE)
"""The running mean, and the running mean square."""
BUFFER = Slot("momentum_buffer", when="has_momentum")
"""SGD's, of a rule with the switch HAS_MOMENTUM."""
HAS_MOMENTUM = Switch("has_momentum", read=nonzero("momentum"))
"""Whether the group's momentum is not zero."""
