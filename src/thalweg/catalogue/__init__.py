"""Optimizers by name: making them, listing them, and what each is, does and costs."""

from thalweg.catalogue.info import (
    Argument,
    Capabilities,
    OptimizerInfo,
    Variant,
    list_optimizers,
    optimizer_info,
)
from thalweg.catalogue.names import create_optimizer
from thalweg.catalogue.option_info import OptionInfo, option_info

__all__ = [
    "Argument",
    "Capabilities",
    "OptimizerInfo",
    "OptionInfo",
    "Variant",
    "create_optimizer",
    "list_optimizers",
    "optimizer_info",
    "option_info",
]
