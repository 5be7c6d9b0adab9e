"""The recipe around an optimizer, as one object or part by part: averages, accumulation, precision, logs."""

from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.average import ModelAverage
from thalweg.recipe.monitor import Monitor
from thalweg.recipe.presets import finetune, transformer
from thalweg.recipe.recipe import Recipe
from thalweg.recipe.writers import CSVWriter, TensorBoardWriter, Writer, learning_rates
from thalweg.recipe.yolov5 import yolov5

__all__ = [
    "Recipe",
    "yolov5",
    "transformer",
    "finetune",
    "ModelAverage",
    "Accumulate",
    "Monitor",
    "CSVWriter",
    "TensorBoardWriter",
    "Writer",
    "learning_rates",
]
