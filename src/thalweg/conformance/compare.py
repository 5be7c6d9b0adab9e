"""Comparing what two runs left behind, to the bit or nearly, and saying where they differ first."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.conformance.check import fail

NEARLY = 1e-5
"""Of the largest element: what another order of the same sums may differ by in float32."""


def snapshot(optimizer: Optimizer) -> dict[str, Any]:
    """Copies of all that a step may change: parameters, state, and the groups' numbers."""
    saved = optimizer.state_dict()
    return copy.deepcopy(
        {
            "parameter": [p.detach() for g in optimizer.param_groups for p in g["params"]],
            "state": saved["state"],
            "group": [{k: v for k, v in g.items() if k != "params"} for g in saved["param_groups"]],
        }
    )


def expect_same(got: Any, wanted: Any, expected: str, *, nearly: float = 0.0) -> None:
    """Answer no with the first difference unless both are alike.

    Args:
        got: Tensors, numbers, or lists and dicts of these.
        wanted: What it should be.
        expected: What that is, in words.
        nearly: How far elements may lie apart, in parts of the tensor's largest element; 0 means the same
            bits.
    """
    found = difference(got, wanted, "", nearly)
    if found:
        fail(expected, found)


def expect_same_run(got: Optimizer, wanted: Optimizer, expected: str) -> None:
    """Answer no unless parameters, state and groups are alike; groups may have more keys than wanted."""
    ours, theirs = snapshot(got), snapshot(wanted)
    pairs = zip(ours["group"], theirs["group"], strict=True)  # torch's base class adds keys on load
    ours["group"] = [{k: g[k] for k in known if k in g} for g, known in pairs]
    expect_same(ours, theirs, expected)


def difference(got: Any, wanted: Any, where: str = "", nearly: float = 0.0) -> str | None:
    """Say where and how two values differ first, or None."""
    if isinstance(wanted, Tensor):
        return _tensors(got, wanted, where or "the tensor", nearly)
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or set(got) != set(wanted):
            keys = list(map(str, got)) if isinstance(got, dict) else type(got).__name__
            return f"{where or 'keys'} {keys} instead of {list(map(str, wanted))}"
        pairs = [(got[k], wanted[k], f"{where} {k}".strip()) for k in wanted]
    elif isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
            return f"{where} {got!r:.60} instead of {wanted!r:.60}"
        pairs = [
            (a, b, f"{where} {i}".strip()) for i, (a, b) in enumerate(zip(got, wanted, strict=True))
        ]
    else:
        return _values(got, wanted, where, nearly)
    return next((d for a, b, w in pairs if (d := difference(a, b, w, nearly))), None)


def _values(got: Any, wanted: Any, where: str, nearly: float) -> str | None:
    if not isinstance(wanted, (int, float, str, bool, type(None))):
        same = type(got) is type(wanted)  # what equality means for it is its own affair
    elif nearly and isinstance(wanted, float) and isinstance(got, float):
        same = abs(got - wanted) <= nearly * abs(wanted)
    else:
        same = got == wanted or (got != got and wanted != wanted)
    return None if same else f"{where} {got!r} instead of {wanted!r}"


def _tensors(got: Any, wanted: Tensor, where: str, nearly: float) -> str | None:
    if not isinstance(got, Tensor):
        return f"{where} {got!r:.60} instead of a tensor"
    if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
        return f"{where} {said(got)} instead of {said(wanted)}"
    a, b = dense(got), dense(wanted)
    apart = (a != b) & ~((a != a) & (b != b))
    if nearly and bool(apart.any()):
        rounds = b.dtype.is_floating_point or b.dtype.is_complex
        rounding = torch.finfo(b.dtype).eps if rounds else 0.0  # bfloat16 has no nearer neighbour
        apart &= ~((a - b).abs() <= max(nearly, rounding) * float(b.abs().max()))
    count = int(apart.sum())
    if not count:
        return None
    largest = float((a - b).abs()[apart].max())
    return f"{where} ({said(wanted)}) different in {count} of {b.numel()} elements, by up to {largest:.2g}"


def dense(x: Tensor) -> Tensor:
    """The numbers of a tensor of any layout."""
    x = x.detach()
    return x.to_dense() if x.layout != torch.strided else x


def said(x: Tensor) -> str:
    """A tensor in a message: its dtype and shape."""
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def values(params: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the parameters' numbers."""
    return [p.detach().clone() for p in params]
