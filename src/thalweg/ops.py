"""What a rule computes with: `from thalweg.ops import lerp, sign, sqrt`."""

from thalweg.engine.ops import (
    abs,
    as_stored,
    atan2,
    clamp,
    count,
    exp,
    floor,
    isfinite,
    lerp,
    log,
    matrix,
    max,
    maximum,
    mean,
    minimum,
    norm,
    sign,
    sqrt,
    sum,
    where,
)

__all__ = [
    "abs", "as_stored", "atan2", "clamp", "count", "exp", "floor", "isfinite", "lerp", "log", "matrix",
    "max", "maximum", "mean", "minimum", "norm", "sign", "sqrt", "sum", "where",
]  # fmt: skip
