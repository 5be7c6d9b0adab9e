"""Thalweg: write an optimizer update once, compose it with anything, run it as one fused kernel."""

import importlib as _importlib

from thalweg import errors, ops, options
from thalweg.catalogue import create_optimizer, list_optimizers, optimizer_info, option_info
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option, option
from thalweg.engine.rule import Hyper, Rule, Scalar, Slot, Switch, nonzero, rule
from thalweg.files import save
from thalweg.optim import (
    ADOPT,
    ASGD,
    LAMB,
    LARS,
    LBFGS,
    SGD,
    AdaBelief,
    AdaBound,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AdamWScheduleFree,
    Adan,
    AdEMAMix,
    AMSBound,
    Lion,
    Muon,
    MuonAdamW,
    NAdam,
    NovoGrad,
    Prodigy,
    RAdam,
    RAdamScheduleFree,
    Ranger,
    RMSprop,
    Rprop,
    SGDScheduleFree,
    SignSGD,
    Signum,
    SparseAdam,
    StableAdamW,
)
from thalweg.wrappers import SAM, Lookahead

__version__ = "0.1.0"

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adafactor",
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
    "SignSGD",
    "Signum",
    "AdaBound",
    "AMSBound",
    "AdaBelief",
    "Adan",
    "ADOPT",
    "AdEMAMix",
    "StableAdamW",
    "NovoGrad",
    "LARS",
    "LAMB",
    "Optimizer",
    "create_optimizer",
    "list_optimizers",
    "save",
    "optimizer_info",
    "option_info",
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
    "groups",
    "schedules",
    "recipe",
    "ops",
    "errors",
]

_ON_DEMAND = ("conformance", "groups", "recipe", "schedules")


def __getattr__(name: str) -> object:
    """Rooms that not everybody enters are loaded when they are: importing thalweg stays short."""
    if name in _ON_DEMAND:
        return _importlib.import_module(f"thalweg.{name}")
    raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
