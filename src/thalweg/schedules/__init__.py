"""Schedules: factors of the step in closed form, joined by >>, that drive any field of a group."""

from thalweg.schedules.combined import (
    absolute,
    function,
    join,
    per_epoch,
    product,
    scale,
    warmed,
)
from thalweg.schedules.curves import lr_curve, plot_lr
from thalweg.schedules.schedule import Schedule
from thalweg.schedules.scheduler import Scheduler
from thalweg.schedules.shapes import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step,
    warmup,
    wsd,
)
from thalweg.schedules.text import NAMES, as_schedule, parse, tabulated

__all__ = [
    "constant",
    "linear",
    "polynomial",
    "cosine",
    "one_cycle",
    "cosine_restarts",
    "exponential",
    "step",
    "multi_step",
    "inverse_sqrt",
    "wsd",
    "warmup",
    "join",
    "product",
    "scale",
    "per_epoch",
    "warmed",
    "absolute",
    "function",
    "Schedule",
    "Scheduler",
    "parse",
    "tabulated",
    "as_schedule",
    "plot_lr",
    "lr_curve",
    "NAMES",
]
