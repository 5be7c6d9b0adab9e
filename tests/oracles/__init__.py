"""Slow, obviously correct float64 references, written from the papers; they import NumPy alone."""

from oracles.classical import Adadelta, Adagrad, Adamax, Asgd, NAdam, RMSprop, Rprop
from oracles.reference import Options, Reference
from oracles.rules import Adam, Lion, RAdam, Sgd

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Asgd",
    "Lion",
    "NAdam",
    "Options",
    "RAdam",
    "RMSprop",
    "Reference",
    "Rprop",
    "Sgd",
]
