"""The parts around an optimizer, and the one call that runs them in the right order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from thalweg import files
from thalweg.errors import ArgumentError, ArgumentTypeError, StepError
from thalweg.recipe import checkpoint, constructed
from thalweg.recipe.accumulate import Accumulate
from thalweg.recipe.average import ModelAverage
from thalweg.recipe.made import wants_closure
from thalweg.recipe.models import unwrapped
from thalweg.recipe.numbers import real, whole
from thalweg.recipe.precision import Precision
from thalweg.recipe.writers import learning_rates
from thalweg.schedules import Scheduler


class Recipe:
    """What stands around an optimizer in a training loop, behind one `recipe.step(loss)` per batch.

    It sets the scheduled numbers, scales the loss, calls `backward()`, and when a step is due: unscales,
    clips, steps, updates the scaler, clears the gradients, updates the average. A step that the scaler (or
    `SkipNonFinite`) left out counts as skipped: the average and schedules of steps do not move. Each part
    can be left out. Compute the loss within `with recipe.forward():` for mixed precision, and under
    DistributedDataParallel.

    Args:
        model: The module that is trained.
        optimizer: Any `torch.optim.Optimizer` over its parameters.
        scheduler: `thalweg.schedules.Scheduler`, or any of torch's but ReduceLROnPlateau. The groups hold
            what a batch was trained with until the next batch begins, so that logs read what was used.
        clock: What the scheduler counts: "batch" (each call) or "step" (steps that were taken).
        accumulate: When a step is due; None: after each batch.
        average: Updated after each step that was taken.
        clip: Joint norm that the gradients are clipped to, > 0; None: not clipped.
        precision: "fp32", "bf16" (autocast), or "fp16" (autocast and a GradScaler).
        scaler: A GradScaler of one's own, with any precision.
        length: Counts of the clock that the training has, >= 1; more are refused. None: no end.
        name, settings: What a checkpoint is recognized by, beside the numbers of the parts, of the groups and
            of the scheduler.

    Raises:
        ArgumentError: A number out of range, another model's average or optimizer, another optimizer's
            scheduler, a schedule that does not fit `length`, an optimizer whose step needs a closure.

    Example:
        >>> import torch, thalweg
        >>> from thalweg.recipe import Accumulate, ModelAverage, Recipe
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = thalweg.AdamW(model.parameters(), lr=1e-2)
        >>> recipe = Recipe(
        ...     model,
        ...     optimizer,
        ...     thalweg.schedules.Scheduler(optimizer, "linear(4)"),
        ...     accumulate=Accumulate(batch_size=8, nominal=16, reduction="mean"),
        ...     average=ModelAverage(model, tau=None, decay=0.9),
        ...     clip=1.0,
        ... )
        >>> for batch in range(4):
        ...     with recipe.forward():
        ...         loss = model(torch.ones(8, 4)).square().mean()
        ...     stepped = recipe.step(loss)
        >>> recipe.batch, recipe.steps, recipe.learning_rates()
        (4, 2, {'x/lr0': 0.0075})
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None = None,
        *,
        clock: Literal["batch", "step"] = "step",
        accumulate: Accumulate | None = None,
        average: ModelAverage | None = None,
        clip: float | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        scaler: torch.amp.GradScaler | None = None,
        length: int | None = None,
        name: str = "recipe",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if clock not in ("batch", "step"):
            raise ArgumentError(f"unknown clock {clock!r}; known: 'batch', 'step'")
        if clip is not None and not real("Recipe", "clip", clip) > 0.0:
            raise ArgumentError(f"Invalid clip: {clip}. Recipe needs > 0, or None; typical: 1.0")
        length = None if length is None else whole("Recipe", "length", length, 1)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ArgumentError(
                "ReduceLROnPlateau waits for a metric: leave it out of the recipe, and call its step(metric) "
                "after each evaluation"
            )
        if scheduler is not None and scheduler.optimizer is not optimizer:
            raise ArgumentError("the scheduler is of another optimizer: make it with this one")
        if average is not None and unwrapped(average.model) is not unwrapped(model):
            raise ArgumentError("average is of another model: make it with ModelAverage(model)")
        if wants_closure(type(optimizer)):
            raise ArgumentError(
                f"{type(optimizer).__name__}.step needs a closure that evaluates the loss, and a recipe is "
                "given a loss for each batch: write that loop by hand"
            )
        own = set(model.parameters())
        if not any(p in own for group in optimizer.param_groups for p in group["params"]):
            raise ArgumentError(
                "the optimizer has none of the model's parameters: make it of this model, after moving or "
                "wrapping it"
            )
        if length is not None and isinstance(scheduler, Scheduler):
            scheduler.check_length(length)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.average, self.clip = average, clip
        self.accumulate = accumulate or Accumulate(1, 1)
        self.precision = Precision(model, optimizer, precision, scaler)
        self.clock, self.length, self.name = clock, length, name
        self.settings: dict[str, Any] = {"name": name, "optimizer": type(optimizer).__name__}
        self.settings |= {"precision": precision, "clock": clock, "length": length, "clip": clip}
        self.settings |= settings or {}
        self.settings |= {f"accumulate.{k}": v for k, v in self.accumulate.settings.items()}
        self.constructed = {
            **{f"groups.{k}": x for k, x in constructed.of_groups(optimizer).items()},
            **constructed.of_scheduler(scheduler),
        }
        if average is not None:
            self.settings |= {f"average.{k}": v for k, v in average.settings.items()}
        self.batch = self.steps = self.skipped = 0
        self.scheduled = 0  # the count that the scheduler has set the numbers for
        self.gradient_norm: Tensor | None = None
        self._local = False

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around the computation of the loss: autocast, and no exchange of gradients that can wait."""
        silent = not self.accumulate.due and hasattr(self.model, "no_sync")
        self._local = self._local or silent
        with self.accumulate.no_sync(self.model), self.precision.autocast():
            yield

    def step(self, loss: Tensor) -> bool:
        """Take the batch's loss in: backward, and the optimizer's step if it is due.

        Returns:
            Whether a step was taken. What was due and overflowed was not, and counts in `skipped`.

        Raises:
            StepError: The training is over, or the model holds its average.
            ArgumentTypeError: The loss is no tensor.
        """
        if not isinstance(loss, Tensor):
            raise ArgumentTypeError(f"step() takes the loss as a tensor, got {loss!r}")
        self._check()
        self._schedule()
        self.precision.scale(self.accumulate.scale(loss)).backward()  # type: ignore[no-untyped-call]
        self.batch += 1
        if not self.accumulate.advance():
            return False
        self._local = False
        self.precision.unscale()
        if self.clip is not None:
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            self.gradient_norm = nn.utils.clip_grad_norm_(params, self.clip)
        taken = self.precision.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not taken:
            self.skipped += 1
            return False
        self.steps += 1
        if self.average is not None:
            self.average.update()
        return True

    @property
    def count(self) -> int:
        """What the scheduler counts: batches or steps until now."""
        return self.batch if self.clock == "batch" else self.steps

    def _check(self) -> None:
        if self.length is not None and self.count >= self.length:
            unit = "batches" if self.clock == "batch" else "steps"
            raise StepError(
                f"the recipe {self.name} was made for {self.length} {unit}, and they are over: its "
                "schedule ends there; make it for a longer training"
            )
        self._refuse_averaged("step()")

    def _refuse_averaged(self, what: str) -> None:
        """Weights are what trains and is saved: not an average, whoever keeps it."""
        if self.average is not None and self.average.evaluating:
            raise StepError(f"{what} while the model holds its average: leave averaged() first")
        if not all(group.get("train_mode", True) for group in self.optimizer.param_groups):
            raise StepError(
                f"{what} while the parameters hold the optimizer's average: leave optimizer.averaged(), or "
                "call optimizer.train(), first"
            )

    def _schedule(self) -> None:
        """Let the scheduler catch up with the count; torch's word on the order is for loops without one."""
        if self.scheduler is not None and self.scheduled < self.count:
            with warnings.catch_warnings():
                if not self.steps:
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()
        self.scheduled = self.count

    def learning_rates(self) -> dict[str, float]:
        """The lr of each group in the last batch, as `x/lr0`, `x/lr1`, ..."""
        return learning_rates(self.optimizer)

    # Checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: weights, state, average, counts, torch's random state.

        Gradients that wait for a step are in it too. It has tensors, numbers, strings and containers only,
        so that `torch.load(weights_only=True)` reads it. What is yours stays yours: the place in the data.

        Raises:
            StepError: The model holds its average, or gradients wait that differ between processes.
        """
        self._refuse_averaged("state_dict()")
        if self._local:
            raise StepError(
                "gradients wait for a step that processes have not exchanged: save when step() has "
                "just returned True"
            )
        return checkpoint.state_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on exactly where `state_dict()` was taken; torch's random state is set too.

        Args:
            state_dict: As `torch.load` returned it.
            strict: Refuse the checkpoint of a recipe with other settings.

        Raises:
            CheckpointError: It is another recipe's (every difference is listed) or another model's.
        """
        checkpoint.load(self, state_dict, strict=strict)

    def save(self, path: str | Path) -> None:
        """Write `state_dict()` to a file that is always whole.

        It is `thalweg.save`: written beside the path, brought to the disk, put in its place. Folders are
        made.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.save(self.state_dict(), path)

    def load(self, path: str | Path, *, strict: bool = True) -> None:
        """Go on from a file of `save`: `load_state_dict` of it, read with `weights_only=True`."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.load_state_dict(state, strict=strict)

    def __str__(self) -> str:
        values = ", ".join(f"{k}={v}" for k, v in self.settings.items() if k != "name")
        return f"{self.name}: {values}"
