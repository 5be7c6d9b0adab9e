"""Slow, obviously correct float64 references, written from the papers; they import NumPy alone."""

from oracles.modern import (
    AdaBelief,
    AdaBound,
    Adan,
    AdEMAMix,
    Adopt,
    Lars,
    NovoGrad,
    Signum,
    StableAdamW,
)
from oracles.reference import Options, Reference
from oracles.rules import Adam, Lion, RAdam, Sgd

__all__ = [
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "Adam",
    "Adan",
    "Adopt",
    "Lars",
    "Lion",
    "NovoGrad",
    "Options",
]
__all__ += ["RAdam", "Reference", "Sgd", "Signum", "StableAdamW"]
