"""Our classes under torch's names."""

from __future__ import annotations

import importlib

import torch

import thalweg

CLASSES = {
    "Adadelta": "adadelta",
    "Adafactor": "_adafactor",
    "Adagrad": "adagrad",
    "Adam": "adam",
    "Adamax": "adamax",
    "AdamW": "adamw",
    "ASGD": "asgd",
    "LBFGS": "lbfgs",
    "Muon": "_muon",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "Rprop": "rprop",
    "SGD": "sgd",
    "SparseAdam": "sparse_adam",
}
"""Every optimizer of torch's, and the module of torch.optim that defines it."""


def ours() -> list[str]:
    """The names of torch's optimizers that we have."""
    return [name for name in CLASSES if hasattr(thalweg, name)]


def replace() -> list[str]:
    """Put our classes where torch's are looked up; before `common_optimizers`, which keeps them, is imported.

    Returns:
        The names that were replaced.
    """
    for name in ours():
        mine = getattr(thalweg, name)
        setattr(torch.optim, name, mine)
        # Not `torch.optim.adam` as an attribute: some of these modules are hidden behind other names.
        setattr(importlib.import_module(f"torch.optim.{CLASSES[name]}"), name, mine)
    return ours()
