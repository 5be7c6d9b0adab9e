"""Codecs: how a slot or a parameter is stored, and how kernels read and write it block by block.

A kernel loads a block of words, decodes it into a local array of the computing type, computes, encodes
and stores; so a codec with blocks of 256 (8-bit state with a scale per block) fits as one with 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Codec:
    """One way of storing values.

    Args:
        name: In kernels' text and in messages.
        dtype: Of the stored words.
        block: How many elements are encoded together.
        c_type: The word in C.
        c_decode, c_encode: C text of one element, `{0}` the word or the float; None where it is the identity.
        triton: The word in Triton.
    """

    name: str
    dtype: torch.dtype
    block: int
    c_type: str
    triton: str
    c_decode: str | None = None
    c_encode: str | None = None

    def decode(self, words: Tensor, compute: torch.dtype) -> Tensor:
        """Values of the computing type."""
        return words.to(compute)

    def encode(self, values: Tensor) -> Tensor:
        """Words, rounded to nearest even."""
        return values.to(self.dtype)


_CODECS = (
    Codec("f64", torch.float64, 1, "double", "tl.float64"),
    Codec("f32", torch.float32, 1, "float", "tl.float32"),
    Codec("bf16", torch.bfloat16, 1, "uint16_t", "tl.bfloat16", "from_bf16({0})", "to_bf16({0})"),
    Codec("f16", torch.float16, 1, "_Float16", "tl.float16", "(float){0}", "(_Float16){0}"),
)
_BY_DTYPE = {c.dtype: c for c in _CODECS}
_REAL = {
    torch.complex128: torch.float64,
    torch.complex64: torch.float32,
    torch.complex32: torch.float16,
}


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or that of a complex number's two parts."""
    return _REAL.get(dtype, dtype)


def codec_of(dtype: torch.dtype) -> Codec:
    """The codec of a dtype; a complex one is stored as pairs of reals.

    Raises:
        ArgumentError: There is none.
    """
    try:
        return _BY_DTYPE[real_dtype(dtype)]
    except KeyError:
        allowed = ", ".join(str(c.dtype).removeprefix("torch.") for c in _CODECS)
        raise ArgumentError(f"no codec stores {dtype}; allowed: {allowed}") from None


def computing_dtype(parameter: torch.dtype) -> torch.dtype:
    """What a parameter of that dtype is computed in: float64 for float64, float32 for all others."""
    return torch.float64 if real_dtype(parameter) == torch.float64 else torch.float32
