"""Checkpoints: what is saved comes back, and goes on as if nothing had happened."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.conformance.check import check, expect, fail
from thalweg.conformance.compare import expect_same, expect_same_run, snapshot, values
from thalweg.conformance.subject import Subject, clones, through_bytes, training

UNDISTURBED = "the bits of a run that was never interrupted"


@check("resume", "A run that was killed goes on from its checkpoint, twice, as if it had not been.")
def resume(subject: Subject) -> None:
    whole, _ = subject.run_new(7)
    optimizer, params = subject.run_new(2)
    for at in (2, 5):
        params = clones(params)
        resumed = subject.make(params)
        resumed.load_state_dict(through_bytes(optimizer.state_dict()))
        optimizer = subject.run(training(resumed), params, at, 3 if at == 2 else 2)
    expect_same_run(optimizer, whole, UNDISTURBED)


@check(
    "load-before-first-step",
    "accelerate loads an optimizer's own state_dict into it before the first step.",
)
def load_before_first_step(subject: Subject) -> None:
    _, whole_params = subject.run_new(2)
    params = subject.parameters()
    optimizer = subject.make(params)
    optimizer.load_state_dict(optimizer.state_dict())
    subject.run(training(optimizer), params, 0, 2)
    expect_same(values(params), values(whole_params), "the bits of a run without that")


@check("weights-only", "torch.load reads only plain data by default, and trainers keep it so.")
def weights_only(subject: Subject) -> None:
    optimizer, _ = subject.run_new(2)
    saved = optimizer.state_dict()
    try:
        loaded = through_bytes(saved, weights_only=True)
    except pickle.UnpicklingError as e:
        found = re.search(r"GLOBAL (\S+)", str(e))
        fail("tensors, numbers, strings and containers of these", found[1] if found else str(e))
    expect_same(loaded, saved, "the saved values")
    subject.make(subject.parameters()).load_state_dict(loaded)


@check("dtypes-kept", "State in bfloat16, float32 or integers comes back as what it was saved.")
def dtypes_kept(subject: Subject) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        params = subject.parameters(dtype)
        optimizer = subject.run(subject.make(params), params, 0, 2)
        others = clones(params)
        other = subject.make(others)
        other.load_state_dict(through_bytes(optimizer.state_dict()))
        expect_same(_dtypes(other), _dtypes(optimizer), f"the dtypes of the state of {dtype}")
        subject.run(training(other), others, 2, 1)
        for p in others:
            expect(p.dtype == dtype, f"parameters of {dtype} after a step", str(p.dtype))


def _dtypes(optimizer: Optimizer) -> Any:
    def walk(x: Any) -> Any:
        if isinstance(x, Tensor):
            return str(x.dtype)
        if isinstance(x, dict):
            return {k: walk(v) for k, v in x.items()}
        return [walk(v) for v in x] if isinstance(x, (list, tuple)) else None

    return walk(optimizer.state_dict()["state"])


@check(
    "loading-copies",
    "Two runs from one checkpoint in memory, or a best checkpoint kept aside, must not write to each other.",
)
def loading_copies(subject: Subject) -> None:
    optimizer, params = subject.run_new(3)
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    others = clones(params)
    other = subject.make(others)
    other.load_state_dict(saved)
    expect_same(saved, kept, "a checkpoint that loading leaves as it was")
    subject.run(training(other), others, 3, 2)
    expect_same(saved, kept, "a checkpoint that steps after loading leave as it was")


@check(
    "older-checkpoint",
    "A checkpoint of before a flag existed lacks its key, and loads and steps none the less.",
)
def older_checkpoint(subject: Subject) -> None:
    _, whole_params = subject.run_new(4)
    optimizer, params = subject.run_new(2)
    saved = through_bytes(optimizer.state_dict())
    for group in saved["param_groups"]:
        for key in ("foreach", "maximize", "capturable", "differentiable", "fused"):
            group.pop(key, None)
    others = clones(params)
    other = subject.make(others)
    other.load_state_dict(saved)
    subject.run(training(other), others, 2, 2)
    expect_same(values(others), values(whole_params), UNDISTURBED)


@check(
    "foreign-group-keys",
    "Schedulers and trainers keep keys of their own in the groups (initial_lr, lr_scale, param_group).",
)
def foreign_group_keys(subject: Subject) -> None:
    params = subject.parameters()
    optimizer = subject.make([{"params": params, "param_group": "bias", "lr_scale": 0.5}])
    subject.run(optimizer, params, 0, 1)
    others = clones(params)
    other = subject.make(others)
    other.load_state_dict(through_bytes(optimizer.state_dict()))
    group = other.param_groups[0]
    got = {key: group.get(key) for key in ("param_group", "lr_scale")}
    expect_same(got, {"param_group": "bias", "lr_scale": 0.5}, "group keys kept through load")


@check("deepcopy", "Trainers copy a model and its optimizer to try something and go back.")
def deepcopy(subject: Subject) -> None:
    _copied(subject, copy.deepcopy)


@check("pickle", "Spawned workers and some savers send the whole optimizer as bytes.")
def pickled(subject: Subject) -> None:
    _copied(subject, lambda x: pickle.loads(pickle.dumps(x)))


def _copied(subject: Subject, copier: Any) -> None:
    """A copy of (parameters, optimizer) steps as the original does, and apart from it."""
    optimizer, params = subject.run_new(2)
    try:
        others, other = copier((params, optimizer))
        before = values(params)
        subject.run(other, others, 2, 3)
    except AttributeError as e:
        if "pickle" in str(e):  # what cannot be sent at all: a function in the groups, say
            raise
        fail(
            "a copy that steps",
            f"AttributeError: {e}; torch.optim.Optimizer copies and pickles defaults, state and param_groups "
            "alone: keep what the step reads in these, or define __getstate__ and __setstate__",
        )
    expect_same(values(params), before, "an original that steps of its copy leave alone")
    subject.run(optimizer, params, 2, 3)
    expect_same_run(other, optimizer, "the bits of the original")


class _Model(nn.Module):
    """What torch.distributed.checkpoint finds parameters in."""

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(params)


@check(
    "dcp-resume",
    "torch.distributed.checkpoint is how large runs are saved, by torchtitan, Lightning and FSDP users.",
    unless=("closure-required", "sparse-only"),
)
def dcp_resume(subject: Subject) -> None:
    from torch.distributed.checkpoint import state_dict as dcp

    optimizer, params = subject.run_new(3)
    saved = through_bytes(dcp.get_optimizer_state_dict(_Model(params), optimizer))
    others = clones(params)
    other = subject.make(others)
    dcp.set_optimizer_state_dict(_Model(others), other, optim_state_dict=saved)
    expect_same(values(others), values(params), "weights that loading does not move")
    subject.run(training(other), others, 3, 3)
    subject.run(optimizer, params, 3, 3)
    expect_same(values(others), values(params), UNDISTURBED)
    expect_same(snapshot(other)["state"], snapshot(optimizer)["state"], UNDISTURBED)


@check(
    "dcp-moves-nothing",
    "torch.distributed.checkpoint takes a step with lr 0 and zero gradients to make the state.",
    unless=("closure-required", "sparse-only"),
)
def dcp_moves_nothing(subject: Subject) -> None:
    from torch.distributed.checkpoint import state_dict as dcp

    params = subject.parameters()
    optimizer = subject.make(params)
    before = values(params)
    rates = [float(g["lr"]) for g in optimizer.param_groups]
    dcp.get_optimizer_state_dict(_Model(params), optimizer)
    expect_same(values(params), before, "weights that saving does not move")
    after = [float(g["lr"]) for g in optimizer.param_groups]
    expect_same(after, rates, "the learning rates of before")
    if any(p.grad is not None and bool(p.grad.to_dense().any()) for p in params):
        fail("no gradients left behind", "gradients that are not zero")
