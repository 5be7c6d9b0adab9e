"""Slow, obviously correct float64 references, written from the papers; they import NumPy alone."""

from oracles.reference import Options, Reference
from oracles.rules import Adam, Lion, RAdam, Sgd

__all__ = ["Adam", "Lion", "Options", "RAdam", "Reference", "Sgd"]
