"""Tensors of every kind: empty, single, strided, complex, of several precisions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from thalweg.conformance.check import check, expect
from thalweg.conformance.compare import NEARLY, expect_same, values
from thalweg.conformance.subject import PATIENT, Subject, copies


@check(
    "zero-size",
    "An empty parameter (no experts on this rank, an unused head) disturbs nothing.",
)
def zero_size(subject: Subject) -> None:
    shapes: list[tuple[int, ...]] = [(6, 5), (0, 5)]
    _moves(subject, subject.parameters(shapes=shapes))
    if "coupled" not in subject.declared:
        _as_without(subject, shapes)


def _as_without(subject: Subject, shapes: list[tuple[int, ...]]) -> None:
    """The first parameter walks as if the others were not there."""
    params, others = subject.parameters(shapes=shapes), subject.parameters(shapes=shapes[:1])
    subject.run(subject.make(params), params, 0, 3)
    subject.run(subject.make(others), others, 0, 3)
    expect_same(params[0].detach(), others[0].detach(), "the steps without it", nearly=NEARLY)


def _moves(subject: Subject, params: list[Parameter]) -> None:
    before = values(params)
    subject.run(subject.make(params), params, 0, PATIENT)
    for p, b in zip(params, before, strict=True):
        expect(bool(torch.isfinite(p).all()), "finite weights", f"{p.detach().flatten()[:3]}")
        moved = p.numel() == 0 or not torch.equal(p.detach(), b)
        expect(
            moved, f"a move of the parameter of shape {tuple(p.shape)}", f"none in {PATIENT} steps"
        )


@check(
    "zero-dim",
    "A temperature or a gate is a parameter without dimensions.",
    unless=("matrix-only", "sparse-only"),
)
def zero_dim(subject: Subject) -> None:
    _moves(subject, subject.parameters(shapes=[(6, 5), ()]))


@check(
    "channels-last",
    "Convolutions trained in channels_last have weights and gradients in that layout.",
    unless=("matrix-only", "sparse-only"),
)
def channels_last(subject: Subject) -> None:
    def relaid(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    params = _walk_alike(subject, [(4, 3, 2, 2), (2, 5, 3, 3)], relaid)
    kept = all(p.is_contiguous(memory_format=torch.channels_last) for p in params)
    expect(kept, "weights that stay channels_last", "another layout")


@check(
    "non-contiguous-parameter",
    "Tied, transposed and sliced weights are views; the elements between theirs are not to be written.",
    unless=("sparse-only",),
)
def non_contiguous_parameter(subject: Subject) -> None:
    wholes = []

    def sliced(x: Tensor) -> Tensor:
        whole = torch.full((x.shape[0], 2 * x.shape[1]), 77.0)
        wholes.append(whole)
        whole[:, ::2] = x
        return whole[:, ::2]

    params = _walk_alike(subject, [(6, 5), (3, 8)], sliced)
    for p, whole in zip(params, wholes[: len(params)], strict=True):
        expect_same(whole[:, ::2], p.detach(), "the weights in the slice that they were given as")
        untouched = bool((whole[:, 1::2] == 77.0).all())
        expect(untouched, "the elements between those of a slice as they were", "changed ones")
    _walk_alike(subject, [(6, 5), (3, 8)], lambda x: x.mT.contiguous().mT)


def _walk_alike(
    subject: Subject, shapes: Sequence[tuple[int, ...]], relaid: Callable[[Tensor], Tensor]
) -> list[Parameter]:
    """Parameters in another layout, with gradients in it, walk as contiguous ones; return them."""
    others = subject.parameters(shapes=shapes)
    params = [Parameter(relaid(p.detach().clone())) for p in others]
    optimizer, other = subject.make(params), subject.make(others)
    for t in range(3):
        grads = subject.gradients(others, t)
        subject.step(optimizer, params, [relaid(g) if t else g for g in copies(grads)])
        subject.step(other, others, grads)
    expect_same(values(params), values(others), "the steps of contiguous parameters", nearly=NEARLY)
    return params


@check(
    "non-contiguous-gradient",
    "Permutes and slices in the model leave gradients whose strides are not the parameter's.",
    unless=("sparse-only",),
)
def non_contiguous_gradient(subject: Subject) -> None:
    params, others = (subject.parameters(shapes=[(6, 5), (3, 8)]) for _ in range(2))
    optimizer, other = subject.make(params), subject.make(others)
    for t in range(4):
        grads = subject.gradients(others, t)
        strided = [
            g.clone().mT.contiguous().mT if t % 2 else g.repeat_interleave(2, 1)[:, ::2]
            for g in grads
        ]
        subject.step(optimizer, params, strided)
        subject.step(other, others, grads)
    expect_same(values(params), values(others), "the steps of contiguous gradients", nearly=NEARLY)


@check(
    "complex",
    "Complex weights (signal models, quantum layers) move as the pairs of numbers that they are.",
    unless=("real-only", "matrix-only", "sparse-only"),
)
def complex_parameters(subject: Subject) -> None:
    params = subject.parameters(torch.complex64, shapes=[(7,), (6, 5)])
    others = [Parameter(_parts(p.detach().clone())) for p in params]
    optimizer, other = subject.make(params), subject.make(others)
    for t in range(4):
        grads = subject.gradients(params, t)
        subject.step(optimizer, params, grads)
        subject.step(other, others, [_parts(g) for g in copies(grads)])
    got = [_parts(v) for v in values(params)]
    expect_same(got, values(others), "the steps of real and imaginary parts", nearly=NEARLY)


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary parts side by side, in as many dimensions: a vector stays one, and a row a row."""
    return torch.view_as_real(x).flatten(-2)


@check(
    "mixed-dtypes",
    "Norms in float32 beside layers in bfloat16 share an optimizer, and each is stepped in its own.",
    unless=("coupled",),
)
def mixed_dtypes(subject: Subject) -> None:
    kinds = (torch.float32, torch.float64, torch.bfloat16)
    params, others = (
        [p for kind in kinds for p in subject.parameters(kind, shapes=[(6, 5)])] for _ in range(2)
    )
    optimizer, alone = subject.make(params), [subject.make([p]) for p in others]
    for t in range(3):
        grads = subject.gradients(params, t)
        subject.step(optimizer, params, copies(grads))
        for one, p, g in zip(alone, others, grads, strict=True):
            subject.step(one, [p], [g])
    expect_same(values(params), values(others), "each as alone", nearly=NEARLY)
