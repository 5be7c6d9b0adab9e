"""Which optimizer is better here? Tuned alike, seeded, side by side."""

from thalweg.study.comparison import EPOCHS, SEEDS, Moment, compare
from thalweg.study.contenders import DEFAULTS, Contender
from thalweg.study.paths import STEPS, Trajectories, Trajectory, trajectories
from thalweg.study.rates import ADAPTIVE, EffectiveRates, Rates, effective_lr
from thalweg.study.report import FILES
from thalweg.study.results import Comparison, Entry
from thalweg.study.surfaces import SURFACES, Surface
from thalweg.study.tasks import TASKS, Split, Task
from thalweg.study.train import Run

__all__ = [
    "compare",
    "trajectories",
    "effective_lr",
    "Comparison",
    "Entry",
    "Run",
    "Moment",
    "Contender",
    "DEFAULTS",
    "EPOCHS",
    "SEEDS",
    "FILES",
    "Task",
    "Split",
    "TASKS",
    "ADAPTIVE",
    "EffectiveRates",
    "Rates",
    "Trajectories",
    "Trajectory",
    "STEPS",
    "Surface",
    "SURFACES",
]
