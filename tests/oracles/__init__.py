"""Slow, obviously correct float64 references, written from the papers; they import NumPy alone."""

from oracles.reference import Options, Reference
from oracles.rules import Adafactor, Adam, Lion, RAdam, Sgd

__all__ = ["Adafactor", "Adam", "Lion", "Options", "RAdam", "Reference", "Sgd"]
