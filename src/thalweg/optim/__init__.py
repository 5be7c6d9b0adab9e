"""Optimizers: one file per family, each rule beside its public class."""

from thalweg.optim.adafactor import Adafactor
from thalweg.optim.adam import Adam, AdamW
from thalweg.optim.lion import Lion
from thalweg.optim.radam import RAdam, Ranger
from thalweg.optim.sgd import SGD

__all__ = ["SGD", "Adafactor", "Adam", "AdamW", "Lion", "RAdam", "Ranger"]
