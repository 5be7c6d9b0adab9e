"""Mixed precision: autocast, the gradient scaler, and whether a step was really taken."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ArgumentError
from thalweg.recipe.made import held_back

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast and the scaler of a training, and the step that knows whether it was skipped.

    Args:
        model: Where its parameters are is where autocast acts.
        optimizer: Whose gradients are unscaled.
        name: "fp32", "bf16", or "fp16", which makes a scaler.
        scaler: One of one's own.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        name: str,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        if name not in DTYPES:
            raise ArgumentError(
                f"unknown precision {name!r}; known: {', '.join(map(repr, DTYPES))}"
            )
        first = next(iter(model.parameters()), None)
        self.device = "cpu" if first is None else first.device.type
        self.name, self.optimizer = name, optimizer
        if scaler is None and name == "fp16":
            scaler = torch.amp.GradScaler(self.device)
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forward: matrix products in the low precision."""
        dtype = DTYPES[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss, times the scaler's number."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale(self) -> None:
        """Divide the gradients by that number, before anything looks at them."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def step(self) -> bool:
        """Take the step and update the scaler; return whether it was taken.

        A scaler skips what it found infinite, also where its number can become no smaller; the option
        `SkipNonFinite` counts what it held back.
        """
        before = held_back(self.optimizer)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            found = self.scaler._found_inf_per_device(self.optimizer).values()
            overflowed = any(float(x) for x in found)
            self.scaler.update()
            if overflowed:
                return False
        return held_back(self.optimizer) == before
