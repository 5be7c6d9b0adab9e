"""The pictures: one file per kind, and one for what they share."""

from thalweg.house import short
from thalweg.study.figures.losses import draw, picture, smooth
from thalweg.study.figures.paths import animate, trajectories
from thalweg.study.figures.rates import effective_lr

__all__ = ["draw", "picture", "smooth", "short", "trajectories", "animate", "effective_lr"]
