"""The fused backend on CUDA: address tables for generated Triton, one launch per bucket and pass.

Tables lie on the device. What changes from step to step (scalars, the addresses of gradients) is copied
there from a fresh pinned buffer each time, without waiting: torch gives such a buffer out again only
when its copy is done. Nothing here reads from the device.
"""

from __future__ import annotations

import linecache
import os
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import LAYOUTS, ByVector, Numbers, triton_source, upload
from thalweg.engine.graph import VECTORS, Lane
from thalweg.engine.passes import Program
from thalweg.engine.sums import COLUMN_BLOCK
from thalweg.engine.tables import Bucket, Kind
from thalweg.errors import BackendError

name = "fused (Triton)"
UNIT = 4 * triton_source.BLOCK
"""Elements of a unit of work: enough that finding out where they are costs little."""
SETTINGS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False}
"""How kernels are compiled; multiplication and addition stay two roundings, as in eager."""

Kernel = Any
"""A triton.jit function; triton has no types."""


def launch(kernel: Kernel, units: int, tables: Sequence[Tensor]) -> None:
    """The one place where a kernel is called; benchmarks replace it to time what stands around it."""
    kernel[(units,)](*tables, **SETTINGS)


def interpreted() -> bool:
    """Whether Triton runs on the CPU, slowly, to be tested."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def why_not(layout: str, device: torch.device) -> str | None:
    """Why this backend cannot run such a bucket, or None."""
    if device.type != "cuda" and not interpreted():
        return f"it runs on CUDA, and the parameters are on {device.type}"
    return LAYOUTS[layout] if layout != "dense" else unavailable(device)


_PROBE = """\
import triton
import triton.language as tl


@triton.jit
def probe(x):
    tl.store(x, 42)
"""


@lru_cache(maxsize=64)
def unavailable(device: torch.device) -> str | None:
    """Why Triton does not work on a device, found out once by running a kernel; None if it does."""
    try:
        x = torch.zeros(1, dtype=torch.int64, device=device)
        with guard(device):
            launch(load(_PROBE)["probe"], 1, [x])
        return None if x.item() == 42 else "a Triton kernel gave a wrong answer"
    except ImportError:
        return "triton is not installed (pip install triton)"
    except Exception as error:  # whatever Triton's compiler, its launcher or the driver raise
        return f"Triton does not work here: {type(error).__name__}: {str(error).strip()[:200]}"


def guard(device: torch.device) -> AbstractContextManager[object]:
    """The device on which kernels are launched: Triton takes the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=256)
def load(text: str) -> dict[str, Kernel]:
    """The kernels of a text, by name; no file is written, as Triton reads the text from linecache."""
    origin = f"<thalweg {sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[origin] = (len(text), None, text.splitlines(keepends=True), origin)
    namespace: dict[str, Kernel] = {"__name__": "thalweg.generated"}
    exec(compile(text, origin, "exec"), namespace)
    return namespace


_sources: dict[tuple[str, tuple[tuple[str, str], ...], torch.dtype], str] = {}


def source_of(kind: Kind) -> str:
    """The Triton text for a kind of bucket."""
    key = (kind.graph.text, tuple((s, c.name) for s, c in kind.codecs.items()), kind.compute)
    if key not in _sources:
        _sources[key] = triton_source.source(kind.programs, kind.codecs, kind.compute)
    return _sources[key]


class Tables:
    """What the passes of a bucket have in common: where its tensors are, and their units of work.

    Args:
        bucket: The tensors.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.device = bucket, bucket.kind.device
        self.count = len(bucket.params)
        lengths = torch.tensor(bucket.numel, dtype=torch.int64, device="cpu")
        counts = (lengths + UNIT - 1) // UNIT
        bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        tensor = torch.repeat_interleave(torch.arange(self.count, device="cpu"), counts)
        begin = (torch.arange(len(tensor), device="cpu") - bounds[tensor]) * UNIT
        units = torch.stack([tensor, begin, torch.minimum(begin + UNIT, lengths[tensor])], 1)
        held = [bucket.tensors(s) for s in bucket.kind.codecs if s != "grad"]
        extents = [
            found[lane] for lane in VECTORS for found in (bucket.extents.size, bucket.extents.base)
        ]
        columns = [*extents, *(map(Tensor.data_ptr, x) for x in held)]
        self.units = len(tensor)
        self.shared: dict[str, Tensor] = {
            "tensors": self.put(list(zip(*columns, strict=True))),
            "units": units.to(self.device),
            "bounds": bounds.to(self.device),
            "each": torch.arange(self.count, device=self.device),
        }
        self.partials = self.column_units = self.folds = 0
        sweeps = {p.sweep for p in bucket.kind.programs}
        for lane in sweeps & {Lane.ROW, Lane.LINE}:
            self.shared[f"{lane.name.lower()}_tensor"] = bucket.extents.owner(lane)
        if Lane.COLUMN in sweeps:
            self._columns()
        self.row_of: Sequence[int] | None = None
        self.take_gradients()

    def _columns(self) -> None:
        """Units of up to 64 lines and BLOCK columns, and what is folded afterwards."""
        extents, width = self.bucket.extents, triton_source.BLOCK
        units, folds = [], []
        for t, (matrices, lines, n) in enumerate(extents.stacks):
            blocks = -(-lines // COLUMN_BLOCK)
            k = torch.arange(matrices, device="cpu").view(-1, 1, 1)
            at = k * lines + torch.arange(0, lines, COLUMN_BLOCK, device="cpu").view(1, -1, 1)
            c = torch.arange(0, n, width, device="cpu").view(1, 1, -1)
            some, here = (n - c).clamp(max=width), ((k + 1) * lines - at).clamp(max=COLUMN_BLOCK)
            first = self.partials + k * blocks * n + c
            each = torch.arange(blocks, device="cpu").view(1, -1, 1)
            units.append(_table(t, at * n + c, here * n, some, first + each * n))
            to = extents.base[Lane.COLUMN][t] + k * n + c
            folds.append(_table(first, first + blocks * n, n, some, to))
            self.partials += matrices * blocks * n
        self.column_units, self.folds = sum(map(len, units)), sum(map(len, folds))
        self.shared["column_units"] = torch.cat(units).to(self.device)
        self.shared["folds"] = torch.cat(folds).to(self.device)

    def put(self, values: Any) -> Tensor:
        """Integers on the device."""
        return upload(values, torch.int64, self.device)

    def take_gradients(self) -> None:
        """Point at the gradients."""
        self.shared["grads"] = self.put([g.data_ptr() for g in self.bucket.grads])

    def row_index(self, row_of: Sequence[int]) -> Tensor:
        """Per tensor, its row of host scalars; most steps number them as the one before did."""
        if row_of is not self.row_of and row_of != self.row_of:
            self.shared["row_of"] = self.put(row_of)
        self.row_of = row_of
        return self.shared["row_of"]


def _table(*columns: Tensor | int) -> Tensor:
    """A row for each combination of these indices."""
    every = [torch.as_tensor(x, device="cpu") for x in columns]
    return torch.stack(torch.broadcast_tensors(*every), -1).reshape(-1, len(every))  # type: ignore[no-untyped-call]


class Pass:
    """One pass of a bucket.

    Args:
        tables: The bucket's.
        program: What it computes.
        sweep: The kernel over units.
        fold: The kernel that adds up their partial results; None where there is nothing to add.
    """

    def __init__(
        self, tables: Tables, program: Program, sweep: Kernel, fold: Kernel | None
    ) -> None:
        self.tables, self.program, self.sweep, self.fold = tables, program, sweep, fold
        self.real = tables.bucket.kind.compute
        self.names = triton_source.arguments(program)
        self.of_tensor = any(c.lane != Lane.HOST for c in program.columns)
        units = {Lane.ELEMENT: tables.units, Lane.COLUMN: tables.column_units}
        partials = {Lane.ELEMENT: tables.units, Lane.COLUMN: tables.partials}
        totals = tables.bucket.extents.total
        by_tensor = program.sweep == Lane.ELEMENT
        self.launches = units[program.sweep] if program.sweep in units else totals[program.sweep]
        self.sums = self._results(tables.count if by_tensor else totals[program.sweep])
        self.out = self.sums if fold is None else self._results(partials[program.sweep])
        self.folds = (tables.count, "bounds") if by_tensor else (tables.folds, "folds")

    def _results(self, count: int) -> Tensor:
        shape = (count, len(self.program.reductions))
        return torch.empty(shape, dtype=torch.float64, device=self.tables.device)

    def compile(self) -> None:
        """Compile for tables as they will be: their types matter, and that each lies on 16 bytes."""
        types = {"scalars": self.real, "out": torch.float64}
        types |= {triton_source.values_of(lane): self.real for lane in VECTORS}
        given = [types.get(n, torch.int64) for n in self.names]
        self.sweep.warmup(*given, grid=(1,), **SETTINGS)
        if self.fold is not None:
            self.fold.warmup(torch.int64, torch.float64, torch.float64, grid=(1,), **SETTINGS)

    def run(self, numbers: Numbers) -> list[Tensor]:
        """Launch it; an entry per tensor or row for each reduction."""
        known = {**self.tables.shared, **self._scalars(numbers), "out": self.out}
        if self.launches:
            launch(self.sweep, self.launches, [known[n] for n in self.names])
        count, table = self.folds
        if self.fold is not None and count:
            launch(self.fold, count, [known[table], self.out, self.sums])
        return list(self.sums.unbind(1))

    def _scalars(self, numbers: Numbers) -> dict[str, Tensor]:
        """This step's scalars: a row of columns per tensor, or as few rows as the host has."""
        found = {}
        if self.of_tensor:
            found = {"scalar_row": self.tables.shared["each"], "scalars": self._per_tensor(numbers)}
        elif self.program.columns:
            values = list(zip(*(numbers.host[c] for c in self.program.columns), strict=True))
            found["scalar_row"] = self.tables.row_index(numbers.row_of)
            found["scalars"] = upload(values, self.real, self.tables.device)
        for lane in VECTORS:
            numbers_of = [numbers.device[c] for c in self.program.along(lane)]
            if numbers_of:
                total = self.tables.bucket.extents.total[lane]
                every = torch.stack([x.expand(total) for x in numbers_of], 1)
                found[triton_source.values_of(lane)] = every.to(self.real)
        return found

    def _per_tensor(self, numbers: Numbers) -> Tensor:
        columns = self.program.columns
        host = [numbers.host[c] for c in columns if c.lane == Lane.HOST]
        by_row = iter(upload(host, torch.float64, self.tables.device)) if host else iter(())
        place = self.tables.row_index(numbers.row_of)
        every = [
            next(by_row)[place]
            if c.lane == Lane.HOST
            else numbers.device[c].double().expand(place.shape)
            for c in columns
        ]
        return torch.stack(every, 1).to(self.real)


class Fused(ByVector):
    """A bucket with its kernels and their tables."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.device = bucket, bucket.kind.device
        self.tables = Tables(bucket)
        kernels = load(source_of(bucket.kind))
        self.passes = [
            Pass(self.tables, p, kernels[f"pass_{i}"], kernels.get(f"fold_{i}"))
            for i, p in enumerate(bucket.kind.programs)
        ]

    def compile(self) -> None:
        """Compile every kernel now, so that nothing can fail once a step writes."""
        with guard(self.device):
            for each in self.passes:
                each.compile()

    def prefetch(self, addresses: array[int]) -> None:
        """Nothing to gain beside the rest."""

    def take_gradients(self) -> None:
        """Note where the gradients are now."""
        self.tables.take_gradients()

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run one pass."""
        with guard(self.device):
            return self.passes[index].run(numbers)


def bind(bucket: Bucket) -> Fused:
    """Build the tables and compile, or find compiled.

    Raises:
        BackendError: Triton fails on the generated text.
    """
    bound = Fused(bucket)
    if interpreted():
        return bound
    try:
        bound.compile()
    except Exception as error:  # Triton's own, its assembler's, the driver's
        raise BackendError(
            f"Triton cannot compile {bucket.kind.rule.name} for {bucket.kind.device}: "
            f"{type(error).__name__}: {str(error).strip()[:500]}; fused=False runs without it"
        ) from error
    return bound
