"""Groups: the numbers of each are its own, and count from the step in which they are written."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Parameter

from thalweg.conformance.check import NotApplicable, check, expect
from thalweg.conformance.compare import NEARLY, expect_same, values
from thalweg.conformance.subject import PATIENT, Subject, copies


@check(
    "lr-from-groups",
    "Schedulers, warm-ups and users write group['lr'], and mean it.",
    unless=("anchored",),
)
def lr_from_groups(subject: Subject) -> None:
    params, others = subject.parameters(), subject.parameters()
    other = subject.make(others, lr=0.25)
    written = subject.make(params, lr=0.0625)
    for group in written.param_groups:
        group["lr"] = 0.25
    subject.run(other, others, 0, 1)
    subject.run(written, params, 0, 1)
    expect_same(values(params), values(others), "the step of an optimizer made with that lr")


@check(
    "tensor-lr",
    "An lr in a tensor is how compiled and captured loops change it.",
    unless=("number-lr",),
)
def tensor_lr(subject: Subject) -> None:
    _, wanted = subject.run_new(3, lr=0.0625)
    lr = torch.tensor(0.0625)
    _, got = subject.run_new(3, lr=lr)
    expect_same(values(got), values(wanted), "the steps of the number 0.0625", nearly=NEARLY)
    expect(float(lr) == 0.0625, "a tensor that steps leave alone", f"{float(lr):g}")


@check(
    "lr-per-group",
    "Layer-wise rates and YOLO's bias warm-up give groups rates of their own.",
    unless=("one-group", "coupled"),
)
def lr_per_group(subject: Subject) -> None:
    params, others = subject.parameters(), subject.parameters()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.25}]
    subject.run(subject.make(groups, lr=0.0625), params, 0, 3)
    parts = [
        (subject.make(others[:2], lr=0.0625), others[:2]),
        (subject.make(others[2:], lr=0.25), others[2:]),
    ]
    for t in range(3):
        grads = subject.gradients(others, t)
        subject.step(*parts[0], grads[:2])
        subject.step(*parts[1], grads[2:])
    expect_same(values(params), values(others), "each group as alone", nearly=NEARLY)


@check(
    "group-numbers",
    "Groups have their own weight_decay, betas and momentum: no decay for biases is in every recipe.",
    unless=("one-group", "coupled"),
)
def group_numbers(subject: Subject) -> None:
    probe = subject.make(subject.parameters())
    compared = 0
    for key, value in probe.defaults.items():
        other = None if key == "lr" else _other(subject, key, value)
        if other is not None:
            compared += _as_its_own(subject, key, other)
    if not compared:
        raise NotApplicable("no number of its groups is an argument that shows in a few steps")


def _other(subject: Subject, key: str, value: Any) -> Any:
    """Another number that it takes for this argument and puts into its groups, or None."""
    decays = [0.1] * (key == "weight_decay" and value != 0.1)  # large enough to show
    for other in decays + _neighbours(value):
        try:
            made = subject.make(subject.parameters(), **{key: other})
            group = subject.make([{"params": subject.parameters(), key: other}]).param_groups[0]
        except Exception:  # out of its range, or no argument
            continue
        if made.param_groups[0].get(key) == other == group.get(key):
            return other
    return None


def _neighbours(value: Any) -> list[Any]:
    """Numbers, or pairs of numbers, that may be in range where this is."""
    if isinstance(value, (tuple, list)):
        parts = [_neighbours(v) for v in value]
        return [type(value)(both) for both in zip(*parts, strict=False)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    if value == 0:
        return [0.1, 1]
    return [value + 1, value - 1] if isinstance(value, int) else [0.5 * value, 0.9 * value]


def _as_its_own(subject: Subject, key: str, other: Any) -> bool:
    """A group with its own number walks as an optimizer made with it; whether the number shows at all."""
    params, others, plain = (subject.parameters() for _ in range(3))
    optimizer = subject.make([{"params": params[:2]}, {"params": params[2:], key: other}])
    alone = subject.make(others[:2])
    apart = subject.make(others[2:], **{key: other})
    without = subject.make(plain[2:])
    for t in range(PATIENT):
        grads = subject.gradients(params, t)
        subject.step(optimizer, params, copies(grads))
        subject.step(alone, others[:2], copies(grads[:2]))
        subject.step(apart, others[2:], copies(grads[2:]))
        subject.step(without, plain[2:], copies(grads[2:]))
    said = f"a group with {key}={other} to walk as an optimizer made with it"
    expect_same(values(params), values(others), said, nearly=NEARLY)
    shows = not all(map(torch.equal, others[2:], plain[2:]))
    expect(
        shows or key != "weight_decay", f"weight_decay={other} to change the step", "the same bits"
    )
    return shows


@check(
    "maximize-per-group",
    "Where maximize is an argument, a group may have its own: adversarial and min-max training.",
    unless=("one-group",),
)
def maximize_per_group(subject: Subject) -> None:
    params, others = subject.parameters(), subject.parameters()
    probe = subject.make(subject.parameters())
    if not subject.declares(probe, "maximize"):
        raise NotApplicable("it has no argument maximize")
    # Maximize and a penalty on the weights have signs of their own: without decay they agree.
    common = {"weight_decay": 0.0} if "weight_decay" in probe.defaults else {}
    parts = [{**common, "maximize": False}, {**common, "maximize": True}]
    optimizer = subject.make(_grouped(params, parts))
    other = subject.make(_grouped(others, parts[:1] * 2))
    for t in range(3):
        grads = subject.gradients(params, t)
        subject.step(optimizer, params, copies(grads))
        subject.step(other, others, [*grads[:2], *(-g for g in grads[2:])])
    expect_same(
        values(params),
        values(others),
        "the steps of negated gradients in that group",
        nearly=NEARLY,
    )


def _grouped(params: list[Parameter], parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**parts[0], "params": params[:2]}, {**parts[1], "params": params[2:]}]


@check(
    "add-param-group",
    "Unfreezing layers adds their parameters to a running optimizer.",
    unless=("one-group", "coupled"),
)
def add_param_group(subject: Subject) -> None:
    params, others = subject.parameters(), subject.parameters()
    optimizer = subject.run(subject.make(params[:2]), params[:2], 0, 2)
    optimizer.add_param_group({"params": params[2:], "lr": 0.25})
    parts = [
        (subject.run(subject.make(others[:2]), others[:2], 0, 2), others[:2]),
        (subject.make(others[2:], lr=0.25), others[2:]),
    ]
    for t in range(2, 5):
        subject.step(optimizer, params, subject.gradients(params, t))
        grads = subject.gradients(others, t)
        subject.step(*parts[0], grads[:2])
        subject.step(*parts[1], grads[2:])
    expect_same(values(params), values(others), "each group as alone", nearly=NEARLY)
