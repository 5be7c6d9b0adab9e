"""`thalweg yolo ...`: the command `yolo` of Ultralytics with our optimizers' names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from unittest import mock

from thalweg.errors import ArgumentError
from thalweg.integrations.ultralytics.trainer import trainer_for


def yolo(arguments: Sequence[str]) -> None:
    """Run Ultralytics' command; models are trained by `trainer_for(model)`.

    Args:
        arguments: What stands behind `yolo`: ["detect", "train", "model=yolov8n.yaml", "optimizer=lion"].

    Raises:
        ValueError: Ultralytics is not installed, or the optimizer is unknown.
    """
    if find_spec("ultralytics") is None:
        raise ArgumentError("thalweg yolo needs Ultralytics: pip install ultralytics")
    from ultralytics import cfg
    from ultralytics.engine.model import Model

    stock, words = Model.train, ["yolo", *arguments]

    def train(self: Any, trainer: Any = None, **kwargs: Any) -> Any:
        return stock(self, trainer=trainer or trainer_for(self), **kwargs)

    with (
        mock.patch.object(Model, "train", train),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(cfg, "ARGV", words, create=True),  # read when it was imported
    ):
        cfg.entrypoint()
