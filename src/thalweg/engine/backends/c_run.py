"""The fused backend on the CPU: address tables for generated C, one call per bucket and pass."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from thalweg.engine.backends import LAYOUTS, Numbers, c_source, toolchain
from thalweg.engine.backends.c_vectors import Work, most, works
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
    stored = (*kind.codecs.items(), *kind.vectors.items())
    key = (kind.graph.text, tuple((s, c.name) for s, c in stored), kind.compute)
    if key not in _sources:
        made = works(kind.graph, kind.programs)
        _sources[key] = c_source.source(
            kind.programs, kind.codecs, kind.compute, made, kind.vectors
        )
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


class Struct:
    """A struct of the C text: numbers and addresses, and whatever these are of."""

    def __init__(self, fields: Sequence[str], addresses: int) -> None:
        self.at = {field: i for i, field in enumerate(fields)}
        self.table = (ctypes.c_int64 * (len(fields) + addresses))()
        self.held: dict[str, Tensor | array[Any]] = {}

    def put(self, field: str, x: Tensor) -> None:
        """Point a field at a tensor."""
        self.held[field] = x
        self.table[self.at[field]] = x.data_ptr()

    def longs(self, field: str, values: Sequence[int] | Tensor) -> None:
        """Point a field at integers."""
        self.put(field, torch.as_tensor(values, dtype=torch.int64).contiguous())

    def units(self, units: tuple[Tensor, Tensor, Tensor]) -> None:
        """Say what is to be done together."""
        self.table[self.at["units"]] = len(units[0])
        for field, values in zip(("unit_tensor", "unit_begin", "unit_end"), units, strict=True):
            self.longs(field, values)

    def take(self, place: int, addresses: Addresses) -> None:
        """Point one of the arrays of addresses elsewhere."""
        self.held[f"addresses {place}"] = addresses.array
        self.table[len(self.at) + place] = addresses.address


# The Table struct of the C text, field by field.
_FIELDS = (
    "units", "threads", "grain", "tensors", "unit_tensor", "unit_begin", "unit_end", "size",
    "scalar_row", "block_base", "matrices", "row_size", "row_base", "matrix_size", "matrix_base",
    "line_size", "line_base", "column_size", "column_base", "scalars", "row_values", "matrix_values",
    "line_values", "column_values", "partials", "sums", "blocks", "results",
)  # fmt: skip
# And that of the numbers in between; sums and slots follow.
_VECTOR_FIELDS = (
    "units", "threads", "unit_tensor", "unit_begin", "unit_end", "rows", "lines", "columns",
    "row_base", "matrix_base", "line_base", "column_base", "numbers",
    "row_values", "matrix_values", "line_values", "column_values",
)  # fmt: skip


class PassTable(Struct):
    """The C table of one pass.

    Args:
        bucket: The tensors.
        program: The pass.
        values: By lane, the numbers per row, matrix, line and column that it reads.
    """

    def __init__(self, bucket: Bucket, program: Program, values: Mapping[Lane, Tensor]) -> None:
        self.bucket, self.program = bucket, program
        self.real = bucket.kind.compute
        self.streams = list(map(bucket.tensors, bucket.kind.codecs))
        super().__init__(_FIELDS, len(self.streams))
        self.rows_of: Sequence[int] | None = None
        self._fixed()
        for lane, x in values.items():
            self.put(f"{lane.name.lower()}_values", x)

    def _fixed(self) -> None:
        b, program = self.bucket, self.program
        tensors = len(b.params)
        self.table[self.at["tensors"]] = tensors
        units = _units(b, program.sweep)
        self.units(units)
        self.table[self.at["grain"]] = max(1, min(len(units[0]) // 32, GRAIN))
        self.longs("size", b.numel)
        self._extents()
        blocks = _blocks(b, program.sweep)
        self.longs("block_base", exclusive_sums(blocks))
        results = tensors if program.sweep == Lane.ELEMENT else b.extents.total[program.sweep]
        self.table[self.at["blocks"]], self.table[self.at["results"]] = sum(blocks), results
        sums = len(program.reductions)
        self.put("partials", torch.zeros(sums * sum(blocks), dtype=torch.float64, device="cpu"))
        self.sums = torch.zeros((sums, results), dtype=torch.float64, device="cpu")
        for r, node in enumerate(program.reductions):
            if node.op == "max":  # of nothing, where no unit comes by
                self.sums[r] = -torch.inf
        self.put("sums", self.sums)
        self.serial = sum(b.numel) < SERIAL
        self.of_tensor = any(c.lane != Lane.HOST for c in program.columns)
        if self.of_tensor:
            self.longs("scalar_row", torch.arange(tensors, device="cpu"))
            self.put(
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
            self.longs("matrices", extents.count[Lane.MATRIX])
        for lane in lanes:
            self.longs(f"{lane.name.lower()}_size", extents.size[lane])
            self.longs(f"{lane.name.lower()}_base", extents.base[lane])

    def fill(self, numbers: Numbers) -> None:
        """Write this step's scalars."""
        if self.of_tensor:
            _fill(self.held["scalars"], self.program.columns, numbers)
        else:
            if self.rows_of is not numbers.row_of:
                self.rows_of = numbers.row_of
                self.longs(
                    "scalar_row", torch.tensor(numbers.row_of, dtype=torch.int64, device="cpu")
                )
            values = _row_major(self.program.columns, numbers)
            words = array("d" if self.real == torch.float64 else "f", values)
            self.held["scalars"] = words
            self.table[self.at["scalars"]] = words.buffer_info()[0]
        self.table[self.at["threads"]] = 1 if self.serial else toolchain.threads()


class VectorTable(Struct):
    """The C table of what is made between two passes.

    Args:
        bucket: The tensors.
        work: What is made.
        all_works: Of the bucket.
        sums: Results of the passes, by reduction.
        values: By lane, where to put what a pass reads.
    """

    def __init__(
        self,
        bucket: Bucket,
        work: Work,
        all_works: Sequence[Work],
        sums: Mapping[Node, Tensor],
        values: Mapping[Lane, Tensor],
    ) -> None:
        self.work, extents = work, bucket.extents
        size = most(all_works)
        super().__init__(_VECTOR_FIELDS, size["sums"] + size["slots"])
        together = [n + m for _, n, m in extents.stacks]
        self.units(_split(extents.count[Lane.MATRIX], together, SUM_BLOCK))
        self.longs("rows", extents.count[Lane.ROW])
        self.longs("lines", [n for _, n, _ in extents.stacks])
        self.longs("columns", [n for _, _, n in extents.stacks])
        for lane in VECTORS:
            self.longs(f"{lane.name.lower()}_base", extents.base[lane])
        self.numbers = torch.zeros(
            (len(bucket.params), len(work.numbers)), dtype=torch.float64, device="cpu"
        )
        self.put("numbers", self.numbers)
        for lane in work.values:
            self.put(f"{lane.name.lower()}_values", values[lane])
        for i, node in enumerate(work.sums):
            self.held[f"sums {i}"] = sums[node]
            self.table[len(self.at) + i] = sums[node].data_ptr()
        for i, name in enumerate(work.slots):
            self.take(size["sums"] + i, Addresses(bucket.slots[name]))
        self.serial = sum(extents.total[lane] for lane in VECTORS) < SERIAL

    def fill(self, numbers: Numbers) -> None:
        """Write this step's scalars."""
        _fill(self.numbers, self.work.numbers, numbers)
        self.table[self.at["threads"]] = 1 if self.serial else toolchain.threads()


def _fill(out: Any, nodes: Sequence[Node], numbers: Numbers) -> None:
    """Write scalars, a row per tensor: a copy for all that the host computed, and one for each other."""
    if not nodes:
        return
    values = _row_major(nodes, numbers)
    rows = torch.tensor(values, dtype=torch.float64, device="cpu").view(-1, len(nodes))
    out.copy_(rows if len(rows) == 1 else rows[torch.tensor(numbers.row_of, device="cpu")])
    for i, node in enumerate(nodes):
        if node.lane != Lane.HOST:
            out[:, i] = numbers.device[node]


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
        return _split(bucket.numel, [1] * len(bucket.numel), UNIT)
    counts, sizes = _pieces(bucket, sweep)
    return _split([n if size else 0 for n, size in zip(counts, sizes, strict=True)], sizes, UNIT)


def _split(counts: Sequence[int], sizes: Sequence[int], unit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Work of about `unit` each, where tensors have so many pieces of such sizes: (tensor, begin, end)."""
    lengths, each = (torch.tensor(x, dtype=torch.int64, device="cpu") for x in (counts, sizes))
    step = (unit // each.clamp(min=1)).clamp(min=1)
    many = (lengths + step - 1) // step
    tensor = torch.repeat_interleave(torch.arange(len(lengths), device="cpu"), many)
    place = torch.arange(len(tensor), device="cpu") - (many.cumsum(0) - many)[tensor]
    begin = place * step[tensor]
    return tensor, begin, torch.minimum(begin + step[tensor], lengths[tensor])


class Fused:
    """A bucket with its compiled passes and their tables."""

    def __init__(self, bucket: Bucket, library: ctypes.CDLL) -> None:
        self.bucket = bucket
        kind = bucket.kind
        self.works = works(kind.graph, kind.programs)
        self.tables: list[PassTable] = []
        self.vectors: list[VectorTable | None] = []
        values: dict[tuple[Lane, tuple[Node, ...]], Tensor] = {}
        sums: dict[Node, Tensor] = {}
        for work, program in zip(self.works, (*kind.programs, None), strict=True):
            for key in work.values.items():
                shape = (bucket.extents.total[key[0]], len(key[1]))
                values[key] = torch.zeros(shape, dtype=kind.compute, device="cpu")
            made = {lane: values[lane, nodes] for lane, nodes in work.values.items()}
            table = None if work.is_empty else VectorTable(bucket, work, self.works, sums, made)
            self.vectors.append(table)
            if program is not None:
                along = {lane: program.along(lane) for lane in VECTORS}
                read = {lane: values[lane, nodes] for lane, nodes in along.items() if nodes}
                self.tables.append(PassTable(bucket, program, read))
                sums |= zip(program.reductions, self.tables[-1].sums, strict=True)
        self.functions = [_function(library, f"pass_{i}") for i in range(len(self.tables))]
        self.makers = [
            None if table is None else _function(library, f"vectors_{i}")
            for i, table in enumerate(self.vectors)
        ]
        self.fetch = library.prefetch
        self.fetch.argtypes, self.fetch.restype = [ctypes.c_void_p, ctypes.c_int64], None

    def asks(self, index: int) -> Sequence[Node]:
        """What pass `index` needs of the scalar lane; of -1, what `finish` needs."""
        columns = () if index < 0 else self.bucket.kind.programs[index].columns
        return (*columns, *self.works[index].numbers)

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
        self._make(index, numbers)
        table = self.tables[index]
        table.fill(numbers)
        launch(self.functions[index], table.table)
        return list(table.sums)

    def finish(self, numbers: Numbers) -> None:
        """After the last pass: write the slots that have a number per line or column."""
        self._make(-1, numbers)

    def _make(self, index: int, numbers: Numbers) -> None:
        """Make the numbers per row, matrix, line and column that a pass reads, or that are kept."""
        table, maker = self.vectors[index], self.makers[index]
        if table is not None and maker is not None:
            table.fill(numbers)
            launch(maker, table.table)


def _function(library: ctypes.CDLL, name: str) -> Function:
    function = getattr(library, name)
    function.argtypes, function.restype = [ctypes.c_void_p], None
    return cast("Function", function)


def compile_all(kinds: Sequence[Kind]) -> None:
    """Compile what these kinds need, several at once."""
    if kinds:
        toolchain.build_many(list(dict.fromkeys(map(source_of, kinds))))


def bind(bucket: Bucket) -> Fused:
    """Compile (or find compiled) and build the tables."""
    return Fused(bucket, toolchain.load(source_of(bucket.kind)))
