"""Thalweg: write an optimizer update once, compose it with anything, run it as one fused kernel."""

from thalweg import errors, ops, options
from thalweg.catalogue import create_optimizer, list_optimizers, optimizer_info
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Rule, Scalar, Slot, Switch, nonzero, rule
from thalweg.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AdamWScheduleFree,
    Lion,
    Muon,
    MuonAdamW,
    NAdam,
    Prodigy,
    RAdam,
    RAdamScheduleFree,
    Ranger,
    RMSprop,
    Rprop,
    SGDScheduleFree,
    SparseAdam,
)
from thalweg.wrappers import SAM, Lookahead

__version__ = "0.1.0"

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "MuonAdamW",
    "Prodigy",
    "RAdam",
    "AdamWScheduleFree",
    "RAdamScheduleFree",
    "SGDScheduleFree",
    "SparseAdam",
    "NAdam",
    "RMSprop",
    "Ranger",
    "Rprop",
    "Lookahead",
    "SAM",
    "Optimizer",
    "create_optimizer",
    "list_optimizers",
    "optimizer_info",
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
