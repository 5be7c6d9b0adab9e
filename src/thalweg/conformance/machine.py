"""The machine: memory that runs out, processes, threads, backends, and very long runs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from thalweg.conformance.check import NotApplicable, check, expect, fail
from thalweg.conformance.compare import NEARLY, expect_same, snapshot, values
from thalweg.conformance.subject import Subject, copies, training

PATIENCE = 5.0
"""Seconds that a step in a forked process may take before it counts as hanging."""
LARGE = [(256, 512)]  # large enough for torch to use its threads
ALLOCATING = ("empty", "zeros", "ones", "full", "new_empty", "new_zeros", "new_full", "new_ones")
FLOAT32_COUNTS = 2**24
"""x + 1 == x from here on, in float32."""


class _Scarce(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Let the nth tensor that is asked for by name (zeros_like, empty, ...) find no memory."""

    def __init__(self, nth: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = nth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.removesuffix("_like") in ALLOCATING:
            self.left -= 1
            if self.left == 0:
                raise torch.OutOfMemoryError("out of memory, as this check pretends")
        return func(*args, **(kwargs or {}))


@check(
    "failed-allocation",
    "Out of memory while state is made: the step raises, and a retry after making room is a first step.",
    unless=("closure-required", "temporaries"),
)
def failed_allocation(subject: Subject) -> None:
    _, undisturbed = subject.run_new(3)
    for nth in range(1, 41):
        params = subject.parameters()
        optimizer = subject.make(params)
        raised = False
        try:
            with _Scarce(nth):
                subject.step(optimizer, params, _prepared(subject, params))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError):
            raised = True
        if raised:
            _retry(optimizer, nth)
        subject.run(optimizer, params, 1, 2)
        expected = f"the bits of an undisturbed run from a retry after allocation {nth} failed"
        expect_same(values(params), values(undisturbed), expected)
        if not raised:
            return


def _retry(optimizer: Optimizer, nth: int) -> None:
    try:
        optimizer.step()
    except Exception as e:
        fail(f"another try to step, after allocation {nth} failed", f"{type(e).__name__}: {e}")


def _prepared(subject: Subject, params: Sequence[Tensor]) -> list[Tensor]:
    """The first gradients, made outside of the scarcity."""
    with _disable_current_modes():
        return subject.gradients(params, 0)


@check(
    "fork",
    "A worker forked after a threaded step (a data loader, an evaluation) can step too.",
)
def fork(subject: Subject) -> None:
    if not hasattr(os, "fork"):
        raise NotApplicable("this platform does not fork")
    torch.set_num_threads(2)
    params = subject.parameters(shapes=LARGE)
    optimizer = subject.run(subject.make(params), params, 0, 1)
    for p, g in zip(params, subject.gradients(params, 1), strict=True):
        p.grad = g

    def step() -> bytes:
        subject.step_with_what_is_there(optimizer)
        return _digest(params)

    theirs = _in_child(step)
    expect(theirs is not None, f"a step in a forked process within {PATIENCE:g} s", "none: it hung")
    expect(theirs != b"", "a step in a forked process", "an exception or a crash in it")
    expect(theirs == step(), "the bits that the step has in the parent", "others")


def _in_child(work: Callable[[], bytes]) -> bytes | None:
    """What work returns in a forked process: empty if it raised, None if it hung and was killed."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, work())
        finally:
            os._exit(0)
    os.close(writes)
    ready, _, _ = select.select([reads], [], [], PATIENCE)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reads, "rb") as answer:
        return answer.read() if ready else None


def _digest(params: Sequence[Tensor]) -> bytes:
    """A hash of the parameters' bytes, without torch: its threads may be what hangs."""
    found = hashlib.sha256()
    for p in params:
        found.update(ctypes.string_at(p.data_ptr(), p.numel() * p.element_size()))
    return found.digest()


@check("thread-counts", "A resume on a machine with other cores goes on with the same bits.")
def thread_counts(subject: Subject) -> None:
    found = []
    steps = [subject.gradients(subject.parameters(shapes=LARGE), t) for t in range(3)]
    for threads in (1, 2):
        params = subject.parameters(shapes=LARGE)
        optimizer = subject.make(params)
        torch.set_num_threads(threads)
        for grads in steps:
            subject.step(optimizer, params, copies(grads))
        found.append(values(params))
    expect_same(found[1], found[0], "with 2 threads the bits of 1")


@check("repeatable", "Two runs with the same seed give the same bits: what debugging begins with.")
def repeatable(subject: Subject) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        optimizer, _ = subject.run_new(4)
        found.append(snapshot(optimizer))
    expect_same(found[1], found[0], "the bits of the first run")


@check(
    "backends-agree",
    "foreach and fused are ways to compute the same step.",
)
def backends_agree(subject: Subject) -> None:
    probe = subject.make(subject.parameters())
    flags = [f for f in ("foreach", "fused") if subject.declares(probe, f) and _takes(subject, f)]
    if not flags:
        raise NotApplicable("it has no argument foreach or fused")
    plain = dict.fromkeys(flags, False)
    _, wanted = subject.run_new(7, **plain)
    compared = False
    for flag in flags:
        try:
            optimizer, got = subject.run_new(1, **{**plain, flag: True})
        except (RuntimeError, ValueError, NotImplementedError, TypeError):
            continue  # it says that it has none for these parameters
        subject.run(optimizer, got, 1, 6)
        expect_same(
            values(got), values(wanted), f"with {flag}=True the loop's steps", nearly=NEARLY
        )
        compared = True
    if not compared:
        raise NotApplicable(f"it refuses {' and '.join(f'{f}=True' for f in flags)}")


def _takes(subject: Subject, flag: str) -> bool:
    """Whether it is an argument: a key of the groups may stand there for checkpoints alone."""
    try:
        subject.make(subject.parameters(), **{flag: False})
    except TypeError:
        return False
    return True


@check(
    "long-runs",
    "A count in float32 stops at 2^24 steps, and with it everything that depends on it.",
)
def long_runs(subject: Subject) -> None:
    counts = _counts_from(subject, FLOAT32_COUNTS - 2, 4)
    wanted = FLOAT32_COUNTS + 2
    expect(counts == {wanted}, f"a count of 2^24 + 2 = {wanted}", str(sorted(counts)))


@check("counts-in-bf16", "Under a default dtype of bfloat16 a count must not stop at 256.")
def counts_in_bf16(subject: Subject) -> None:
    with _default_dtype(torch.bfloat16):
        counts = _counts_from(subject, 256, 2)
    expect(counts == {258}, "a count of 258", str(sorted(counts)))


def _counts_from(subject: Subject, start: int, steps: int) -> set[int]:
    """The counts after so many steps from a checkpoint in which they were set."""
    optimizer, params = subject.run_new(1)
    first = _counts(optimizer.state_dict())
    subject.run(optimizer, params, 1, 1)
    if first == _counts(
        optimizer.state_dict()
    ):  # none, or a number of that name that counts nothing
        raise NotApplicable("it keeps no count 'step' in its state or groups")
    saved = optimizer.state_dict()
    for holder in _holders(saved):
        step = holder["step"]
        holder["step"] = torch.full_like(step, start) if isinstance(step, Tensor) else start
    optimizer.load_state_dict(saved)
    subject.run(training(optimizer), params, 2, steps)
    return set(_counts(optimizer.state_dict()))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _holders(saved: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The dicts of a checkpoint that may hold a count."""
    yield from (s for s in saved["state"].values() if isinstance(s, dict) and "step" in s)
    yield from (g for g in saved["param_groups"] if "step" in g)


def _counts(saved: dict[str, Any]) -> list[int]:
    return [int(holder["step"]) for holder in _holders(saved)]
