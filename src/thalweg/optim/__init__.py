"""Optimizers: one file per family, each rule beside its public class."""

from thalweg.optim.adam import Adam, AdamW
from thalweg.optim.lion import Lion
from thalweg.optim.muon import Muon, MuonAdamW
from thalweg.optim.prodigy import Prodigy
from thalweg.optim.radam import RAdam, Ranger
from thalweg.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Lion", "Muon", "MuonAdamW", "Prodigy", "RAdam", "Ranger"]
