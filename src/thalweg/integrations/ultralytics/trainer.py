"""A trainer class for any model of Ultralytics, with our optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import nn

from thalweg import groups
from thalweg.catalogue.names import Named, read
from thalweg.catalogue.numbers import momentum_arguments
from thalweg.engine.averages import keeps_average
from thalweg.engine.optimizer import Optimizer
from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError
from thalweg.integrations.ultralytics.epochs import Epochs
from thalweg.integrations.ultralytics.kept import (
    Whole,
    gradients,
    take_whole,
    unwrapped,
)
from thalweg.integrations.ultralytics.values import contradicted, is_theirs, said, settled
from thalweg.recipe import ModelAverage

MODULE = __name__.rpartition(".")[0]
PREFIX = "Thalweg"  # of class names; Ultralytics' callbacks ask for "Trainer" in it

MakeAverage = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Settings:
    """What `trainer_for` was told besides the model."""

    schedule: Any = None
    average: MakeAverage | bool | None = None

    def described(self) -> dict[str, str]:
        """In words, the same in every process."""
        average = "a function" if callable(self.average) else repr(self.average)
        return {"schedule": repr(self.schedule), "average": average}


def trainer_for(
    model: Any, *, schedule: Any = None, average: MakeAverage | bool | None = None
) -> type[Any]:
    """The trainer of this model's task that knows our optimizers: `model.train(trainer=trainer_for(model))`.

    With it `optimizer=` takes any name of the catalogue, in any case, with arguments and options:
    "lion(betas=(0.95, 0.98)) + lookahead". What is not passed (lr0, momentum, weight_decay, warmup_bias_lr)
    is the algorithm's own default; "auto" and "MuSGD" stay Ultralytics'. Pass the trainer again to resume.
    An optimizer that averages weights itself (schedule-free, `+ average`) is validated and saved with its
    averages, and Ultralytics' EMA is off.

    Args:
        model: A YOLO, RTDETR, ... of Ultralytics, of any task.
        schedule: Of the learning rate: a `thalweg.schedules` schedule that counts epochs, its text
            ("cosine(100, end=0.01)"), or a function of the epoch; a factor of each group's lr. None: as
            Ultralytics does, linear, or cosine with cos_lr=True.
        average: Instead of Ultralytics' EMA: a function of the model that makes a
            `thalweg.recipe.ModelAverage`, as `partial(ModelAverage, decay=0.999)`; False: the weights as they
            are. None: Ultralytics' EMA.

    Returns:
        A subclass of the trainer that Ultralytics would take.

    Raises:
        TypeError: It is no model of Ultralytics, or the schedule or average is none.
    """
    task_map = getattr(model, "task_map", None)
    if task_map is None or model.task not in task_map:
        raise ArgumentTypeError(
            f"trainer_for() got {type(model).__name__}; it takes Ultralytics' models, as YOLO('yolov8n.yaml')"
        )
    if not (average is None or average is False or callable(average)):
        raise ArgumentTypeError(
            f"average={average!r}; it is a function of the model, as "
            "partial(ModelAverage, decay=0.999), or False"
        )
    if schedule is not None:
        from thalweg.schedules import as_schedule

        schedule = as_schedule(schedule)
    base = task_map[model.task]["trainer"]
    if schedule is None and average is None:
        return _plain(base)
    return _made(base, f"{PREFIX}Own{base.__name__}", Settings(schedule, average))


@cache
def _plain(base: type[Any]) -> type[Any]:
    """One class per trainer, so that other processes find the same by its name."""
    return _made(base, f"{PREFIX}{base.__name__}", Settings())


def _made(base: type[Any], name: str, settings: Settings) -> type[Any]:
    return type(name, (ThalwegTrainer, base), {"__module__": MODULE, "settings": settings})


def trainer_class(name: str) -> type[Any] | None:
    """The class of this name that `trainer_for` returns without settings, or None."""
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.models import rtdetr, yolo  # noqa: F401  # so that their trainers are known

    bases = [BaseTrainer]
    while bases:
        base = bases.pop()
        if f"{PREFIX}{base.__name__}" == name:
            return _plain(base)
        bases += [x for x in base.__subclasses__() if not issubclass(x, ThalwegTrainer)]
    return None


def is_number(x: Any) -> bool:
    """Whether it is one of the numbers that a log line tells: no switch, nothing unset."""
    return isinstance(x, (int, float, tuple)) and not isinstance(x, bool) and x != ()


def _always_one(epoch: float) -> float:  # noqa: ARG001
    return 1.0


class ThalwegTrainer(Epochs):
    """What `trainer_for` puts before the trainer of a task: `class Mine(ThalwegTrainer, DetectionTrainer)`.

    It overrides how the optimizer, its schedule and the averaged model are made, and keeps in checkpoints
    what resuming needs. Everything else is Ultralytics'.
    """

    settings: ClassVar[Settings] = Settings()
    args: Any
    model: Any
    optimizer: Any
    average: Any = None  # the ModelAverage, if one was asked for
    _ema: Any = None

    def __init__(self, cfg: Any = None, overrides: Any = None, _callbacks: Any = None) -> None:
        parent: Any = super()
        filled = settled(overrides or {})
        known = {**(overrides or {}), **self._written(filled)}
        self._filled = [key for key in filled if key not in known]
        given = {} if cfg is None else {"cfg": cfg}
        parent.__init__(**given, overrides=filled, _callbacks=_callbacks)
        self._refuse_to_lose_settings()
        other = contradicted(overrides or {}, self.args) if getattr(self, "resume", False) else None
        if other is not None:
            raise CheckpointError(
                f"the training that is resumed has {other}: leave it out, or begin a new training from these "
                "weights, without resume"
            )

    @staticmethod
    def _written(filled: dict[str, Any]) -> dict[str, Any]:
        name = filled.get("optimizer")
        return {} if filled.get("resume") or is_theirs(name) else said(read(str(name)))

    def _refuse_to_lose_settings(self) -> None:
        """Ultralytics 8.3 starts processes that import the trainer by its name."""
        from ultralytics import __version__

        own = type(self).__name__.startswith(f"{PREFIX}Own")
        if own and getattr(self, "ddp", False) and __version__.startswith("8.3"):
            raise ArgumentError(
                "Ultralytics 8.3 starts the processes of several GPUs with the name of the trainer alone, "
                "without schedule= and average= of trainer_for(); take 8.4, or one GPU"
            )

    # Optimizer and schedule -----------------------------------------------------------------------

    def build_optimizer(
        self,
        model: nn.Module,
        name: str = "auto",
        lr: float = 0.001,
        momentum: float = 0.9,
        decay: float = 1e-5,
        iterations: float = 1e5,
    ) -> torch.optim.Optimizer:
        """Make the optimizer by its name, with YOLO's groups; Ultralytics calls it."""
        self._ours = not is_theirs(name)
        if not self._ours:
            parent: Any = super()
            theirs: torch.optim.Optimizer = parent.build_optimizer(
                model, name, lr, momentum, decay, iterations
            )
            return theirs
        named = read(name)
        parts = groups.yolo(unwrapped(model), float(decay), frozen=True, allow_empty=True)
        if "weight_decay" not in inspect.signature(named.cls).parameters:
            for group in parts:
                group.pop("weight_decay")
        numbers = {"lr": lr, **momentum_arguments(named, momentum)}
        self._tell(named, {**numbers, "weight_decay": decay}, parts.summary)
        return named.made(parts, **numbers)

    def _tell(self, named: Named, numbers: dict[str, Any], summary: str) -> None:
        from ultralytics.utils import LOGGER

        defaults = {k: p.default for k, p in inspect.signature(named.cls).parameters.items()}
        used = {k: ({**named.arguments, **numbers}).get(k, x) for k, x in defaults.items()}
        numbers_of_it = ", ".join(f"{k}={x}" for k, x in used.items() if is_number(x))
        title = named.cls.__name__
        whole = " + ".join([f"{title}({numbers_of_it})", *map(repr, named.options)])
        line = f"{whole}, warmup_bias_lr={self.args.warmup_bias_lr}"
        if self._filled:
            line += f"; not passed, and so {title}'s own: {', '.join(sorted(self._filled))}"
        LOGGER.info(f"thalweg: {line}\nthalweg: {summary}")

    def _setup_scheduler(self) -> None:
        """Ultralytics' schedule, the one that was asked for, or none if the optimizer needs none."""
        epochs: int = self.epochs  # type: ignore[attr-defined]
        if self.settings.schedule is not None:
            from thalweg.schedules import Scheduler

            self.lf = self.settings.schedule
            self.scheduler: Any = Scheduler(self.optimizer, self.lf, steps=epochs)
        elif any("schedule_free" in g.get("options", ()) for g in self.optimizer.param_groups):
            self.lf = _always_one
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.lf)
        else:
            parent: Any = super()
            parent._setup_scheduler()

    # Averages -------------------------------------------------------------------------------------

    @property
    def ema(self) -> Any:
        """Ultralytics' averaged model; it is validated and saved. Whoever makes it, its updates are ours."""
        return self._ema

    @ema.setter
    def ema(self, value: Any) -> None:
        self._ema = value
        if value is None:
            return
        if callable(self.settings.average):
            self.average = self.settings.average(unwrapped(self.model))
            if not isinstance(self.average, ModelAverage):
                raise ArgumentTypeError(
                    f"average= made {self.average!r}; it is a function of the model that makes a "
                    "ModelAverage, as partial(ModelAverage, decay=0.999)"
                )
        value.update = partial(self._update_ema, value.update)

    def _update_ema(self, stock: Callable[[nn.Module], None], model: nn.Module) -> None:
        averaged = self._averaged()
        if averaged is None:
            stock(model)
        elif self.average is not None:
            self.average.update()

    def _averaged(self) -> AbstractContextManager[Any] | None:
        """Within it the model holds what is validated and saved; None: that is Ultralytics' EMA."""
        if self.average is not None:
            context: AbstractContextManager[Any] = self.average.averaged()
            return context
        optimizer = self.optimizer
        if isinstance(optimizer, Optimizer) and any(map(keeps_average, optimizer.param_groups)):
            return optimizer.averaged()
        return nullcontext() if self.settings.average is False else None

    def _fill_ema(self) -> None:
        """Copy the average into the model that Ultralytics validates and saves."""
        averaged = self._averaged()
        if averaged is None or self.ema is None:
            return
        with averaged, torch.inference_mode():  # validation leaves tensors of that kind
            found = unwrapped(self.model).state_dict()
            for name, x in self.ema.ema.state_dict().items():
                x.copy_(found[name])

    def validate(self) -> Any:
        """Validate the averaged model."""
        self._fill_ema()
        parent: Any = super()
        return parent.validate()

    # Checkpoints ----------------------------------------------------------------------------------

    def save_model(self) -> Any:
        """Save the averaged model as Ultralytics does, and beside it what resuming needs."""
        self._fill_ema()
        parent: Any = super()
        if not self._ours:
            return parent.save_model()
        optimizer = self.optimizer
        self.optimizer = Whole(optimizer, self._to_keep())
        try:
            return parent.save_model()
        finally:
            self.optimizer = optimizer

    def _to_keep(self) -> dict[str, Any]:
        model = unwrapped(self.model)
        return {
            "model": model.state_dict(),
            "ema": self.ema.ema.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "settings": self.settings.described(),
            "stepped": self._stepped,
            "gradients": gradients(model) if self._stepped < self._batch else {},
        }

    def _load_checkpoint_state(self, ckpt: Any) -> None:
        """Load optimizer and averages; also after a loss that is not finite."""
        more = take_whole(ckpt)
        parent: Any = super()
        parent._load_checkpoint_state(ckpt)
        self._restore_averages(more)

    def _restore_averages(self, more: dict[str, Any] | None) -> None:
        if more is None:
            return
        self.ema.ema.load_state_dict(more["ema"])
        if self.average is not None:
            self.average.load_state_dict(more["average"])

    def resume_training(self, ckpt: Any) -> None:
        """Go on from a checkpoint: the bits of weights, averages, state and waiting gradients."""
        parent: Any = super()
        resuming = ckpt is not None and self.resume  # type: ignore[attr-defined]
        if not resuming or not self._ours:
            parent.resume_training(ckpt)
            return
        more = self._checked(take_whole(ckpt))
        parent.resume_training(ckpt)
        self._restore_averages(more)
        unwrapped(self.model).load_state_dict(more["model"])
        self._stepped, self._caught_up = more["stepped"], False
        self._waiting = more["gradients"]

    def _checked(self, more: dict[str, Any] | None) -> dict[str, Any]:
        """What a checkpoint keeps, if it is of a training like this one."""
        if more is None:
            raise CheckpointError(
                f"{self.args.model} was not written by trainer_for(): its {self.args.optimizer} is "
                "Ultralytics' own. Resume it without trainer=, or begin a new training from its weights"
            )
        for name, here in self.settings.described().items():
            if more["settings"][name] != here:
                raise CheckpointError(
                    f"{self.args.model} was trained with {name}={more['settings'][name]}; this trainer has "
                    f"{name}={here}: pass the same to trainer_for()"
                )
        for name, here in ({} if self.average is None else self.average.settings).items():
            if more["average"].get(name) != here:
                raise CheckpointError(
                    f"{self.args.model} was trained with an average of {name}={more['average'].get(name)!r}; "
                    f"this trainer's has {name}={here!r}: pass the same to trainer_for()"
                )
        return more
