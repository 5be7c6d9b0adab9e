"""How state is stored."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from thalweg.engine.codecs import codec_of
from thalweg.engine.option import Option, option
from thalweg.errors import ArgumentTypeError


@option(None)
def state_dtype() -> None:
    """No function: the engine reads the group's `state_dtype`."""


class StateDtype(Option):
    """Store slots in another dtype than the parameter's; they are computed in float32 all the same.

    Copies of the weights (Lookahead's slow ones, averages) are never stored in less than the weights.

    Args:
        dtype: Itself or its name: torch.float32 (full moments beside bfloat16 weights),
            torch.bfloat16 (half the bytes beside float32 weights), torch.float16 or torch.float64.

    Raises:
        TypeError: It is no dtype.
        ValueError: No codec stores it.
    """

    spec = state_dtype
    example: ClassVar = {"dtype": "bfloat16"}

    def __init__(self, dtype: torch.dtype | str) -> None:
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(found, torch.dtype) or found.is_complex:
            raise ArgumentTypeError(
                f"StateDtype({dtype!r}); it takes a real dtype or its name: torch.bfloat16, 'bfloat16', "
                "'float16', 'float32', 'float64'"
            )
        codec_of(found)
        super().__init__(dtype=found)

    def keys(self) -> dict[str, Any]:
        """The dtype by name: groups hold plain values."""
        return {"state_dtype": str(self.values["dtype"]).removeprefix("torch.")}
