"""The same floor on CUDA: a few lines of Triton over flat buffers, one launch.

The addresses of single tensors do not matter to a kernel that does nothing with them, so each
stream is one buffer. See ``streams.py`` for why the streams are xor-ed with the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _streams(p, g, m, v, count, three: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    gradient = tl.load(g + at, mask=inside)
    tl.store(p + at, tl.load(p + at, mask=inside) ^ gradient, mask=inside)
    tl.store(m + at, tl.load(m + at, mask=inside) ^ gradient, mask=inside)
    if three:
        tl.store(v + at, tl.load(v + at, mask=inside) ^ gradient, mask=inside)


class Streams:
    """Flat buffers of a step with ``slots`` states and the kernel over them."""

    def __init__(self, weights: list[torch.Tensor], slots: int) -> None:
        flat = torch.cat([weight.flatten() for weight in weights]).view(torch.int32)
        self.buffers = [flat, *(torch.zeros_like(flat) for _ in range(slots + 1))]
        self.slots = slots

    def feed(self, gradients: list[torch.Tensor]) -> None:
        """Fill the gradient's buffer."""
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.buffers[1].copy_(flat.view(torch.int32))

    def step(self) -> None:
        """Launch once over everything."""
        count = self.buffers[0].numel()
        last = self.buffers[-1]  # stands in for v where there is none, and is not touched
        grid: Any = (triton.cdiv(count, BLOCK),)
        _streams[grid](*self.buffers[:3], last, count, three=self.slots == 2, block=BLOCK)

    def drop(self) -> None:
        """The buffers stay."""

    def state_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers[2:])
