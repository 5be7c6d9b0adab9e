"""Wrappers: optimizers around any `torch.optim.Optimizer`, ours or not."""

from thalweg.wrappers.lookahead import Lookahead
from thalweg.wrappers.sam import SAM

__all__ = ["Lookahead", "SAM"]
