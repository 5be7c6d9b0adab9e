"""Triton text from programs: one file per graph and storage, one kernel per pass.

A pass is launched once over all units of a bucket. A unit decides its branches on the scalars of its
tensor, and the body it comes to sweeps its elements block by block: whole blocks of tensors that lie on
16 bytes without a mask, so that loads and stores are 128 bits wide, everything else under one. What a
body computes stands once, in a function of its own. No number of an optimizer is in the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from thalweg.engine.codecs import Codec
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.ops import OPS
from thalweg.engine.passes import Body, Branch, Program, Tree

BLOCK = 1024
"""Elements computed together: eight for each thread of four warps."""
SIZE = {lane: 2 * i for i, lane in enumerate(VECTORS)}
"""In the table of tensors: where the size of a row (matrix, ...) stands; the first row stands behind it."""
TENSOR_COLUMNS = 2 * len(VECTORS)
"""Of the table of tensors before the addresses."""
COLUMN_UNIT = 5
"""Of the table of units that go by columns: tensor, first element, elements to the end, columns, where to."""
COLUMN_FOLD = 5
"""Of the table of their folds: first partial result, their end, their distance, columns, where to."""

_HEAD = f"""\
import triton
import triton.language as tl

BLOCK = tl.constexpr({BLOCK})"""
_DIV = """\
@triton.jit
def div(a, b):
    return {text}"""
_ROOT = """\
@triton.jit
def root(x):
    return {text}"""
_LARGER = """\
@triton.jit
def larger(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def largest(x):
    some = tl.sum((x != x).to(tl.int32)) > 0
    return tl.where(some, float("nan"), tl.max(x))"""
_ANGLE = """\
@triton.jit
def angle(y, x):
    # atan2 in float64: |atan| at a quarter c near the ratio r, plus a series in (r - c) / (1 + r c), which is
    # at most 1/8.
    real = y.dtype
    y, x = y.to(tl.float64), x.to(tl.float64)
    up, right = tl.abs(y), tl.abs(x)
    small, large = tl.minimum(up, right), tl.maximum(up, right)
    one = tl.full((), 1.0, tl.float64)
    r = tl.where(large == 0, 0 * one, tl.where(small == large, one, small / large))
    near = tl.floor(r * 4.0 + 0.5)
    z = (r - near * 0.25) / (1.0 + r * near * 0.25)
    w = -z * z
    a = one / 19
    for k in tl.static_range(9):
        a = one / (17 - 2 * k) + w * a
    a *= z
    a += tl.where(near == 1, tl.full((), {quarters[0]!r}, tl.float64), 0 * one)
    a += tl.where(near == 2, tl.full((), {quarters[1]!r}, tl.float64), 0 * one)
    a += tl.where(near == 3, tl.full((), {quarters[2]!r}, tl.float64), 0 * one)
    a += tl.where(near == 4, tl.full((), {quarters[3]!r}, tl.float64), 0 * one)
    pi = tl.full((), {pi!r}, tl.float64)
    a = tl.where(up > right, pi / 2 - a, a)
    a = tl.where((x < 0) | ((x == 0) & (one / x < 0)), pi - a, a)
    a = tl.where((y < 0) | ((y == 0) & (one / y < 0)), -a, a)
    return tl.where(y != y, y, tl.where(x != x, x, a)).to(real)"""
_ROWS = """\
@triton.jit
def rows_from(at, size, lanes):
    # The row of each element of a block; no more than a block is counted, so 32 bits are enough.
    first = at // size
    left = tl.minimum((first + 1) * size - at, BLOCK).to(tl.int32)
    narrow = tl.minimum(size, BLOCK).to(tl.int32)
    return first + tl.where(lanes < left, 0, 1 + (lanes - left) // narrow)"""

_COLUMNS = """\
@triton.jit
def columns_from(at, columns, all, lanes):
    # The column of each element of a block, counted through the matrices of a tensor.
    return at + lanes - columns * (rows_from(at, columns, lanes) - rows_from(at, all, lanes))"""


def arguments(program: Program) -> tuple[str, ...]:
    """The tables that a pass is launched with, in the order of its parameters."""
    wanted = {
        _units(program): True,
        "tensors": True,
        "grads": "grad" in program.loads,
        "scalar_row": bool(program.columns),
        "scalars": bool(program.columns),
        **{values_of(lane): bool(program.along(lane)) for lane in VECTORS},
        "out": bool(program.reductions),
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def _units(program: Program) -> str:
    """The table in which a unit finds what it is."""
    if program.by_row:
        return f"{program.sweep.name.lower()}_tensor"
    return "column_units" if program.sweep == Lane.COLUMN else "units"


def values_of(lane: Lane) -> str:
    """The table with numbers per row, matrix, line or column."""
    return f"{lane.name.lower()}_values"


class Writer:
    """Writes the passes of one graph."""

    def __init__(
        self, programs: Sequence[Program], codecs: Mapping[str, Codec], compute: torch.dtype
    ) -> None:
        self.programs = programs
        self.codecs = codecs
        self.real = "tl.float64" if compute == torch.float64 else "tl.float32"
        self.held = tuple(s for s in codecs if s != "grad")

    def text(self) -> str:
        """The whole file."""
        passes = [self._pass(i, p) for i, p in enumerate(self.programs)]
        folds = [_fold(i, p) for i, p in enumerate(self.programs) if p.reductions and not p.by_row]
        helpers = self._helpers("\n".join((*passes, *folds)))
        return "\n\n\n".join([_HEAD, *helpers, *passes, *folds]) + "\n"

    def _helpers(self, text: str) -> list[str]:
        text += _COLUMNS if " columns_from(" in text else ""
        double = self.real == "tl.float64"
        every = {
            " div(": _DIV.format(text="a / b" if double else "tl.div_rn(a, b)"),
            " root(": _ROOT.format(text="tl.sqrt(x)" if double else "tl.sqrt_rn(x)"),
            " angle(": _ANGLE.format(pi=math.pi, quarters=[math.atan(k / 4) for k in (1, 2, 3, 4)]),
            " larger(": _LARGER,
            " rows_from(": _ROWS,
            " columns_from(": _COLUMNS,
        }
        return [helper for call, helper in every.items() if call in text]

    def _pass(self, index: int, program: Program) -> str:
        functions: list[str] = []
        decide = self._tree(index, program, program.tree, functions)
        lines = [
            "@triton.jit",
            f"def pass_{index}({', '.join(arguments(program))}):",
            "    unit = tl.program_id(0).to(tl.int64)",
            *_indented(self._place(program)),
        ]
        if program.columns:
            lines.append(f"    s = scalars + {len(program.columns)} * tl.load(scalar_row + t)")
        return "\n\n\n".join([*functions, "\n".join([*lines, *_indented(decide)])])

    def _place(self, program: Program) -> list[str]:
        """Which part of which tensor a unit is."""
        width = TENSOR_COLUMNS + len(self.held)
        reductions = len(program.reductions)
        if program.by_row:
            size = SIZE[program.sweep]
            return [
                f"t = tl.load({_units(program)} + unit)",
                f"tensor = tensors + {width} * t",
                f"begin = (unit - tl.load(tensor + {size + 1})) * tl.load(tensor + {size})",
                f"end = begin + tl.load(tensor + {size})",
                f"result = out + {reductions} * unit",
            ]
        if program.sweep == Lane.COLUMN:
            return [
                f"column_units += {COLUMN_UNIT} * unit",
                "t = tl.load(column_units)",
                "begin = tl.load(column_units + 1)",
                "end = begin + tl.load(column_units + 2)",
                "columns = tl.load(column_units + 3)",
                f"tensor = tensors + {width} * t",
                f"result = out + {reductions} * tl.load(column_units + 4)",
            ]
        lines = [
            "t = tl.load(units + 3 * unit)",
            "begin = tl.load(units + 3 * unit + 1)",
            "end = tl.load(units + 3 * unit + 2)",
            f"tensor = tensors + {width} * t",
        ]
        return [*lines, f"result = out + {reductions} * unit"] if reductions else lines

    def _tree(self, index: int, program: Program, tree: Tree, functions: list[str]) -> list[str]:
        """The decisions, down to calls of bodies, whose functions are added to the list."""
        if isinstance(tree, Branch):
            column = program.columns.index(tree.condition)
            yes = self._tree(index, program, tree.yes, functions)
            no = self._tree(index, program, tree.no, functions)
            return [f"if tl.load(s + {column}) != 0:", *_indented(yes), "else:", *_indented(no)]
        if tree.is_empty:
            return ["pass"]
        body = BodyWriter(self, program, tree, f"{index}_{len(functions) // 2}")
        functions += body.update(), body.sweep()
        return [body.call]


class BodyWriter:
    """Writes one straight-line body: what it computes, and the sweep over a unit's elements."""

    def __init__(self, writer: Writer, program: Program, body: Body, label: str) -> None:
        self.writer, self.program, self.body, self.label = writer, program, body, label
        self.names = {id(n): f"n{i}" for i, n in enumerate(body.nodes)}
        self.constants: dict[str, str] = {}
        self.loads = [s for s in writer.codecs if s in body.loads]
        self.touched = [s for s in writer.codecs if s in body.loads or s in body.stores]
        used = {id(a) for n in body.nodes for a in n.args}
        used |= {id(n) for n in (*body.stores.values(), *body.reduced)}
        self.scalars = [i for i, c in enumerate(program.columns) if id(c) in used]
        self.vectors = [i for i, c in enumerate(program.vectors) if id(c) in used]
        self.lanes = [n for n in VECTORS if n in {program.vectors[i].lane for i in self.vectors}]
        tables = {
            "columns": program.sweep == Lane.COLUMN,
            "tensor": True,
            "tl.load(grads + t)": "grad" in self.touched,
            "s": bool(self.scalars),
            **dict.fromkeys(map(values_of, self.lanes), True),
            "result": bool(body.reduced),
        }
        given = [table for table, is_used in tables.items() if is_used]
        self.call = f"sweep_{label}({', '.join(['begin', 'end', *given])})"
        self.parameters = ["begin, end", *("grad" if "(" in table else table for table in given)]

    def _stream(self, name: str) -> int:
        return list(self.writer.codecs).index(name)

    def update(self) -> str:
        """The function from loaded values and scalars to what is stored and reduced."""
        lines = []
        for node in self.body.nodes:
            text = OPS[node.op].triton.format(*(self._operand(a) for a in node.args))
            lines.append(f"{self.names[id(node)]} = {text}")
        out = [self._operand(n) for n in (*self.body.stores.values(), *self.body.reduced)]
        constants = [
            f"{name} = tl.full((), {text}, {self.writer.real})"
            for text, name in self.constants.items()
        ]
        lines = [*constants, *lines, f"return {', '.join(out)}"]
        parameters = ", ".join(self._inputs())
        return "\n".join(
            ["@triton.jit", f"def update_{self.label}({parameters}):", *_indented(lines)]
        )

    def _inputs(self) -> list[str]:
        loaded = [f"x{self._stream(s)}" for s in self.loads]
        return [*loaded, *(f"r{i}" for i in self.vectors), *(f"s{i}" for i in self.scalars)]

    def _operand(self, node: Node) -> str:
        if node.op == "const":
            return self._constant(node)
        if node.lane == Lane.ELEMENT:
            if node.op == "input":
                kind, name = node.attr
                return f"x{self._stream(name or kind)}"
            return self.names[id(node)]
        if node.lane in VECTORS:
            text = f"r{self.program.vectors.index(node)}"
        else:
            text = f"s{self.program.columns.index(node)}"
        return f"({text} != 0)" if node.boolean else text

    def _constant(self, node: Node) -> str:
        """A name: written in place, a constant would be of the type that Triton gives it."""
        value = float(node.attr)
        text = repr(value) if math.isfinite(value) else f'float("{value}")'
        name = self.constants.setdefault(text, f"c{len(self.constants)}")
        return f"({name} != 0)" if node.boolean else name

    def sweep(self) -> str:
        """The function that goes over a unit's elements."""
        lines = ["lanes = tl.arange(0, BLOCK)", *(self._address(s) for s in self.touched)]
        lines += [f"s{i} = tl.load(s + {i})" for i in self.scalars]
        lines += self._extents()
        kinds = list(enumerate(self.program.reductions)) if self.body.reduced else []
        lines += [f"sum{i} = tl.full((BLOCK,), {_START[n.op]}, tl.float64)" for i, n in kinds]
        if self.program.sweep == Lane.COLUMN:
            lines += self._by_columns()
        else:
            lines += [f"whole = {self._whole()}", "for at in range(begin, whole, BLOCK):"]
            lines += _indented(self._block(masked=False))
            lines += ["for at in range(whole, end, BLOCK):"]
            lines += _indented(["inside = lanes < end - at", *self._block(masked=True)])
            lines += [f"tl.store(result + {i}, {_TOTAL[n.op].format(f'sum{i}')})" for i, n in kinds]
        head = f"def sweep_{self.label}({', '.join(self.parameters)}):"
        return "\n".join(["@triton.jit", head, *_indented(lines)])

    def _by_columns(self) -> list[str]:
        """Some columns of some lines, added up line by line."""
        width = len(self.program.reductions)
        return [
            "inside = lanes < columns",
            f"for at in range(begin, end, tl.load(tensor + {SIZE[Lane.LINE]})):",
            *_indented(self._block(masked=True)),
            *(
                f"tl.store(result + {width} * lanes + {i}, sum{i}, mask=inside)"
                for i in range(width)
            ),
        ]

    def _extents(self) -> list[str]:
        """Sizes of rows, lines, ..., and their numbers from the first one of the tensor on."""
        sizes = dict.fromkeys(n for n in self.lanes if n != Lane.COLUMN)
        if Lane.COLUMN in self.lanes:
            sizes |= dict.fromkeys((Lane.MATRIX, Lane.LINE))
        lines = [f"{n.name.lower()}_size = tl.load(tensor + {SIZE[n]})" for n in sizes]
        for lane in self.lanes:
            width = len(self.program.along(lane))
            lines.append(f"{values_of(lane)} += {width} * tl.load(tensor + {SIZE[lane] + 1})")
        return lines

    def _numbers(self, mask: str) -> list[str]:
        """The number of each element's row, matrix, line, column."""
        lines = []
        for lane in self.lanes:
            name = lane.name.lower()
            index = (
                "columns_from(at, line_size, matrix_size, lanes)"
                if lane == Lane.COLUMN
                else f"rows_from(at, {name}_size, lanes)"
            )
            lines.append(f"{name} = {name}_values + {len(self.program.along(lane))} * {index}")
        for i in self.vectors:
            node = self.program.vectors[i]
            place = self.program.along(node.lane).index(node)
            lines.append(f"r{i} = tl.load({node.lane.name.lower()} + {place}{mask})")
        return lines

    def _address(self, stream: str) -> str:
        if stream == "grad":
            return f"a{self._stream(stream)} = grad"
        column = TENSOR_COLUMNS + self.writer.held.index(stream)
        return f"a{self._stream(stream)} = tl.load(tensor + {column})"

    def _whole(self) -> str:
        """Where the blocks end that need no mask: nowhere unless every stream lies on 16 bytes."""
        first = [f"(a{self._stream(s)} + {self._bytes(s)} * begin)" for s in self.touched]
        aligned = f"({' | '.join(first)}) % 16 == 0" if first else "begin == begin"
        return f"tl.where({aligned}, end - (end - begin) % BLOCK, begin)"

    def _bytes(self, stream: str) -> int:
        return self.writer.codecs[stream].dtype.itemsize

    def _block(self, masked: bool) -> list[str]:
        mask = ", mask=inside" if masked else ""
        lines = [self._pointer(s, masked) for s in self.touched]
        loads = {self._stream(s): self._cast(s) for s in self.loads}
        lines += [f"x{i} = tl.load(p{i}{mask}){cast}" for i, cast in loads.items()]
        lines += self._numbers(mask)
        out = [f"y{i}" for i in range(len(self.body.stores) + len(self.body.reduced))]
        lines.append(f"{', '.join(out)} = update_{self.label}({', '.join(self._inputs())})")
        lines += [
            f"tl.store(p{self._stream(s)}, {self._word(s, y)}{mask})"
            for s, y in zip(self.body.stores, out, strict=False)
        ]
        return [*lines, *self._accumulate(out[len(self.body.stores) :], masked)]

    def _pointer(self, stream: str, masked: bool) -> str:
        i, word = self._stream(stream), self.writer.codecs[stream].triton
        pointer = f"(a{i} + {self._bytes(stream)} * at).to(tl.pointer_type({word}))"
        return f"p{i} = {pointer if masked else f'tl.multiple_of({pointer}, 16)'} + lanes"

    def _cast(self, stream: str) -> str:
        word = self.writer.codecs[stream].triton
        return "" if word == self.writer.real else f".to({self.writer.real})"

    def _word(self, stream: str, value: str) -> str:
        codec, real = self.writer.codecs[stream], self.writer.real
        if codec.triton == real:
            return value
        # Rounded as eager rounds: to 16 bits by way of 32.
        by_way = ".to(tl.float32)" if real == "tl.float64" and self._bytes(stream) == 2 else ""
        return f"{value}{by_way}.to({codec.triton})"

    def _accumulate(self, values: Sequence[str], masked: bool) -> list[str]:
        lines = []
        for i, (node, value) in enumerate(zip(self.program.reductions, values, strict=True)):
            text = f"{value}.to(tl.float64)"
            if masked:
                text = f"tl.where(inside, {text}, {_START[node.op]})"
            lines.append(f"sum{i} = {_JOIN[node.op].format(f'sum{i}', text)}")
        return lines


_START = {"sum": "0.0", "max": 'float("-inf")'}
_JOIN = {"sum": "{0} + {1}", "max": "larger({0}, {1})"}
_TOTAL = {"sum": "tl.sum({0})", "max": "largest({0})"}


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _fold(index: int, program: Program) -> str:
    """The kernel that adds up each tensor's partial results, in the order of its units."""
    if program.sweep == Lane.COLUMN:
        return _fold_columns(index, program)
    width = len(program.reductions)
    kinds = list(enumerate(program.reductions))
    block = ["inside = lanes < end - at", f"part = partials + {width} * (at + lanes)"]
    for i, n in kinds:
        loaded = f"tl.load(part + {i}, mask=inside, other={_START[n.op]})"
        block.append(f"sum{i} = {_JOIN[n.op].format(f'sum{i}', loaded)}")
    return "\n".join([
        "@triton.jit",
        f"def fold_{index}(bounds, partials, out):",
        "    t = tl.program_id(0).to(tl.int64)",
        "    end = tl.load(bounds + t + 1)",
        "    lanes = tl.arange(0, BLOCK)",
        *(f"    sum{i} = tl.full((BLOCK,), {_START[n.op]}, tl.float64)" for i, n in kinds),
        "    for at in range(tl.load(bounds + t), end, BLOCK):",
        *_indented(_indented(block)),
        *(
            f"    tl.store(out + {width} * t + {i}, {_TOTAL[n.op].format(f'sum{i}')})"
            for i, n in kinds
        ),
    ])  # fmt: skip


def _fold_columns(index: int, program: Program) -> str:
    """The kernel that adds up some columns' partial results, one after another."""
    width = len(program.reductions)
    kinds = list(enumerate(program.reductions))
    block = []
    for i, n in kinds:
        loaded = (
            f"tl.load(partials + {width} * (at + lanes) + {i}, mask=inside, other={_START[n.op]})"
        )
        block.append(f"sum{i} = {_JOIN[n.op].format(f'sum{i}', loaded)}")
    return "\n".join([
        "@triton.jit",
        f"def fold_{index}(folds, partials, out):",
        f"    fold = folds + {COLUMN_FOLD} * tl.program_id(0).to(tl.int64)",
        "    lanes = tl.arange(0, BLOCK)",
        "    inside = lanes < tl.load(fold + 3)",
        *(f"    sum{i} = tl.full((BLOCK,), {_START[n.op]}, tl.float64)" for i, n in kinds),
        "    for at in range(tl.load(fold), tl.load(fold + 1), tl.load(fold + 2)):",
        *_indented(_indented(block)),
        f"    result = out + {width} * (tl.load(fold + 4) + lanes)",
        *(f"    tl.store(result + {i}, sum{i}, mask=inside)" for i, _ in kinds),
    ])  # fmt: skip


def source(programs: Sequence[Program], codecs: Mapping[str, Codec], compute: torch.dtype) -> str:
    """The Triton text of a graph's programs for streams stored by these codecs."""
    return Writer(programs, codecs, compute).text()
