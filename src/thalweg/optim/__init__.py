"""Optimizers: one file per family, each rule beside its public class."""

from thalweg.optim.adabelief import AdaBelief
from thalweg.optim.adabound import AdaBound, AMSBound
from thalweg.optim.adafactor import Adafactor
from thalweg.optim.adagrad import Adadelta, Adagrad
from thalweg.optim.adam import Adam, AdamW
from thalweg.optim.adamax import Adamax
from thalweg.optim.adan import Adan
from thalweg.optim.ademamix import AdEMAMix
from thalweg.optim.adopt import ADOPT
from thalweg.optim.asgd import ASGD
from thalweg.optim.lamb import LAMB
from thalweg.optim.lars import LARS
from thalweg.optim.lbfgs import LBFGS
from thalweg.optim.lion import Lion
from thalweg.optim.muon import Muon, MuonAdamW
from thalweg.optim.nadam import NAdam
from thalweg.optim.novograd import NovoGrad
from thalweg.optim.prodigy import Prodigy
from thalweg.optim.radam import RAdam, Ranger
from thalweg.optim.rmsprop import RMSprop
from thalweg.optim.rprop import Rprop
from thalweg.optim.schedule_free import AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree
from thalweg.optim.sgd import SGD
from thalweg.optim.sign import SignSGD, Signum
from thalweg.optim.sparse_adam import SparseAdam
from thalweg.optim.stableadamw import StableAdamW

__all__ = [
    "SGD",
    "Adafactor",
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
    "ASGD",
    "LBFGS",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "NAdam",
    "RMSprop",
    "Rprop",
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
