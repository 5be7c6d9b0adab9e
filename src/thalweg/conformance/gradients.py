"""Gradients: those that are missing, late or strange, and that they belong to the user."""

from __future__ import annotations

import copy
from typing import Any

import torch

from thalweg.conformance.check import check, expect, fail
from thalweg.conformance.compare import NEARLY, dense, expect_same, values
from thalweg.conformance.subject import PATIENT, Subject


@check("gradients-untouched", "Users log, clip and accumulate gradients after the step.")
def gradients_untouched(subject: Subject) -> None:
    known = subject.make(subject.parameters()).param_groups[0]
    _leaves_alone(subject, {})
    for number in ({"weight_decay": 0.1}, {"maximize": True}):
        if known.keys() >= number.keys():
            _leaves_alone(subject, number)


def _leaves_alone(subject: Subject, numbers: dict[str, Any]) -> None:
    """Steps of a group with these numbers write to no gradient."""
    params = subject.parameters()
    optimizer = subject.make([{"params": params, **numbers}])
    after = ", ".join(["the step", *(f"{k}={v}" for k, v in numbers.items())])
    for t in range(2):
        grads = subject.gradients(params, t)
        kept = [dense(g).clone() for g in grads]
        subject.step(optimizer, params, grads)
        for p, g in zip(params, grads, strict=True):
            expect(p.grad is g, f"the gradient that was set, after {after}", "another object")
        expect_same([dense(g) for g in grads], kept, f"the numbers that were set, after {after}")


@check("no-gradients", "A step before any backward moves nothing and raises nothing.")
def no_gradients(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.make(params)
    before = values(params)
    subject.step_with_what_is_there(optimizer)
    expect_same(values(params), before, "weights that nothing moves")
    subject.run(optimizer, params, 0, 2)
    before = values(params)
    optimizer.zero_grad()
    expect(all(p.grad is None for p in params), "zero_grad() to set gradients to None", "tensors")
    subject.step_with_what_is_there(optimizer)
    expect_same(values(params), before, "weights that nothing moves")


@check(
    "none-gradient",
    "A layer that a batch does not reach keeps its weights and its state.",
    unless=("one-group",),
)
def none_gradient(subject: Subject) -> None:
    optimizer, params = subject.run_new(2)
    before, state = values(params), copy.deepcopy(dict(optimizer.state.get(params[1], {})))
    grads = subject.gradients(params, 2)
    subject.step(optimizer, params, [grads[0], None, grads[2]])
    expect_same(params[1].detach(), before[1], "a weight without gradient that stays")
    now = dict(optimizer.state.get(params[1], {}))
    expect_same(now, state, "the state of a weight without gradient as it was")


@check(
    "late-gradient",
    "A layer whose first gradient comes late begins its own count: bias correction depends on it.",
    unless=("coupled",),
)
def late_gradient(subject: Subject) -> None:
    _as_alone(subject, {0, 1})


@check(
    "frozen-and-back",
    "A layer frozen for a while goes on where it stopped, with its own count.",
    unless=("coupled",),
)
def frozen_and_back(subject: Subject) -> None:
    _as_alone(subject, {2, 3})


def _as_alone(subject: Subject, missing: set[int]) -> None:
    """A parameter without gradient in some steps walks as alone, in an optimizer that does not step then."""
    params, others = subject.parameters(), subject.parameters()
    optimizer, alone = subject.make(params), subject.make(others[1:2])
    for t in range(7):
        grads = subject.gradients(params, t)
        there = t not in missing
        subject.step(optimizer, params, [grads[0], grads[1] if there else None, grads[2]])
        if there:
            subject.step(alone, others[1:2], subject.gradients(others, t)[1:2])
    expect_same(params[1].detach(), others[1].detach(), "the steps it takes alone", nearly=NEARLY)


@check(
    "expanded-gradient",
    "sum().backward() gives gradients whose elements are one number in storage.",
    unless=("sparse-only",),
)
def expanded_gradient(subject: Subject) -> None:
    params, others = subject.parameters(), subject.parameters()
    optimizer, other = subject.make(params), subject.make(others)
    for t in range(2):
        number = torch.tensor(0.25 - t)
        grads = [number.expand(p.shape) for p in params]
        subject.step(optimizer, params, grads)
        subject.step(other, others, [g.contiguous() for g in grads])
        expect(float(number) == 0.25 - t, "the gradient's one number as it was", f"{float(number)}")
    expect_same(values(params), values(others), "the steps of a contiguous gradient", nearly=NEARLY)


@check(
    "sparse-gradient",
    "Embeddings with sparse=True send sparse gradients, often uncoalesced.",
    needs=("sparse", "sparse-only"),
)
def sparse_gradient(subject: Subject) -> None:
    params, others = subject.parameters(shapes=[(6, 5)]), subject.parameters(shapes=[(6, 5)])
    optimizer, other = subject.make(params), subject.make(others)
    for t in range(PATIENT):
        rows = torch.tensor([[1, 4, 1]])  # row 1 stands twice
        parts = subject.gradients([torch.nn.Parameter(torch.zeros(3, 5))], t)[0].to_dense()
        grad = torch.sparse_coo_tensor(rows, parts, (6, 5), check_invariants=True)
        subject.step(optimizer, params, [grad.clone()])
        subject.step(other, others, [grad.coalesce() if _sparse_only(subject) else grad.to_dense()])
    expect_same(values(params), values(others), "the steps of its sum", nearly=NEARLY)
    expect(not torch.equal(params[0], subject.parameters(shapes=[(6, 5)])[0]), "a move", "none")


def _sparse_only(subject: Subject) -> bool:
    return "sparse-only" in subject.declared


@check(
    "sparse-refused",
    "An optimizer that cannot take sparse gradients says so instead of training wrong.",
    unless=("sparse", "sparse-only"),
)
def sparse_refused(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.make(params)
    before = values(params)
    grads = [g.to_sparse(1) for g in subject.gradients(params, 0)]
    try:
        subject.step(optimizer, params, grads)
    except Exception:
        expect_same(values(params), before, "nothing moved by a step that raised")
        return
    fail("an exception for sparse gradients (or the declared capability sparse)", "a step")


@check(
    "autograd-version",
    "A backward through a graph from before the step would use changed weights: autograd must notice.",
)
def autograd_version(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.make(params)
    for _ in range(3):
        before = values(params)
        loss = torch.stack([(p * p).sum() for p in params]).sum()
        found = torch.autograd.grad(loss, params, retain_graph=True)
        subject.step(optimizer, params, [subject.as_taken(g) for g in found])
        if all(map(torch.equal, params, before)):
            continue  # a first step that only looks at the gradient
        try:
            torch.autograd.backward(loss)
        except RuntimeError:
            continue
        fail(
            "RuntimeError from a backward through weights that the step changed",
            "gradients computed from the changed weights",
        )
