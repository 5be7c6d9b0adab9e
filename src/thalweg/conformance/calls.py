"""Calls: hooks, closures, scalers, schedulers, and arguments that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer, lr_scheduler, swa_utils

from thalweg.conformance.check import NotApplicable, check, expect, fail
from thalweg.conformance.compare import NEARLY, expect_same, snapshot, values
from thalweg.conformance.subject import (
    Subject,
    clones,
    through_bytes,
    training,
)


@check("hooks-once", "Averages, counters and profilers hang on step hooks: one call per step.")
def hooks_once(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.make(params)
    with _hooked_bases(optimizer):
        _count_hooks(subject, optimizer, params)


def _count_hooks(subject: Subject, optimizer: Optimizer, params: list[Parameter]) -> None:
    calls: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre")),
        optimizer.register_step_post_hook(lambda *_: calls.append("post")),
    ]
    subject.run(optimizer, params, 0, 2)
    expect(calls == ["pre", "post"] * 2, "pre, post, pre, post in two steps", ", ".join(calls))
    for handle in handles:
        handle.remove()
    subject.run(optimizer, params, 2, 1)
    expect(len(calls) == 4, "no call of a removed hook", f"{len(calls) - 4} calls")


@contextmanager
def _hooked_bases(optimizer: Optimizer) -> Iterator[None]:
    """Let every base's step call hooks, as torch does when one of that class is made; then put it back.

    A class whose step calls super().step() calls hooks once until then, and twice ever after.
    """
    found: list[tuple[Any, Any]] = []
    for cls in type(optimizer).__mro__:
        step: Any = vars(cls).get("step")
        if cls is not Optimizer and step is not None and not getattr(step, "hooked", None):
            hooked: Any = Optimizer.profile_hook_step(step)
            hooked.hooked = True
            cls.step = hooked  # type: ignore[attr-defined]
            found.append((cls, step))
    try:
        yield
    finally:
        for cls, step in found:
            cls.step = step


@check(
    "closure-once",
    "Lightning trains inside the closure: twice is two batches, never is none.",
    unless=("closure-required",),
)
def closure_once(subject: Subject) -> None:
    calls = _closure_calls(subject)
    expect(len(calls) == 1, "one call of the closure in a step", f"{len(calls)} calls")


@check("closure-grad", "The closure calls backward: gradients must be enabled, whatever is around.")
def closure_grad(subject: Subject) -> None:
    calls = _closure_calls(subject)
    expect(bool(calls), "a call of the closure", "none")
    expect(all(calls), "gradients enabled inside the closure", "disabled")


@check("closure-loss", "Trainers log what step(closure) returns.")
def closure_loss(subject: Subject) -> None:
    returned: list[Any] = []
    _closure_calls(subject, returned.append)
    got = returned[0]
    expect(got is not None and float(got) == 2.5, "the closure's loss, 2.5", repr(got))


def _closure_calls(subject: Subject, returned: Callable[[Any], None] | None = None) -> list[bool]:
    """Take a step with a closure under no_grad; whether gradients were enabled, per call."""
    params = subject.parameters()
    optimizer = subject.make(params)
    calls: list[bool] = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        for p, g in zip(params, subject.gradients(params, 0), strict=True):
            p.grad = g
        return torch.tensor(2.5)

    with torch.no_grad(), subject.watched(optimizer, params):
        loss: Any = optimizer.step(closure=closure)  # type: ignore[arg-type]
    if returned is not None:
        returned(loss)
    return calls


@check("closure-raises", "Out of memory in the closure must reach the trainer, with no step taken.")
def closure_raises(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.run(subject.make(params), params, 0, 1)
    before = values(params)

    def closure() -> float:
        for p, g in zip(params, subject.gradients(params, 1), strict=True):
            p.grad = g
        raise torch.OutOfMemoryError("out of memory, as this check pretends")

    got = "none"
    try:
        optimizer.step(closure)
    except torch.OutOfMemoryError:
        expect_same(values(params), before, "nothing moved by a step whose closure raised")
        return
    except Exception as e:
        got = f"{type(e).__name__}: {e}"
    fail("the OutOfMemoryError that the closure raised", got)


@check("misspelt-argument", "weight_decya=0.1 must not train without decay, and without a word.")
def misspelt_argument(subject: Subject) -> None:
    _takes_arguments(subject)
    try:
        subject.factory(subject.parameters(), weight_decya=0.1)
    except Exception:
        return
    fail("a refusal of the argument weight_decya", "an optimizer")


@check("negative-lr", "A sign lost in a configuration file climbs instead of descending.")
def negative_lr(subject: Subject) -> None:
    _takes_arguments(subject)
    try:
        subject.factory(subject.parameters(), lr=-0.1)
    except Exception:
        return
    fail("a refusal of lr=-0.1", "an optimizer")


def _takes_arguments(subject: Subject) -> None:
    """A factory that refuses every argument says nothing about this one."""
    try:
        subject.factory(subject.parameters(), lr=0.1)
    except TypeError as e:
        raise NotApplicable(f"the factory takes no lr: {e}") from e


@check("no-parameters", "A filter that matches no parameter is a bug that shows at once, in torch.")
def no_parameters(subject: Subject) -> None:
    try:
        subject.factory([])
    except Exception:
        return
    fail("a refusal of an empty parameter list", "an optimizer")


@check(
    "grad-scaler",
    "Mixed precision: GradScaler leaves a step with an infinite gradient out, and the next one goes on.",
    unless=("closure-required",),
)
def grad_scaler(subject: Subject) -> None:
    _, undisturbed = subject.run_new(2)
    params = subject.parameters()
    optimizer = subject.make(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))

    def step(t: int, factor: float, spoil: bool = False) -> None:
        grads = [g * factor for g in subject.gradients(params, t)]
        if spoil:
            grads[-1] = grads[-1] * math.inf
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        if spoil:
            scaler.step(optimizer)
        else:
            with subject.watched(optimizer, params):
                scaler.step(optimizer)
        scaler.update()

    step(0, 1024.0)
    before = snapshot(optimizer)
    step(1, 1024.0, spoil=True)
    expect_same(snapshot(optimizer), before, "nothing moved by a step with an infinite gradient")
    scale = scaler.get_scale()
    expect(scale == 512.0, "a scale halved to 512", f"{scale:g}")
    step(1, 512.0)
    expect_same(values(params), values(undisturbed), "steps as without a scaler", nearly=NEARLY)


def _cycles(optimizer: Optimizer) -> bool:
    return "momentum" in optimizer.defaults or "betas" in optimizer.defaults


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 1.0 / (1 + t)),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=_cycles(o)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 12, cycle_momentum=_cycles(o)),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.01, 3),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.5)], o
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}
"""Every scheduler of torch, over any optimizer."""


@check("schedulers", "Every scheduler of torch drives it: the learning rates are the schedule's.")
def schedulers(subject: Subject) -> None:
    found = {name: _schedule_answer(subject, make) for name, make in SCHEDULERS.items()}
    wrong = [f"{name}: {answer}" for name, answer in found.items() if answer]
    expect(not wrong, "the learning rates that torch.optim.SGD gets", "; ".join(wrong))


def _schedule_answer(subject: Subject, make: Callable[[Optimizer], Any]) -> str:
    params, others = subject.parameters(), [torch.nn.Parameter(torch.zeros(1))]
    optimizer = subject.make(params, lr=0.0625)
    reference = torch.optim.SGD(others, lr=0.0625, momentum=0.9)
    try:
        got = _rates(subject, optimizer, params, make(optimizer), 0, 6)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    others[0].grad = torch.zeros(1)
    wanted = _rates(Subject(torch.optim.SGD), reference, others, make(reference), 0, 6)
    close = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(got, wanted, strict=True))
    return "" if close else f"{_said(got)} instead of {_said(wanted)}"


def _rates(
    subject: Subject,
    optimizer: Optimizer,
    params: list[Any],
    scheduler: Any,
    first: int,
    count: int,
) -> list[float]:
    rates = []
    for t in range(first, first + count):
        subject.run(optimizer, params, t, 1)
        scheduler.step(*[1.0] * isinstance(scheduler, lr_scheduler.ReduceLROnPlateau))
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def _said(numbers: list[float]) -> str:
    return "[" + ", ".join(f"{x:.4g}" for x in numbers) + "]"


@check(
    "scheduler-resume", "A checkpoint of optimizer and scheduler goes on with the same schedule."
)
def scheduler_resume(subject: Subject) -> None:
    make = SCHEDULERS["OneCycleLR"]
    params = subject.parameters()
    optimizer = subject.make(params, lr=0.0625)
    scheduler = make(optimizer)
    _rates(subject, optimizer, params, scheduler, 0, 3)
    others = clones(params)
    other = subject.make(others, lr=0.0625)
    resumed = make(other)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    resumed.load_state_dict(through_bytes(scheduler.state_dict()))
    got = _rates(subject, training(other), others, resumed, 3, 3)
    wanted = _rates(subject, optimizer, params, scheduler, 3, 3)
    expect(got == wanted, f"learning rates {_said(wanted)}", _said(got))
    expect_same(values(others), values(params), "the bits of a run that was never interrupted")
