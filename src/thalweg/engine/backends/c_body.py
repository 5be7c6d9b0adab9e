"""C text of a pass's straight-line work: blocks of elements, decoded, computed, encoded, and added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from thalweg.engine.codecs import Codec
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.ops import OPS
from thalweg.engine.passes import Body, Program
from thalweg.engine.sums import LANES

BLOCK = 256
"""Elements computed together: local arrays of this size stay in the first cache."""

FAR = 1 << 18
"""Elements from which a tensor that is written and not read is written past the caches: before a line of a
cache is overwritten, memory is read. What is smaller may stay there until it is wanted."""

JOIN = {"sum": ("a + b", "0.0"), "max": ("b != b ? b : (a < b ? b : a)", "-INFINITY")}
"""How two partial results become one, and what none is."""

RANGE = "const Table *T, i64 t, i64 n, i64 begin, i64 end"
"""What functions over a part of a tensor get: which one; the size of a row, line or column; from, to."""


def literal(value: float, real: str = "real") -> str:
    """A constant in C, exact."""
    if value != value:
        return f"(({real})NAN)"
    if value in (float("inf"), float("-inf")):
        return f"(({real}){'-' if value < 0 else ''}INFINITY)"
    return f"(({real}){float(value)!r})"


class BodyWriter:
    """Writes one straight-line body as a function over a range of one tensor.

    Args:
        program: The pass.
        body: What to do.
        codecs: How each stream is stored.
        compute: What elements are computed in.
        many: Whether the range holds many whole rows, lines or matrices, each of which fits into a block.
        far: Whether what is written and not read goes past the caches.
    """

    def __init__(
        self,
        program: Program,
        body: Body,
        codecs: Mapping[str, Codec],
        compute: torch.dtype,
        *,
        many: bool = False,
        far: bool = False,
    ) -> None:
        self.program, self.body, self.many = program, body, many
        self.codecs, self.streams = codecs, tuple(codecs)
        self.names = {id(n): f"n{i}" for i, n in enumerate(body.nodes)}
        touched = dict.fromkeys((*body.loads, *body.stores))
        self.direct = {
            s
            for s in touched
            if codecs[s].c_decode is None and codecs[s].block == 1 and codecs[s].dtype == compute
        }
        self.touched = tuple(touched)
        self.unread = {s for s in self.direct if s not in body.loads}
        self.far = self.unread if far else set()
        self.direct -= self.far

    def text(self, name: str) -> str:
        """The function."""
        lines = [
            f"static void {name}({RANGE}, const real *restrict s, double *out) {{",
            "  (void)s; (void)out; (void)n;",
        ]
        lines += [
            f"  {line}" for line in (*self._pointers(), *self._scalars(), *self._accumulators())
        ]
        lines += self._blocks()
        lines += [
            f"    {line}"
            for line in (*self._decode(), *self._compute(), *self._encode(), *self._accumulate())
        ]
        done = ["  far_is_done();"] if self.far else []
        return "\n".join([*lines, "  }", *done, "}"])

    def _blocks(self) -> list[str]:
        """Blocks of BLOCK where something passes through local arrays; else the whole range at once."""
        if self.many:
            return [
                f"  const i64 one = {'T->matrix_size[t]' if self.program.sweep == Lane.COLUMN else 'n'};",
                "  const i64 step = BLOCK / one * one;",
                "  for (i64 at = begin; at < end; at += step) {",
                "    const int m = end - at < step ? (int)(end - at) : (int)step;",
            ]
        if self.body.reduced or self._vectors() or set(self.touched) - self.direct:
            return [
                "  for (i64 at = begin; at < end; at += BLOCK) {",
                "    const int m = end - at < BLOCK ? (int)(end - at) : BLOCK;",
            ]
        return ["  {", "    const i64 at = begin;", "    const int m = (int)(end - begin);"]

    def _pointers(self) -> list[str]:
        lines = []
        for s in self.touched:
            const = "" if s in self.body.stores else "const "
            word = self.codecs[s].c_type
            i = self.streams.index(s)
            lines.append(f"{const}{word} *restrict w_{i} = ({const}{word} *)T->streams[{i}][t];")
        return lines

    def _scalars(self) -> list[str]:
        used = {id(a) for n in self.body.nodes for a in n.args} | {
            id(n) for n in (*self.body.stores.values(), *self.body.reduced)
        }
        return [
            f"const real s{i} = s[{i}];"
            for i, c in enumerate(self.program.columns)
            if id(c) in used
        ]

    def _accumulators(self) -> list[str]:
        lines = []
        for r, node in enumerate(self.program.reductions):
            if self.many or self.program.sweep == Lane.COLUMN:
                break  # they are made anew for each; they stand in the table
            start = JOIN[node.op][1]
            lines += [f"double a{r}[LANES];", f"for (int l = 0; l < LANES; l++) a{r}[l] = {start};"]
        return lines

    def _decode(self) -> list[str]:
        lines = []
        for s in self.touched:
            if s in self.direct:
                continue
            i, codec = self.streams.index(s), self.codecs[s]
            lines.append(f"real b_{i}[BLOCK];")
            if s in self.body.loads:
                word = (codec.c_decode or "{0}").format(f"w_{i}[at + i]")
                lines.append(f"for (int i = 0; i < m; i++) b_{i}[i] = (real){word};")
        for c in self._vectors():
            spread = (
                self._spread_columns
                if self.program.vectors[c].lane == Lane.COLUMN
                else self._spread_stretches
            )
            lines += [f"real r_{c}[BLOCK];", *spread(c)]
        return lines

    def _vectors(self) -> list[int]:
        used = {id(a) for n in self.body.nodes for a in n.args} | {
            id(n) for n in (*self.body.stores.values(), *self.body.reduced)
        }
        return [i for i, c in enumerate(self.program.vectors) if id(c) in used]

    def _entry(self, c: int) -> tuple[str, str]:
        """The lane of a vector, and where its number stands among those of its lane."""
        node = self.program.vectors[c]
        alike = self.program.along(node.lane)
        return node.lane.name.lower(), f"* {len(alike)} + {alike.index(node)}"

    def _spread_stretches(self, c: int) -> list[str]:
        """A number for a stretch of elements: a row, a matrix, a line."""
        lane, entry = self._entry(c)
        return [
            f"for (i64 i = 0, row = at / T->{lane}_size[t]; i < m; row++) {{",
            f"  const real value = T->{lane}_values[(T->{lane}_base[t] + row) {entry}];",
            f"  const i64 next = (row + 1) * T->{lane}_size[t] - at, stop = next < m ? next : m;",
            f"  for (; i < stop; i++) r_{c}[i] = value;",
            "}",
        ]

    def _spread_columns(self, c: int) -> list[str]:
        """Numbers that come again in each line of a matrix."""
        lane, entry = self._entry(c)
        width = len(self.program.along(Lane.COLUMN))
        return [
            "{",
            "  const i64 n = T->line_size[t], all = T->matrix_size[t];",
            f"  const real *value = T->{lane}_values + (T->{lane}_base[t] + at / all * n) {entry};",
            "  i64 next = (at / all + 1) * all - at; /* where the next matrix begins */",
            "  for (i64 i = 0, j = at % n; i < m; j = 0) {",
            f"    if (i == next) value += n * {width}, next += all;",
            "    const i64 ahead = j - i, stop = n - ahead < m ? n - ahead : m;",
            f"    for (; i < stop; i++) r_{c}[i] = value[(i + ahead) * {width}];",
            "  }",
            "}",
        ]

    def _compute(self) -> list[str]:
        lines = [f"real v{r}[BLOCK];" for r in range(len(self.body.reduced))]
        # gcc does not believe `restrict` of locals: it checks each pair at run time, and with more than
        # ten pairs (five stores) it leaves the loop scalar. An element meets only its own index.
        lines += ["#pragma GCC ivdep", "for (int i = 0; i < m; i++) {"]
        lines += [f"  const real {self._local(x)} = {self._place(x)};" for x in self.body.loads]
        for node in self.body.nodes:
            text = OPS[node.op].c.format(*(self._operand(a) for a in node.args))
            lines.append(
                f"  const {'int' if node.boolean else 'real'} {self.names[id(node)]} = {text};"
            )
        for stream, node in self.body.stores.items():
            lines.append(f"  {self._place(stream)} = {self._operand(node)};")
        lines += [f"  v{r}[i] = {self._operand(n)};" for r, n in enumerate(self.body.reduced)]
        return [*lines, "}"]

    def _place(self, stream: str) -> str:
        i = self.streams.index(stream)
        return f"w_{i}[at + i]" if stream in self.direct else f"b_{i}[i]"

    def _local(self, stream: str) -> str:
        return f"x{self.streams.index(stream)}"

    def _operand(self, node: Node) -> str:
        if node.op == "const":
            return ("1" if node.attr else "0") if node.boolean else literal(node.attr)
        if node.lane == Lane.ELEMENT:
            if node.op == "input":
                kind, name = node.attr
                return self._local(name or kind)
            return self.names[id(node)]
        if node.lane in VECTORS:
            text = f"r_{self.program.vectors.index(node)}[i]"
        else:
            text = f"s{self.program.columns.index(node)}"
        return f"({text} != 0)" if node.boolean else text

    def _encode(self) -> list[str]:
        lines = []
        for stream in self.body.stores:
            i, codec = self.streams.index(stream), self.codecs[stream]
            if stream in self.far:
                lines.append(f"put_far(w_{i} + at, b_{i}, m * (i64)sizeof(real));")
            elif stream not in self.direct:
                word = (codec.c_encode or "{0}").format(
                    f"(float)b_{i}[i]" if codec.c_encode else f"b_{i}[i]"
                )
                lines.append(f"for (int i = 0; i < m; i++) w_{i}[at + i] = ({codec.c_type}){word};")
        return lines

    def _accumulate(self) -> list[str]:
        """Add a block to the lanes, and at the end of a sum's block fold them into one partial result."""
        if not self.body.reduced:
            return []
        if self.program.sweep == Lane.COLUMN:
            return self._matrices_columns() if self.many else self._accumulate_columns()
        if self.many:
            return self._accumulate_each()
        lines = ["const int whole = (m + LANES - 1) / LANES * LANES;"]
        for r, node in enumerate(self.program.reductions):
            join = JOIN[node.op][0].replace("a", f"a{r}[l]").replace("b", "v")
            lines += [
                f"for (int i = m; i < whole; i++) v{r}[i] = {JOIN[node.op][1]};",
                "for (int i = 0; i < whole; i += LANES)",
                "  for (int l = 0; l < LANES; l++) {",
                f"    const double v = v{r}[i + l];",
                f"    a{r}[l] = {join};",
                "  }",
            ]
        lines.append("if ((at + BLOCK - begin) % SUM_BLOCK == 0 || at + BLOCK >= end) {")
        for r, node in enumerate(self.program.reductions):
            lines += [
                "  for (int h = LANES / 2; h; h /= 2)",
                f"    for (int l = 0; l < h; l++) a{r}[l] = {node.op}_tree_join(a{r}[l], a{r}[l + h]);",
                f"  out[{r} * T->blocks] = a{r}[0];",
                f"  for (int l = 0; l < LANES; l++) a{r}[l] = {JOIN[node.op][1]};",
            ]
        return [*lines, "  out++;", "}"]

    def _accumulate_each(self) -> list[str]:
        """Add up each row, or line, of a block; the compiler knows how many lanes those fill."""
        lines: list[str] = []
        for width in (1, 2, 4, 8, LANES):
            lines += [
                f"{'else ' if lines else ''}{f'if (n <= {width})' if width < LANES else ''}",
                "  for (int first = 0; first < m; first += (int)n, out++) {",
                *(
                    f"    out[{r} * T->results] = {node.op}_tree_stretch(v{r} + first, (int)n, {width});"
                    for r, node in enumerate(self.program.reductions)
                ),
                "  }",
            ]
        return lines

    def _matrices_columns(self) -> list[str]:
        """Add up the columns of each matrix of a block."""
        lines = [
            "for (int first = 0; first < m; first += (int)one, out += n)",
            "  for (int c = 0; c < (int)n; c++) {",
        ]
        for r, node in enumerate(self.program.reductions):
            join = JOIN[node.op][0].replace("a", f"a{r}").replace("b", "v")
            lines += [
                f"    double a{r} = {JOIN[node.op][1]};",
                "    for (int i = first + c; i < first + (int)one; i += (int)n) {",
                f"      const double v = v{r}[i];",
                f"      a{r} = {join};",
                "    }",
                f"    out[{r} * T->results + c] = a{r};",
            ]
        return [*lines, "  }"]

    def _accumulate_columns(self) -> list[str]:
        """Add a stretch of a line to the columns' partial results."""
        lines = []
        for r, node in enumerate(self.program.reductions):
            join = JOIN[node.op][0].replace("a", "column[i]").replace("b", "v")
            lines += [
                "{",
                f"  double *restrict column = out + {r} * T->blocks + (at - begin);",
                "  for (int i = 0; i < m; i++) {",
                f"    const double v = v{r}[i];",
                f"    column[i] = {join};",
                "  }",
                "}",
            ]
        return lines
