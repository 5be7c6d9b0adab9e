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

__all__ = [
    "Argument",
    "Capabilities",
    "OptimizerInfo",
    "Variant",
    "create_optimizer",
    "list_optimizers",
    "optimizer_info",
]
