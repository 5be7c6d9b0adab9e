"""Thalweg: write an optimizer update once, compose it with anything, run it as one fused kernel."""

from thalweg import errors, ops, options
from thalweg.catalogue import create_optimizer, list_optimizers
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Rule, Scalar, Slot, Switch, nonzero, rule
from thalweg.optim import (
    SGD,
    Adam,
    AdamW,
    AdamWScheduleFree,
    Lion,
    Muon,
    MuonAdamW,
    Prodigy,
    RAdam,
    RAdamScheduleFree,
    Ranger,
    SGDScheduleFree,
    SparseAdam,
)

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "Muon",
    "MuonAdamW",
    "Prodigy",
    "RAdam",
    "AdamWScheduleFree",
    "RAdamScheduleFree",
    "SGDScheduleFree",
    "SparseAdam",
    "Ranger",
    "Optimizer",
    "create_optimizer",
    "list_optimizers",
    "rule",
    "Rule",
    "Slot",
    "Scalar",
    "Hyper",
    "Switch",
    "nonzero",
    "option",
    "Option",
    "options",
    "ops",
    "errors",
]
