"""Epochs that a resumed training repeats to the bit: their random numbers, and the count of batches."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from thalweg.integrations.ultralytics.kept import put_gradients, unwrapped

EPOCH = 1_000_003  # seeds of epochs are this far apart, more than anyone's seeds and ranks


class Epochs:
    """The part of the trainer that counts batches and seeds each epoch by its number.

    Ultralytics seeds once, at the start, so that a resumed training sees other batches than the unbroken one.
    With workers=0 (always so on CPUs) order and augmentation of an epoch now follow from `seed` and its
    number; with worker processes, which live through all epochs, as much as Ultralytics gives.
    """

    epoch: int
    args: Any
    model: Any
    train_loader: Any
    accumulate: int
    _ours = False  # whether the optimizer is ours; "auto" is replaced by a name that could be
    _batch = -1  # the batch that is computed, over all epochs
    _stepped = -1  # the batch of the last step
    _caught_up = (
        True  # False: since resuming there was no step, and Ultralytics counts from its start
    )
    _nominal = 1  # batches of a step, meanwhile
    _waiting: Mapping[str, Tensor] = MappingProxyType(
        {}
    )  # gradients of a step that resuming goes on with

    def _model_train(self) -> None:
        """Begin an epoch: Ultralytics calls it before it takes the first batch."""
        parent: Any = super()
        parent._model_train()
        self._batch = self.epoch * len(self.train_loader) - 1
        put_gradients(unwrapped(self.model), self._waiting)
        self._waiting = {}
        if self._ours:
            self._seed_epoch()

    def _seed_epoch(self) -> None:
        from ultralytics.utils import RANK

        seed = self.args.seed + 1 + RANK + EPOCH * (self.epoch + 1)
        seed_all(seed)
        loader = self.train_loader
        if loader.num_workers == 0:
            generator = getattr(loader.sampler, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            forget_images(loader.dataset)
            loader.reset()

    def preprocess_batch(self, batch: Any) -> Any:
        """Count the batch; Ultralytics has just set how many make a step."""
        self._batch += 1
        if not self._caught_up:
            self._nominal, self.accumulate = self.accumulate, 1  # so that it asks after each batch
        parent: Any = super()
        return parent.preprocess_batch(batch)

    def optimizer_step(self) -> None:
        """Take a step, or after resuming wait for as many batches as the unbroken training."""
        if not self._caught_up:
            self.accumulate = self._nominal
            if self._batch - self._stepped < self._nominal:
                return
            self._caught_up = True
        parent: Any = super()
        parent.optimizer_step()
        self._stepped = self._batch


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch, all devices."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def forget_images(dataset: Any) -> None:
    """Empty the store of images loaded lately, out of which mosaics are made."""
    if getattr(dataset, "cache", None) == "ram":
        return
    for i in getattr(dataset, "buffer", ()):
        dataset.ims[i] = dataset.im_hw0[i] = dataset.im_hw[i] = None
    if getattr(dataset, "buffer", None):
        dataset.buffer.clear()
