"""Optimizers: one file per family, each rule beside its public class."""

from thalweg.optim.adam import Adam, AdamW
from thalweg.optim.lion import Lion
from thalweg.optim.muon import Muon, MuonAdamW
from thalweg.optim.prodigy import Prodigy
from thalweg.optim.radam import RAdam, Ranger
from thalweg.optim.schedule_free import AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree
from thalweg.optim.sgd import SGD
from thalweg.optim.sparse_adam import SparseAdam

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdamWScheduleFree",
    "Lion",
    "Muon",
    "MuonAdamW",
    "Prodigy",
    "RAdam",
    "RAdamScheduleFree",
    "Ranger",
    "SGDScheduleFree",
    "SparseAdam",
]
