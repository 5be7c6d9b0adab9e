"""Leaving a whole step out when a gradient is not finite."""

from __future__ import annotations

from typing import Any

from thalweg.engine.ops import isfinite, sum, where
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Scalar


@option("gate", scalars=(Scalar("skipped"),), scope="optimizer")
def skip_non_finite(g: Any, *, skipped: Any) -> Any:
    """Whether to keep the step, and the count of those that were not kept."""
    keep = sum(where(isfinite(g), 0.0, 1.0), over="all") == 0.0
    return keep, where(keep, skipped, skipped + 1.0)


class SkipNonFinite(Option):
    """Leave the step out, whole, if any gradient of any parameter is infinite or NaN.

    Parameters, state and step counts stay as they are; `optimizer.skipped_steps` counts. It reads every
    gradient once more, before the step.
    """

    spec = skip_non_finite

    def __init__(self) -> None:
        super().__init__()
