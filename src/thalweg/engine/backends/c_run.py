"""The fused backend on the CPU: address tables for generated C, one call per bucket and pass."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import LAYOUTS, Numbers, c_source, toolchain
from thalweg.engine.extents import exclusive_sums
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.passes import Program
from thalweg.engine.sums import COLUMN_BLOCK, SUM_BLOCK
from thalweg.engine.tables import Bucket, Kind

name = "fused (C)"
UNIT = 4 * SUM_BLOCK
"""Elements of a unit of work: few enough to share out evenly, many enough to stream."""
SERIAL = 32768
"""Below so many elements a parallel region costs more than it gains."""

GRAIN = 64
"""Units that a thread takes at a time: a long run streams better, many runs share out better."""

Function = Callable[[Any], None]


def launch(function: Function, table: Any) -> None:
    """The one place where a kernel is called; benchmarks replace it to time what stands around it."""
    function(table)


_sources: dict[tuple[str, tuple[tuple[str, str], ...], torch.dtype], str] = {}


def source_of(kind: Kind) -> str:
    """The C text for a kind of bucket."""
    key = (kind.graph.text, tuple((s, c.name) for s, c in kind.codecs.items()), kind.compute)
    if key not in _sources:
        _sources[key] = c_source.source(kind.programs, kind.codecs, kind.compute)
    return _sources[key]


def why_not(layout: str, device: torch.device) -> str | None:
    """Why this backend cannot run such a bucket, or None."""
    if device.type != "cpu":
        return f"it runs on the CPU, and the parameters are on {device.type}"
    if layout != "dense":
        return LAYOUTS[layout]
    return toolchain.unavailable()


class Addresses:
    """One stream's array of addresses, replaced as a whole."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.array = array("Q", map(Tensor.data_ptr, tensors))

    @property
    def address(self) -> int:
        """Of the array itself."""
        return self.array.buffer_info()[0]


# The Table struct of the C text, field by field.
_FIELDS = (
    "units", "threads", "grain", "tensors", "unit_tensor", "unit_begin", "unit_end", "size",
    "scalar_row", "block_base", "matrices", "row_size", "row_base", "matrix_size", "matrix_base",
    "line_size", "line_base", "column_size", "column_base", "scalars", "row_values", "matrix_values",
    "line_values", "column_values", "partials", "sums", "blocks", "results",
)  # fmt: skip
_AT = {field: i for i, field in enumerate(_FIELDS)}


class PassTable:
    """The C table of one pass."""

    def __init__(self, bucket: Bucket, program: Program) -> None:
        self.bucket, self.program = bucket, program
        self.real = bucket.kind.compute
        self.streams = list(map(bucket.tensors, bucket.kind.codecs))
        self.table = (ctypes.c_int64 * (len(_FIELDS) + len(self.streams)))()
        self.held: dict[str, Tensor | array[Any]] = {}
        self.rows_of: Sequence[int] | None = None
        self._fixed()

    def _put(self, field: str, x: Tensor) -> None:
        self.held[field] = x
        self.table[_AT[field]] = x.data_ptr()

    def _longs(self, field: str, values: Sequence[int] | Tensor) -> None:
        self._put(field, torch.as_tensor(values, dtype=torch.int64).contiguous())

    def _fixed(self) -> None:
        b, program = self.bucket, self.program
        tensors = len(b.params)
        self.table[_AT["tensors"]] = tensors
        units, begins, ends = _units(b, program.sweep)
        self.table[_AT["units"]] = len(units)
        self.table[_AT["grain"]] = max(1, min(len(units) // 32, GRAIN))
        for field, values in (
            ("unit_tensor", units),
            ("unit_begin", begins),
            ("unit_end", ends),
            ("size", b.numel),
        ):
            self._longs(field, values)
        self._extents()
        blocks = _blocks(b, program.sweep)
        self._longs("block_base", exclusive_sums(blocks))
        results = tensors if program.sweep == Lane.ELEMENT else b.extents.total[program.sweep]
        self.table[_AT["blocks"]], self.table[_AT["results"]] = sum(blocks), results
        sums = len(program.reductions)
        self._put("partials", torch.zeros(sums * sum(blocks), dtype=torch.float64, device="cpu"))
        self.sums = torch.zeros((sums, results), dtype=torch.float64, device="cpu")
        for r, node in enumerate(program.reductions):
            if node.op == "max":  # of nothing, where no unit comes by
                self.sums[r] = -torch.inf
        self._put("sums", self.sums)
        self.serial = sum(b.numel) < SERIAL
        self.of_tensor = any(c.lane != Lane.HOST for c in program.columns)
        if self.of_tensor:
            self._longs("scalar_row", torch.arange(tensors, device="cpu"))
            self._put(
                "scalars",
                torch.zeros((tensors, len(program.columns)), dtype=self.real, device="cpu"),
            )
        for i, tensors_of in enumerate(self.streams):
            self.take(i, Addresses(tensors_of))

    def _extents(self) -> None:
        """Where rows, matrices, lines and columns are, if the pass goes by them or reads their numbers."""
        lanes, extents = self.program.lanes, self.bucket.extents
        if lanes - {Lane.ROW}:
            lanes |= {Lane.MATRIX, Lane.LINE, Lane.COLUMN}
            self._longs("matrices", extents.count[Lane.MATRIX])
        for lane in lanes:
            self._longs(f"{lane.name.lower()}_size", extents.size[lane])
            self._longs(f"{lane.name.lower()}_base", extents.base[lane])

    def take(self, stream: int, addresses: Addresses) -> None:
        """Point a stream elsewhere."""
        self.held[f"stream {stream}"] = addresses.array
        self.table[len(_FIELDS) + stream] = addresses.address

    def fill(self, numbers: Numbers) -> None:
        """Write this step's scalars."""
        columns = self.program.columns
        values = _row_major(columns, numbers)
        if self.of_tensor:
            scalars = self.held["scalars"]
            assert isinstance(scalars, Tensor)
            # One copy for all that the host computed, then one for each that the device did.
            rows = torch.tensor(values, dtype=torch.float64, device="cpu").view(-1, len(columns))
            scalars.copy_(
                rows if len(rows) == 1 else rows[torch.tensor(numbers.row_of, device="cpu")]
            )
            for i, c in enumerate(columns):
                if c.lane != Lane.HOST:
                    scalars[:, i] = numbers.device[c]
        else:
            if self.rows_of is not numbers.row_of:
                self.rows_of = numbers.row_of
                self._longs(
                    "scalar_row", torch.tensor(numbers.row_of, dtype=torch.int64, device="cpu")
                )
            words = array("d" if self.real == torch.float64 else "f", values)
            self.held["scalars"] = words
            self.table[_AT["scalars"]] = words.buffer_info()[0]
        for lane in VECTORS:
            found = [numbers.device[c] for c in self.program.along(lane)]
            if found:
                whole = [x.expand(self.bucket.extents.total[lane]) for x in found]
                values_of = torch.stack(whole, 1).to(self.real)
                self._put(f"{lane.name.lower()}_values", values_of)
        self.table[_AT["threads"]] = 1 if self.serial else toolchain.threads()


def _row_major(columns: Sequence[Node], numbers: Numbers) -> list[float]:
    """Host scalars row by row, with room for what the device computes."""
    rows = max(map(len, numbers.host.values()), default=1)
    blank = (0.0,) * rows
    by_column = [numbers.host.get(c, blank) for c in columns]
    return [float(x) for row in zip(*by_column, strict=True) for x in row]


def _blocks(bucket: Bucket, sweep: Lane) -> list[int]:
    """How many partial results each tensor leaves."""
    extents = bucket.extents
    if sweep == Lane.ELEMENT:
        return [-(-n // SUM_BLOCK) for n in bucket.numel]
    if sweep == Lane.COLUMN:
        return [k * -(-lines // COLUMN_BLOCK) * n for k, lines, n in extents.stacks]
    counts = zip(extents.count[sweep], extents.size[sweep], strict=True)
    return [n * -(-size // SUM_BLOCK) for n, size in counts]


def _pieces(bucket: Bucket, sweep: Lane) -> tuple[list[int], list[int]]:
    """Of each tensor: how many rows, lines or blocks of lines it has, and the elements in one."""
    extents = bucket.extents
    if sweep == Lane.COLUMN:
        counts = [k * -(-lines // COLUMN_BLOCK) for k, lines, _ in extents.stacks]
        return counts, [min(lines, COLUMN_BLOCK) * n for _, lines, n in extents.stacks]
    return extents.count[sweep], extents.size[sweep]


def _units(bucket: Bucket, sweep: Lane) -> tuple[Tensor, Tensor, Tensor]:
    """Work of about UNIT elements each: (tensor, begin, end) in elements, or in what the pass goes by."""
    if sweep == Lane.ELEMENT:
        lengths = torch.tensor(bucket.numel, dtype=torch.int64, device="cpu")
        step = torch.full_like(lengths, UNIT)
    else:
        lengths, sizes = (
            torch.tensor(x, dtype=torch.int64, device="cpu") for x in _pieces(bucket, sweep)
        )
        lengths = torch.where(sizes > 0, lengths, 0)
        step = (UNIT // sizes.clamp(min=1)).clamp(min=1)
    counts = (lengths + step - 1) // step
    tensor = torch.repeat_interleave(torch.arange(len(lengths), device="cpu"), counts)
    begin = (torch.arange(len(tensor), device="cpu") - (counts.cumsum(0) - counts)[tensor]) * step[
        tensor
    ]
    return tensor, begin, torch.minimum(begin + step[tensor], lengths[tensor])


class Fused:
    """A bucket with its compiled passes and their tables."""

    def __init__(self, bucket: Bucket, library: ctypes.CDLL) -> None:
        self.bucket = bucket
        self.tables = [PassTable(bucket, p) for p in bucket.kind.programs]
        self.functions: list[Function] = []
        for i in range(len(self.tables)):
            function = getattr(library, f"pass_{i}")
            function.argtypes, function.restype = [ctypes.c_void_p], None
            self.functions.append(function)

        self.fetch = library.prefetch
        self.fetch.argtypes, self.fetch.restype = [ctypes.c_void_p, ctypes.c_int64], None

    def prefetch(self, addresses: array[int]) -> None:
        """Ask for these cache lines."""
        self.fetch(addresses.buffer_info()[0], len(addresses))

    def take_gradients(self) -> None:
        """Note where the gradients are now."""
        addresses = Addresses(self.bucket.grads)
        for table in self.tables:
            table.take(1, addresses)

    def run(self, index: int, numbers: Numbers) -> list[Tensor]:
        """Run one pass."""
        table = self.tables[index]
        table.fill(numbers)
        launch(self.functions[index], table.table)
        return list(table.sums)


def compile_all(kinds: Sequence[Kind]) -> None:
    """Compile what these kinds need, several at once."""
    if kinds:
        toolchain.build_many(list(dict.fromkeys(map(source_of, kinds))))


def bind(bucket: Bucket) -> Fused:
    """Compile (or find compiled) and build the tables."""
    return Fused(bucket, toolchain.load(source_of(bucket.kind)))
