"""The adapter: schedules as a torch `LRScheduler` that drives any field of any group."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from thalweg.errors import ArgumentError, ArgumentTypeError, CheckpointError, ThalwegError, suggest
from thalweg.schedules import fields
from thalweg.schedules.combined import absolute
from thalweg.schedules.fields import TAG, Group
from thalweg.schedules.schedule import Schedule
from thalweg.schedules.text import as_schedule

Single = Schedule | str | Callable[[float], float]
Driving = Single | Sequence[Single | None] | Mapping[Any, Single]
Plan = Schedule | list[Schedule | None] | dict[Any, Schedule]

UNNAMED = "<"  # in the names of lambdas, and of functions and objects within something
SAMPLES = 64  # steps that are looked at before training


class Scheduler(LRScheduler):
    """Drives fields of an optimizer's groups by schedules; to torch and its frameworks an `LRScheduler`.

    Every value follows from the step and the group's base value (`initial_lr`, `initial_momentum`, ... in
    the group, taken when the scheduler is made), so that setting `last_epoch` is all of resuming, and a
    group added later is driven too. A group's `lr_scale`, as timm's layer decay has it, multiplies its lr.
    Call `step()` after each optimizer step; or after each epoch, with schedules of epochs.

    Args:
        optimizer: Any torch optimizer.
        lr: A schedule: an object, its text, or a function of the step; or a list with one (or None) per
            group; or {tag: schedule} for groups with that `param_group`, the others staying as they are.
            None: lr is left alone.
        steps: The length of training in calls of `step()`; schedules that are shorter are then refused.
        last_epoch: As in torch: -1 begins; else the step to resume at.
        others: Other fields likewise: `momentum=...`, `weight_decay=...`, `**{"betas[0]": ...}`. A factor
            multiplies the base; with `absolute(...)` values are set.

    Raises:
        ValueError: A group has no such field, a schedule is shorter than training, a tag that no group has.
        TypeError: It is no optimizer, or no schedule.

    Example:
        >>> import torch, thalweg
        >>> from thalweg.schedules import Scheduler, absolute, linear
        >>> optimizer = thalweg.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
        >>> scheduler = Scheduler(optimizer, "warmup(2) >> cosine(8)", momentum=absolute(linear(2, 0.8, 0.9)))
        >>> for _ in range(6):
        ...     optimizer.step(); scheduler.step()
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
        (0.25, 0.9)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr: Driving | None = None,
        *,
        steps: float | None = None,
        last_epoch: int = -1,
        **others: Driving,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"{type(optimizer).__name__} is not an Optimizer")
        given = {**({} if lr is None else {"lr": lr}), **others}
        if not given:
            raise ArgumentError(
                "Scheduler got no schedule; say what to drive, as lr='cosine(10000)'"
            )
        groups = optimizer.param_groups
        self.schedules = {name: _plan(name, value, groups) for name, value in given.items()}
        self._warned = False
        for name, plan in self.schedules.items():
            for i, _ in _each(plan, groups):
                fields.number(groups[i], i, name)
        if steps is not None:
            self._check_length(groups, steps)
        elif last_epoch == -1:
            self._checked(groups, 0)
        self._take_bases(groups, fresh=last_epoch == -1)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of this step."""
        groups = self.optimizer.param_groups
        self._take_bases(groups, fresh=True)
        self._now = self._checked(groups, self.last_epoch)
        found: list[float | Tensor] = [g["lr"] for g in groups]
        for i, value in self._now.get("lr", ()):
            found[i] = value
        return found

    _get_closed_form_lr = get_lr

    def step(self, epoch: int | None = None) -> None:
        """Set all fields for the next step.

        Args:
            epoch: torch's deprecated way to say which.
        """
        super().step(epoch)
        for name, values in self._now.items():
            for i, value in values if name != "lr" else ():
                fields.put(self.optimizer.param_groups[i], name, value)
        ends = [
            schedule
            for plan in self.schedules.values()
            for _, schedule in _each(plan, self.optimizer.param_groups)
            if schedule.lasts is not None and self.last_epoch > schedule.lasts
        ]
        if ends and not self._warned:
            self._warned = True
            warnings.warn(
                f"{ends[0]!r} ended at step {ends[0].lasts:g}, and this is step {self.last_epoch}: it keeps "
                f"its last value, {ends[0](self.last_epoch):g}. Make it as long as training; if it is meant, "
                "add >> constant(...)",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """The step, the base values and the schedules' texts: numbers and strings only."""
        groups = self.optimizer.param_groups
        keys = [fields.initial(name) for name in self.schedules]
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_last_lr": [fields.plain(value) for value in self._last_lr],
            "bases": {key: [fields.plain(g.get(key)) for g in groups] for key in keys},
            "schedules": {name: _said(plan) for name, plan in self.schedules.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any], *, strict: bool = True) -> None:
        """Resume; as with torch the groups' values are the optimizer's to load.

        Args:
            state_dict: What `state_dict()` returned.
            strict: Refuse what other schedules saved; without, this scheduler's go on from that step.

        Raises:
            CheckpointError: It is of other schedules, or for other groups; nothing was changed.
        """
        self.check(state_dict, strict=strict)
        groups = self.optimizer.param_groups
        for key, values in state_dict["bases"].items():
            for group, value in zip(groups, values, strict=True):
                if value is not None:
                    group[key] = tuple(value) if isinstance(value, (tuple, list)) else value
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["_step_count"]
        self._last_lr = list(state_dict.get("_last_lr", self._last_lr))

    def check(self, state_dict: Mapping[str, Any], *, strict: bool = True) -> None:
        """Whether `load_state_dict` would take it.

        Functions without a name of their own (lambdas) cannot be compared: they are taken for the same, with
        a warning.

        Raises:
            CheckpointError: It would not.
        """
        missing = {"last_epoch", "_step_count", "bases", "schedules"} - set(state_dict)
        if missing:
            raise CheckpointError(
                f"this is no Scheduler's state_dict: {min(missing)!r} is not in it"
            )
        own = {name: _said(plan) for name, plan in self.schedules.items()}
        for name in dict.fromkeys([*own, *state_dict["schedules"]]) if strict else []:
            here, there = own.get(name), state_dict["schedules"].get(name)
            if here != there:
                raise CheckpointError(
                    f"the checkpoint's schedule of {name!r} is {there}, this one's is {here}; use that, or "
                    "strict=False to go on with this one"
                )
            if UNNAMED in str(here):
                warnings.warn(
                    f"the schedule of {name!r} is {here}, which has no name to be compared by: it is taken "
                    "for the checkpoint's. A function at the top of a module has one",
                    stacklevel=3,
                )
        groups = self.optimizer.param_groups
        for key, values in state_dict["bases"].items():
            if len(values) != len(groups):
                raise CheckpointError(
                    f"the checkpoint has {key!r} of {len(values)} groups, the optimizer has {len(groups)}"
                )

    def _values(
        self, name: str, groups: Sequence[Group], step: float
    ) -> Iterator[tuple[int, float]]:
        """What a field is at a step, by the group's index."""
        for i, schedule in _each(self.schedules[name], groups):
            try:
                value = schedule(step)
            except (TypeError, ValueError) as e:
                if isinstance(e, ThalwegError):
                    raise
                raise ArgumentTypeError(f"the schedule of {name!r}, {schedule!r}: {e}") from e
            if not isinstance(schedule, absolute):
                value *= fields.number(groups[i], i, name, base=True)
            yield i, value * groups[i].get("lr_scale", 1.0) if name == "lr" else value

    def _checked(self, groups: Sequence[Group], step: float) -> dict[str, list[tuple[int, float]]]:
        """All fields at a step; numbers that no optimizer can use are refused before any is set."""
        found = {name: list(self._values(name, groups, step)) for name in self.schedules}
        for name, values in found.items():
            for i, value in values:
                fields.check(value, groups[i], i, name, step)
        return found

    def check_length(self, steps: float) -> None:
        """Refuse a training of so many steps: one that a schedule is shorter than, or its warm-up longer.

        Values that no optimizer can use are looked for too, at some of the steps.

        Raises:
            ValueError: It does not fit.
        """
        self._check_length(self.optimizer.param_groups, steps)

    def _check_length(self, groups: Sequence[Group], steps: float) -> None:
        if isinstance(steps, bool) or not isinstance(steps, (int, float)) or not steps >= 1:
            raise ArgumentError(
                f"steps={steps!r}; the length of training is a number of steps, at least 1"
            )
        for name, plan in self.schedules.items():
            for _, schedule in _each(plan, groups):
                _fits(name, schedule, steps)
        for step in {*(steps * k // SAMPLES for k in range(SAMPLES)), steps - 1}:
            self._checked(groups, step)

    def _take_bases(self, groups: Sequence[Group], *, fresh: bool) -> None:
        """Note each group's base values, as torch does for lr."""
        for name, plan in self.schedules.items():
            key = fields.initial(name)
            for i, schedule in _each(plan, groups):
                if key in groups[i] or isinstance(schedule, absolute):
                    continue
                if not fresh:
                    raise ArgumentError(
                        f"group {i} has no {key!r}, and last_epoch is not -1: load the optimizer's "
                        "checkpoint first, or begin with last_epoch=-1"
                    )
                value = groups[i][name.partition("[")[0]]
                groups[i][key] = value.clone() if isinstance(value, Tensor) else value


def _plan(name: str, value: Driving, groups: Sequence[Group]) -> Plan:
    """A field's schedules, read."""
    if isinstance(value, Mapping):
        tags = [g.get(TAG) for g in groups]
        for tag in value:
            if tag not in tags:
                known = [str(t) for t in tags if t is not None]
                raise ArgumentError(
                    f"{name}: no group has {TAG}={tag!r}.{suggest(str(tag), known)} There are: "
                    f"{', '.join(known) or 'none with a tag'}"
                )
        return {tag: as_schedule(each) for tag, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != len(groups):
            raise ArgumentError(
                f"{name}: {len(value)} schedules for {len(groups)} groups; one for each (None: it stays)"
            )
        return [None if each is None else as_schedule(each) for each in value]
    return as_schedule(value)


def _each(plan: Plan, groups: Sequence[Group]) -> Iterator[tuple[int, Schedule]]:
    """The driven groups' indices, each with its schedule."""
    for i, group in enumerate(groups):
        if isinstance(plan, list):
            if i >= len(plan):
                raise ArgumentError(
                    f"group {i} was added and has no schedule: {len(plan)} were given, one per group; make "
                    "the scheduler anew, or give schedules by tag"
                )
            schedule = plan[i]
        else:
            schedule = plan.get(group.get(TAG)) if isinstance(plan, dict) else plan
        if schedule is not None:
            yield i, schedule


def _fits(name: str, schedule: Schedule, steps: float) -> None:
    length, warmup = schedule.length, schedule.warmup_steps
    if warmup > steps or (warmup == steps and (length is None or length > steps)):
        raise ArgumentError(
            f"{name}: the warm-up of {schedule!r} takes {warmup:g} steps, and training has {steps:g}; "
            "shorten it"
        )
    if schedule.lasts is not None and schedule.lasts < steps:
        raise ArgumentError(
            f"{name}: {schedule!r} ends at step {schedule.lasts:g}, and training has {steps:g} steps; "
            "make it longer, or add >> constant(...) to stay at a value"
        )


def _said(plan: Plan) -> Any:
    if isinstance(plan, dict):
        return {tag: repr(schedule) for tag, schedule in plan.items()}
    return [repr(each) for each in plan] if isinstance(plan, list) else repr(plan)
