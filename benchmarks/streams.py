"""The floor: an optimizer step's loads and stores with no arithmetic, in C of our own.

Every element of every stream is loaded once and stored once, in one parallel region over
(tensor, chunk) pairs. A gradient that nothing used would not be loaded, and a stream stored as
it was loaded would not be stored; so each written stream is xor-ed, as 32-bit integers, with the
gradient: one single-cycle vector instruction a stream, which no cache or memory can notice and
for which no value is slow (floats could turn subnormal). The buffers hold no meaningful floats
afterwards; they are the kernel's own. Nothing here comes from the package that is measured.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCE = r"""
#include <stdint.h>
typedef uint32_t word;
typedef struct { word *p; const word *g; word *m; word *v; int64_t count; } chunk;

static void two(word *restrict p, const word *restrict g, word *restrict m, int64_t count) {
    for (int64_t i = 0; i < count; i++) { p[i] ^= g[i]; m[i] ^= g[i]; }
}
static void three(word *restrict p, const word *restrict g, word *restrict m, word *restrict v,
                  int64_t count) {
    for (int64_t i = 0; i < count; i++) { p[i] ^= g[i]; m[i] ^= g[i]; v[i] ^= g[i]; }
}
void streams(const chunk *chunks, int64_t number, int threads) {
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < number; i++) {
        chunk c = chunks[i];
        if (c.v) three(c.p, c.g, c.m, c.v, c.count); else two(c.p, c.g, c.m, c.count);
    }
}
"""
FLAGS = ("-O3", "-march=native", "-fopenmp")
CHUNK = 16384  # elements; 64 KiB a stream, the quickest of 1024 to 1048576 where it was written


def compiler() -> list[str]:
    """The C compiler's command, from CC where it is set."""
    return shlex.split(os.environ.get("CC", "gcc"))


def compile_source(target: Path, *flags: str) -> None:
    """Compile the kernel to ``target``; raises CalledProcessError with gcc's own words."""
    command = [*compiler(), *FLAGS, *flags, "-x", "c", "-", "-o", str(target)]
    subprocess.run(command, input=SOURCE, text=True, check=True, capture_output=True)


@cache
def _kernel() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "streams.so"
        compile_source(target, "-shared", "-fPIC")
        # After torch, so that its OpenMP runtime, being loaded already, serves this object too.
        function = ctypes.CDLL(str(target)).streams
    function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    function.restype = None
    return function


class Streams:
    """Buffers of a step with ``slots`` states (1: 20 bytes an element, 2: 28) and the kernel."""

    def __init__(self, weights: list[torch.Tensor], slots: int) -> None:
        self.weights = weights
        self.slots = [[torch.zeros_like(weight) for weight in weights] for _ in range(slots)]
        self.table = torch.empty(0, 5, dtype=torch.int64)
        self.kernel = _kernel()

    def feed(self, gradients: list[torch.Tensor]) -> None:
        """Write the table of chunks for these gradients."""
        self.gradients = gradients  # the table holds addresses only
        nothing = [0] * len(self.weights)
        rows: list[tuple[int, ...]] = []
        columns = [[t.data_ptr() for t in part] for part in (self.weights, gradients, *self.slots)]
        columns += [nothing] * (4 - len(columns))
        for weight, *addresses in zip(self.weights, *columns, strict=True):
            for start in range(0, weight.numel(), CHUNK):
                moved = (address + 4 * start if address else 0 for address in addresses)
                rows.append((*moved, min(CHUNK, weight.numel() - start)))
        self.table = torch.tensor(rows, dtype=torch.int64)

    def step(self) -> None:
        """Run the kernel once over everything."""
        self.kernel(self.table.data_ptr(), self.table.shape[0], torch.get_num_threads())

    def drop(self) -> None:
        """Let the gradients go."""
        self.gradients = []

    def state_bytes(self) -> int:
        return sum(slot.nbytes for part in self.slots for slot in part)
