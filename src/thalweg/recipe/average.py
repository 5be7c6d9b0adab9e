"""Averages of a whole model: parameters and buffers, kept beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError, StepError
from thalweg.recipe.models import held
from thalweg.recipe.numbers import real

KINDS = ("ema", "swa")


class ModelAverage:
    """Keep an average of a model's parameters and buffers; `with average.averaged():` evaluates it.

    Call `update()` after each optimizer step that was taken. It is for whatever the `Average` option does
    not do: buffers (batch-norm statistics belong to the weights that saw them), the ramp, equal weights,
    optimizers of others. The option averages parameters alone and costs no pass of its own. Integer
    buffers are copied, not averaged; tied weights are kept once. Batch-norm statistics that are computed
    anew within the block (`torch.optim.swa_utils.update_bn`) stay the average's.

    Formula:
        ema: average = d * average + (1 - d) * model,  d = decay * (1 - exp(-updates / tau)), or decay
        swa: average = average + (model - average) / updates

    Args:
        model: Any module; wrapped by DistributedDataParallel or `torch.compile` it is looked through.
        kind: "ema", or "swa" for the plain mean of all weights that `update()` saw.
        decay: In [0, 1); 1 / (1 - decay) steps are the memory of "ema".
        tau: Steps of the ramp, > 0, that lets a young average forget the first weights; None: no ramp.
        dtype: What floating-point numbers are stored in; None: each as the model, but float32 at least.
            In bfloat16 what 1 - decay adds is rounded away unless decay is below 0.99.

    Raises:
        ArgumentError: A number out of range, an unknown kind, a dtype that is not floating point, or a
            parameter that has no shape yet.
        ArgumentTypeError: It is no module, number or dtype.

    Reference:
        Tarvainen and Valpola 2017, arXiv:1703.01780; Izmailov et al. 2018, arXiv:1803.05407 (SWA).

    Example:
        >>> import torch
        >>> from thalweg.recipe import ModelAverage
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> average = ModelAverage(model, "swa")
        >>> for weight in (1.0, 2.0, 6.0):
        ...     _ = torch.nn.init.constant_(model.weight, weight)
        ...     average.update()
        >>> with average.averaged():
        ...     model.weight.item()
        3.0
        >>> model.weight.item()
        6.0
    """

    def __init__(
        self,
        model: nn.Module,
        kind: Literal["ema", "swa"] = "ema",
        *,
        decay: float = 0.9999,
        tau: float | None = 2000.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ArgumentError(f"unknown kind {kind!r} of ModelAverage; known: 'ema', 'swa'")
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(
                f"ModelAverage averages a torch.nn.Module, got {type(model).__name__}"
            )
        if not 0.0 <= real("ModelAverage", "decay", decay) < 1.0:
            raise ArgumentError(
                f"Invalid decay: {decay}. ModelAverage needs [0, 1); typical: 0.9999"
            )
        if tau is not None and not real("ModelAverage", "tau", tau) > 0.0:
            raise ArgumentError(
                f"Invalid tau: {tau}. ModelAverage needs > 0, or None for no ramp; typical: 2000"
            )
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise ArgumentTypeError(f"dtype is {dtype!r}; it is a torch.dtype, as torch.float32")
        if dtype is not None and not dtype.is_floating_point:
            raise ArgumentError(
                f"ModelAverage stores floating point; dtype is {dtype}; typical: torch.float32"
            )
        self.model, self.kind, self.decay, self.tau, self.dtype = model, kind, decay, tau, dtype
        self.updates = 0
        self.evaluating = False
        parameters, buffers = held(model)
        lazy = [n for n, x in {**parameters, **buffers}.items() if is_lazy(x)]
        if lazy:
            raise ArgumentError(
                f"{lazy[0]!r} has no shape yet: run a batch through the model first, then average it"
            )
        with torch.no_grad():
            self._kept = {n: self._stored(x) for n, x in {**parameters, **buffers}.items()}

    def _stored(self, x: Tensor) -> Tensor:
        """A copy in the dtype of the average."""
        return x.detach().to(self._dtype(x), copy=True)

    def _dtype(self, x: Tensor) -> torch.dtype:
        if x.is_complex() or not x.is_floating_point():
            return x.dtype
        return self.dtype or torch.promote_types(x.dtype, torch.float32)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, as plain values."""
        if self.kind == "swa":
            return {"kind": self.kind}
        return {"kind": self.kind, "decay": self.decay, "tau": self.tau}

    def weight(self, updates: int) -> float:
        """How much of the way the average goes to the model in its `updates`-th update."""
        if self.kind == "swa":
            return 1.0 / updates
        ramp = 1.0 if self.tau is None else -math.expm1(-updates / self.tau)
        return 1.0 - self.decay * ramp

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the model's present values, as after loading weights.

        Raises:
            StepError: As `update()`.
        """
        self._refuse_within("restart()")
        for kept, now in self._pairs():
            kept.copy_(now)
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present values into the average.

        Raises:
            StepError: Within `averaged()`, or the model holds other parameters than at construction.
        """
        self._refuse_within("update()")
        pairs = self._pairs()
        self.updates += 1
        weight = self.weight(self.updates)
        lists: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
        for kept, now in pairs:
            if not (now.is_floating_point() or now.is_complex()):
                kept.copy_(now)
            elif kept.dtype is now.dtype:
                mesh = getattr(kept, "device_mesh", None)  # sharded ones go by themselves
                ours, models = lists.setdefault((now.device, now.dtype, mesh), ([], []))
                ours.append(kept)
                models.append(now)
            else:
                kept.lerp_(now.to(kept.dtype), weight)
        for ours, models in lists.values():
            torch._foreach_lerp_(ours, models, weight)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """What is kept beside what the model holds now, after a look at names, shapes and devices."""
        parameters, buffers = held(self.model)
        now = {**parameters, **buffers}
        if now.keys() != self._kept.keys():
            gone = [f"{n!r} is gone" for n in self._kept if n not in now]
            new = [f"{n!r} is new" for n in now if n not in self._kept]
            raise StepError(
                f"the model holds other tensors than when its average was made: "
                f"{_few([*gone, *new])}; make a new ModelAverage after changing a model"
            )
        for name, x in now.items():
            kept = self._kept[name]
            if kept.shape != x.shape:
                raise StepError(
                    f"{name!r} has shape {tuple(x.shape)} and its average {tuple(kept.shape)}: "
                    "make a new ModelAverage after changing a model"
                )
            if kept.device != x.device:
                self._kept[name] = kept.to(x.device)
        return [(self._kept[n], x) for n, x in now.items()]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model holds the average; after it, its own values again, bit for bit.

        Values are copied, never pointers, so that optimizers, graphs and captured steps stay right.

        Raises:
            StepError: It is already in such a block, or the model holds other parameters.
        """
        self._refuse_within("averaged()")
        pairs = self._pairs()
        buffers = {id(b) for b in held(self.model)[1].values()}
        aside = [now.detach().clone() for _, now in pairs]
        self.evaluating = True
        try:
            with torch.no_grad():
                for kept, now in pairs:
                    now.copy_(kept)
            versions = [now._version for _, now in pairs]
            yield
            with torch.no_grad():
                for (kept, now), version in zip(pairs, versions, strict=True):
                    if id(now) in buffers and now._version != version:
                        kept.copy_(now)
        finally:
            with torch.no_grad():
                for (_, now), own in zip(pairs, aside, strict=True):
                    now.copy_(own)
            self.evaluating = False

    def _refuse_within(self, what: str) -> None:
        if self.evaluating:
            raise StepError(f"{what} while the model holds its average: leave the with block first")

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings: `updates`, the settings, and the average by name.

        The tensors are the average's own, as in torch; copy them to keep them from the next update.
        """
        return {"updates": self.updates, **self.settings, "average": dict(self._kept)}

    def check(self, state_dict: Mapping[str, Any]) -> None:
        """Whether `load_state_dict` would take it.

        Raises:
            CheckpointError: It would not.
        """
        missing = [k for k in ("updates", "kind", "average") if k not in state_dict]
        if missing:
            raise CheckpointError(
                f"this is no ModelAverage's state_dict: {_few(list(map(repr, missing)))} missing"
            )
        if state_dict["kind"] != self.kind:
            raise CheckpointError(
                f"the checkpoint's average is {state_dict['kind']!r}, this one {self.kind!r}: make it "
                f"with ModelAverage(model, {state_dict['kind']!r})"
            )
        given: Mapping[str, Tensor] = state_dict["average"]
        wrong = [f"{n!r} is missing" for n in self._kept if n not in given]
        wrong += [f"{n!r} is not in this model" for n in given if n not in self._kept]
        wrong += [
            f"{n!r} has shape {tuple(given[n].shape)}, here {tuple(x.shape)}"
            for n, x in self._kept.items()
            if n in given and given[n].shape != x.shape
        ]
        if wrong:
            raise CheckpointError(f"the checkpoint's average is another model's: {_few(wrong)}")

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; values are copied, dtype and settings stay as constructed.

        Raises:
            CheckpointError: It is of another kind of average, or of a model with other names or shapes;
                nothing was changed.
        """
        self._refuse_within("load_state_dict()")
        self.check(state_dict)
        given: Mapping[str, Tensor] = state_dict["average"]
        with torch.no_grad():
            for name, kept in self._kept.items():
                kept.copy_(given[name])
        self.updates = int(state_dict["updates"])


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
