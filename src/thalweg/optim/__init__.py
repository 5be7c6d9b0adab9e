"""Optimizers: one file per family, each rule beside its public class."""

from thalweg.optim.adabelief import AdaBelief
from thalweg.optim.adabound import AdaBound, AMSBound
from thalweg.optim.adam import Adam, AdamW
from thalweg.optim.adan import Adan
from thalweg.optim.ademamix import AdEMAMix
from thalweg.optim.adopt import ADOPT
from thalweg.optim.lamb import LAMB
from thalweg.optim.lars import LARS
from thalweg.optim.lion import Lion
from thalweg.optim.novograd import NovoGrad
from thalweg.optim.radam import RAdam, Ranger
from thalweg.optim.sgd import SGD
from thalweg.optim.sign import SignSGD, Signum
from thalweg.optim.stableadamw import StableAdamW

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "RAdam",
    "Ranger",
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
]
