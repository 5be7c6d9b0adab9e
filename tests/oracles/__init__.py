"""Slow, obviously correct float64 references, written from the papers; they import NumPy alone."""

from oracles.classical import Adadelta, Adagrad, Adamax, Asgd, NAdam, RMSprop, Rprop
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
from oracles.muon import Muon, MuonAdamW
from oracles.reference import Options, Reference
from oracles.rules import Adafactor, Adam, Lion, RAdam, Sgd

__all__ = [
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adamax",
    "Adan",
    "Adopt",
    "Asgd",
    "Lars",
    "Lion",
    "Muon",
    "MuonAdamW",
    "NAdam",
    "NovoGrad",
    "Options",
    "RAdam",
    "RMSprop",
    "Reference",
    "Rprop",
    "Sgd",
    "Signum",
    "StableAdamW",
]
