"""Ultralytics (YOLO, RT-DETR) with our optimizers by name: `model.train(trainer=trainer_for(model), ...)`.

Ultralytics is licensed under AGPL-3.0, or commercially, by its authors; nothing of its source is in here.
"""

from __future__ import annotations

from typing import Any

from thalweg.integrations.ultralytics.command import yolo
from thalweg.integrations.ultralytics.trainer import ThalwegTrainer, trainer_class, trainer_for

__all__ = ["trainer_for", "ThalwegTrainer", "yolo"]


def __getattr__(name: str) -> Any:
    """Trainers by their names: processes that Ultralytics 8.3 starts import them so."""
    found = trainer_class(name) if name.endswith("Trainer") else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
