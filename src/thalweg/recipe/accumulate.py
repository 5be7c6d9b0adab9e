"""Gradient accumulation: when a step is due, and what it does to the loss and the decay."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from thalweg.errors import ArgumentError, CheckpointError
from thalweg.recipe.numbers import whole

T = TypeVar("T", float, Tensor)


class Accumulate:
    """Let several batches make one step, so that small batches train as a nominal batch does.

    A step is due when as many batches have passed since the last one as `batches` says. Over the warm-up
    that number rises linearly from 1, as in YOLOv5: early steps are small and frequent. Call `advance()`
    once a batch, after `backward()`.

    Formula:
        accumulate = max(round(nominal / batch_size), 1)
        weight_decay = weight_decay * batch_size * accumulate / nominal

    Args:
        batch_size: Examples in a batch, of all processes together, >= 1.
        nominal: Examples that a step should see, >= 1; the hyper-parameters are meant for it.
        warmup: Batches of the ramp, >= 0; 0: none.
        reduction: "sum" adds the gradients of the batches, which is right for a loss that is a sum over
            examples (YOLOv5's); "mean" divides each loss by the batches of its step, right for a mean.

    Raises:
        ArgumentError: A number out of range, or an unknown reduction.
        ArgumentTypeError: What should be a number is none.

    Example:
        >>> from thalweg.recipe import Accumulate
        >>> accumulate = Accumulate(batch_size=16, nominal=64)
        >>> [accumulate.advance() for batch in range(8)]
        [False, False, False, True, False, False, False, True]
        >>> accumulate.weight_decay(5e-4)
        0.0005
    """

    def __init__(
        self,
        batch_size: int,
        nominal: int = 64,
        *,
        warmup: int = 0,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("nominal", nominal, 1),
            ("warmup", warmup, 0),
        ):
            whole("Accumulate", name, value, least)
        if reduction not in ("sum", "mean"):
            raise ArgumentError(f"unknown reduction {reduction!r}; known: 'sum', 'mean'")
        self.batch_size, self.nominal, self.warmup = int(batch_size), int(nominal), int(warmup)
        self.reduction = reduction
        self.batch = 0  # the batch that is being computed, from 0
        self._last = -1  # the batch that ended the last step
        self._size = 0  # batches of the step that is being gathered; 0: not asked yet

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, as plain values."""
        names = ("batch_size", "nominal", "warmup", "reduction")
        return {name: getattr(self, name) for name in names}

    def batches(self, batch: int) -> int:
        """How many batches make a step at this batch (counted from 0)."""
        most = self.nominal / self.batch_size
        if batch < self.warmup:
            most = (most - 1.0) / self.warmup * batch + 1.0
        return max(round(most), 1)

    def weight_decay(self, value: float) -> float:
        """The decay for the examples that a step really sees, where `value` is meant for `nominal`."""
        return value * self.batch_size * self.batches(self.warmup) / self.nominal

    @property
    def due(self) -> bool:
        """Whether the batch that is being computed ends a step."""
        return self.batch - self._last >= self.batches(self.batch)

    @property
    def pending(self) -> int:
        """Batches whose gradients wait for a step."""
        return self.batch - 1 - self._last

    def scale(self, loss: T) -> T:
        """The loss to call `backward()` on: divided by the batches of its step if `reduction="mean"`."""
        if self.reduction == "sum":
            return loss
        if not self._size:
            end = self._last + 1
            while end - self._last < self.batches(end):
                end += 1
            self._size = end - self._last
        return loss / self._size

    def advance(self) -> bool:
        """Count the batch; return whether a step is due now."""
        due = self.due
        if due:
            self._last, self._size = self.batch, 0
        self.batch += 1
        return due

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Around forward and backward: no exchange of gradients between processes unless a step is due.

        For DistributedDataParallel and whatever else has `no_sync()`; around other models it does nothing.
        Without it the numbers are the same, and every batch waits for the network.
        """
        if self.due or not hasattr(model, "no_sync"):
            return nullcontext()
        context: AbstractContextManager[Any] = model.no_sync()  # type: ignore[operator]
        return context

    def state_dict(self) -> dict[str, Any]:
        """The settings and where it is: plain values."""
        return {**self.settings, "batch": self.batch, "last": self._last}

    def check(self, state_dict: Mapping[str, Any]) -> None:
        """Whether `load_state_dict` would take it.

        Raises:
            CheckpointError: It would not.
        """
        for name, value in self.settings.items():
            if state_dict.get(name, value) != value:
                raise CheckpointError(
                    f"the checkpoint's {name} is {state_dict[name]!r}, this Accumulate's {value!r}"
                )
        for name, least in (("batch", 0), ("last", -1)):
            count = state_dict.get(name)
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise CheckpointError(f"this is no Accumulate's state_dict: {name!r} is {count!r}")

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; gradients that waited then are the caller's to keep.

        Raises:
            CheckpointError: It is of another accumulation, or of none; nothing was changed.
        """
        self.check(state_dict)
        self.batch, self._last, self._size = int(state_dict["batch"]), int(state_dict["last"]), 0
