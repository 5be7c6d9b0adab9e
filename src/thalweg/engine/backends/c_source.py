"""C text from programs: one file per graph and storage, one function per pass.

A function sweeps (tensor, chunk) units in one OpenMP region. Within a unit it goes block by block: decode
into local arrays, compute, encode. What is stored as it is computed is read and written in place.
Scalars come from a table with a row per tensor's row index; the host computed them. Numbers per row, matrix,
line or column come from vectors over the whole bucket, and are spread into local arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from thalweg.engine.codecs import Codec
from thalweg.engine.graph import VECTORS, Lane, Node
from thalweg.engine.ops import OPS
from thalweg.engine.passes import Body, Branch, Program, Tree
from thalweg.engine.sums import COLUMN_BLOCK, LANES, SUM_BLOCK

BLOCK = 256
"""Elements computed together: local arrays of this size stay in the first cache."""
FAR = 1 << 18
"""Elements from which a tensor that is written and not read is written past the caches: before a line of a
cache is overwritten, memory is read. What is smaller may stay there until it is wanted."""

_HEAD = """\
#include <math.h>
#include <stdint.h>

typedef int64_t i64;
typedef {real} real;
#define R(name) {r}
enum {{ BLOCK = {block}, SUM_BLOCK = {sum_block}, LANES = {lanes}, COLUMN_BLOCK = {column_block} }};

typedef struct {{
  i64 units, threads, grain, tensors;
  const i64 *unit_tensor, *unit_begin, *unit_end; /* elements, or what the pass goes by */
  const i64 *size, *scalar_row, *block_base, *matrices;
  const i64 *row_size, *row_base, *matrix_size, *matrix_base;
  const i64 *line_size, *line_base, *column_size, *column_base;
  const real *scalars, *row_values, *matrix_values, *line_values, *column_values;
  double *partials, *sums;
  i64 blocks, results;
  void *const *streams[{streams}];
}} Table;

/* A prefetch of any address is harmless: one that holds nothing any more costs a little time. */
void prefetch(const i64 *addresses, i64 count) {{
  for (i64 i = 0; i < count; i++) __builtin_prefetch((const void *)addresses[i], 1);
}}
"""

_BF16 = """
static inline float from_bf16(uint16_t w) {
  union { uint32_t u; float f; } x = {.u = (uint32_t)w << 16};
  return x.f;
}
static inline uint16_t to_bf16(float f) { /* to nearest even; NaN stays NaN */
  union { float f; uint32_t u; } x = {.f = f};
  const uint32_t rounded = (x.u + 0x7FFFu + ((x.u >> 16) & 1u)) >> 16;
  return (uint16_t)(f != f ? 0x7FC0u : rounded);
}
"""

_FAR = """
/* Past the caches. */
typedef long long far_word __attribute__((vector_size(16), may_alias));
static inline void put_far(void *to, const void *from, i64 bytes) {
#ifdef __SSE2__
  if ((((uintptr_t)to | (uintptr_t)bytes) & 15) == 0) {
    for (i64 i = 0; i < bytes; i += 16) {
      far_word word, *const place = (far_word *)((char *)to + i);
      __builtin_memcpy(&word, (const char *)from + i, 16);
#ifdef __clang__
      __builtin_nontemporal_store(word, place);
#else
      __builtin_ia32_movntdq(place, word);
#endif
    }
    return;
  }
#endif
  __builtin_memcpy(to, from, bytes);
}
static inline void far_is_done(void) { /* before another thread looks */
#ifdef __SSE2__
  __builtin_ia32_sfence();
#endif
}
"""

_TREE = """
/* The neighbours' binary tree over partial results, as a chain of carries. */
static inline double {name}_join(double a, double b) {{ return {join}; }}
static inline double {name}_of(const double *x, i64 n) {{
  double v[64];
  int top = 0;
  for (i64 i = 0; i < n; i++) {{
    double y = x[i];
    for (i64 k = i; k & 1; k >>= 1) y = {name}_join(v[--top], y);
    v[top++] = y;
  }}
  if (!top) return {start};
  double y = v[--top];
  while (top) y = {name}_join(v[--top], y);
  return y;
}}
"""
_COLUMNS = """
/* The same tree for each of some columns: over n partial results that stand `columns` apart. */
static void {name}_columns_of(const double *x, i64 n, i64 columns, double *y) {{
  for (i64 c = 0; c < columns; c += LANES) {{
    const int m = columns - c < LANES ? (int)(columns - c) : LANES;
    double v[65][LANES];
    int top = 0;
    for (int l = 0; l < m; l++) v[0][l] = {start};
    for (i64 i = 0; i < n; i++) {{
      for (int l = 0; l < m; l++) v[top][l] = x[i * columns + c + l];
      for (i64 k = i; k & 1; k >>= 1) {{
        top--;
        for (int l = 0; l < m; l++) v[top][l] = {name}_join(v[top][l], v[top + 1][l]);
      }}
      top++;
    }}
    for (top--; top > 0; top--)
      for (int l = 0; l < m; l++) v[top - 1][l] = {name}_join(v[top - 1][l], v[top][l]);
    for (int l = 0; l < m; l++) y[c + l] = v[0][l];
  }}
}}
"""
_JOIN = {"sum": ("a + b", "0.0"), "max": ("b != b ? b : (a < b ? b : a)", "-INFINITY")}
"""How two partial results become one, and what none is."""

_PARALLEL = """\
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)"""
_RANGE = "const Table *T, i64 t, i64 origin, i64 begin, i64 end"


def literal(value: float) -> str:
    """A constant in C, exact."""
    if value != value:
        return "((real)NAN)"
    if value in (float("inf"), float("-inf")):
        return f"((real){'-' if value < 0 else ''}INFINITY)"
    return f"((real){value!r})"


class Writer:
    """Writes the passes of one graph."""

    def __init__(
        self, programs: Sequence[Program], codecs: Mapping[str, Codec], compute: torch.dtype
    ) -> None:
        self.programs = programs
        self.codecs = codecs
        self.compute = compute
        self.streams = tuple(codecs)

    def text(self) -> str:
        """The whole file."""
        double = self.compute == torch.float64
        head = _HEAD.format(
            real="double" if double else "float", r="name" if double else "name##f",
            block=BLOCK, sum_block=SUM_BLOCK, lanes=LANES, column_block=COLUMN_BLOCK,
            streams=len(self.streams),
        )  # fmt: skip
        kinds = dict.fromkeys(n.op for p in self.programs for n in p.reductions)
        trees = "".join(
            _TREE.format(name=f"{k}_tree", join=_JOIN[k][0], start=_JOIN[k][1]) for k in kinds
        )
        kinds = dict.fromkeys(
            n.op for p in self.programs for n in p.reductions if p.sweep == Lane.COLUMN
        )
        trees += "".join(_COLUMNS.format(name=f"{k}_tree", start=_JOIN[k][1]) for k in kinds)
        bf16 = _BF16 if any(c.name == "bf16" for c in self.codecs.values()) else ""
        passes = [self._pass(i, p) for i, p in enumerate(self.programs)]
        far = _FAR if any("put_far" in text for text in passes) else ""
        return "\n".join([head + bf16 + trees + far, *passes])

    def _pass(self, index: int, program: Program) -> str:
        bodies: list[str] = []
        decide = self._tree(program, program.tree, index, bodies, "  ")
        sweeps = {Lane.ELEMENT: self._sweep, Lane.COLUMN: self._sweep_columns}
        sweep = sweeps.get(program.sweep, self._sweep_rows)(program, index)
        columns = len(program.columns)
        return "\n".join([
            *bodies,
            f"static inline void part_{index}({_RANGE}, double *out) {{",
            f"  const real *s = T->scalars + {columns} * T->scalar_row[t]; (void)s; (void)out; (void)origin;",
            decide,
            "}",
            sweep,
        ])  # fmt: skip

    def _tree(
        self, program: Program, tree: Tree, index: int, bodies: list[str], indent: str
    ) -> str:
        if isinstance(tree, Branch):
            yes = self._tree(program, tree.yes, index, bodies, indent + "  ")
            no = self._tree(program, tree.no, index, bodies, indent + "  ")
            column = program.columns.index(tree.condition)
            return f"{indent}if (s[{column}] != 0) {{\n{yes}\n{indent}}} else {{\n{no}\n{indent}}}"
        if tree.is_empty:
            return f"{indent}return;"
        name, near = f"body_{index}_{len(bodies)}", BodyWriter(self, program, tree)
        bodies.append(near.text(name))
        call = "(T, t, origin, begin, end, s, out);"
        if program.sweep != Lane.ELEMENT or not near.unread:
            return f"{indent}{name}{call}"
        bodies.append(BodyWriter(self, program, tree, far=True).text(f"{name}_far"))
        return f"{indent}if (T->size[t] >= {FAR}) {name}_far{call}\n{indent}else {name}{call}"

    @staticmethod
    def _sweep(program: Program, index: int) -> str:
        """Units of consecutive elements; afterwards each tensor's partial results are folded."""
        fold = []
        for r, node in enumerate(program.reductions):
            fold += [
                "  for (i64 t = 0; t < T->tensors; t++) {",
                f"    const double *part = T->partials + {r} * T->blocks + T->block_base[t];",
                "    const i64 blocks = (T->size[t] + SUM_BLOCK - 1) / SUM_BLOCK;",
                f"    T->sums[{r} * T->tensors + t] = {node.op}_tree_of(part, blocks);",
                "  }",
            ]
        return "\n".join([
            f"void pass_{index}(const Table *T) {{",
            _PARALLEL,
            "  for (i64 u = 0; u < T->units; u++) {",
            "    const i64 t = T->unit_tensor[u], begin = T->unit_begin[u];",
            "    double *out = T->partials + T->block_base[t] + begin / SUM_BLOCK;",
            f"    part_{index}(T, t, 0, begin, T->unit_end[u], out);",
            "  }",
            *fold,
            "}\n",
        ])  # fmt: skip

    @staticmethod
    def _sweep_rows(program: Program, index: int) -> str:
        """Units of consecutive rows (or lines), each folded as soon as it is done."""
        lane = program.sweep.name.lower()
        row = f"T->{lane}_base[t] + row"
        fold = [
            f"      T->sums[{r} * T->results + {row}] = {n.op}_tree_of(out + {r} * T->blocks, blocks);"
            for r, n in enumerate(program.reductions)
        ]
        return "\n".join([
            f"void pass_{index}(const Table *T) {{",
            _PARALLEL,
            "  for (i64 u = 0; u < T->units; u++) {",
            f"    const i64 t = T->unit_tensor[u], n = T->{lane}_size[t];",
            "    const i64 blocks = (n + SUM_BLOCK - 1) / SUM_BLOCK;",
            "    for (i64 row = T->unit_begin[u]; row < T->unit_end[u]; row++) {",
            "      double *out = T->partials + T->block_base[t] + row * blocks;",
            f"      part_{index}(T, t, row * n, row * n, row * n + n, out);",
            *fold,
            "    }",
            "  }",
            "}\n",
        ])  # fmt: skip

    @staticmethod
    def _sweep_columns(program: Program, index: int) -> str:
        """Units of consecutive blocks of lines, added up line by line; afterwards each column is folded."""
        reductions = list(enumerate(program.reductions))
        return "\n".join([
            f"void pass_{index}(const Table *T) {{",
            _PARALLEL,
            "  for (i64 u = 0; u < T->units; u++) {",
            "    const i64 t = T->unit_tensor[u], n = T->line_size[t], lines = T->column_size[t];",
            "    const i64 blocks = (lines + COLUMN_BLOCK - 1) / COLUMN_BLOCK;",
            "    for (i64 b = T->unit_begin[u]; b < T->unit_end[u]; b++) {",
            "      double *out = T->partials + T->block_base[t] + b * n;",
            *(
                f"      for (i64 i = 0; i < n; i++) out[{r} * T->blocks + i] = {_JOIN[node.op][1]};"
                for r, node in reductions
            ),
            "      const i64 first = b / blocks * lines, begin = b % blocks * COLUMN_BLOCK;",
            "      const i64 end = lines - begin < COLUMN_BLOCK ? lines : begin + COLUMN_BLOCK;",
            "      for (i64 line = first + begin; line < first + end; line++)",
            f"        part_{index}(T, t, 0, line * n, line * n + n, out);",
            "    }",
            "  }",
            _PARALLEL,
            "  for (i64 t = 0; t < T->tensors; t++) {",
            "    const i64 n = T->line_size[t], lines = T->column_size[t];",
            "    const i64 blocks = (lines + COLUMN_BLOCK - 1) / COLUMN_BLOCK;",
            "    for (i64 k = 0; k < T->matrices[t]; k++) {",
            "      const double *part = T->partials + T->block_base[t] + k * blocks * n;",
            "      double *sums = T->sums + T->column_base[t] + k * n;",
            *(
                f"      {node.op}_tree_columns_of(part + {r} * T->blocks, blocks, n, "
                f"sums + {r} * T->results);"
                for r, node in reductions
            ),
            "    }",
            "  }",
            "}\n",
        ])  # fmt: skip


class BodyWriter:
    """Writes one straight-line body as a function over a range of one tensor."""

    def __init__(self, writer: Writer, program: Program, body: Body, *, far: bool = False) -> None:
        self.writer, self.program, self.body = writer, program, body
        self.names = {id(n): f"n{i}" for i, n in enumerate(body.nodes)}
        touched = dict.fromkeys((*body.loads, *body.stores))
        self.direct = {
            s
            for s in touched
            if writer.codecs[s].c_decode is None
            and writer.codecs[s].block == 1
            and writer.codecs[s].dtype == writer.compute
        }
        self.touched = tuple(touched)
        self.unread = {s for s in self.direct if s not in body.loads}
        self.far = self.unread if far else set()
        self.direct -= self.far

    def text(self, name: str) -> str:
        """The function."""
        lines = [
            f"static void {name}({_RANGE}, const real *restrict s, double *out) {{",
            "  (void)s; (void)out; (void)origin;",
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
            word = self.writer.codecs[s].c_type
            i = self.writer.streams.index(s)
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
            if self.program.sweep == Lane.COLUMN:
                break  # they stand in the table
            start = _JOIN[node.op][1]
            lines += [f"double a{r}[LANES];", f"for (int l = 0; l < LANES; l++) a{r}[l] = {start};"]
        return lines

    def _decode(self) -> list[str]:
        lines = []
        for s in self.touched:
            if s in self.direct:
                continue
            i, codec = self.writer.streams.index(s), self.writer.codecs[s]
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
        i = self.writer.streams.index(stream)
        return f"w_{i}[at + i]" if stream in self.direct else f"b_{i}[i]"

    def _local(self, stream: str) -> str:
        return f"x{self.writer.streams.index(stream)}"

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
            i, codec = self.writer.streams.index(stream), self.writer.codecs[stream]
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
            return self._accumulate_columns()
        lines = ["const int whole = (m + LANES - 1) / LANES * LANES;"]
        for r, node in enumerate(self.program.reductions):
            join = _JOIN[node.op][0].replace("a", f"a{r}[l]").replace("b", "v")
            lines += [
                f"for (int i = m; i < whole; i++) v{r}[i] = {_JOIN[node.op][1]};",
                "for (int i = 0; i < whole; i += LANES)",
                "  for (int l = 0; l < LANES; l++) {",
                f"    const double v = v{r}[i + l];",
                f"    a{r}[l] = {join};",
                "  }",
            ]
        lines.append("if ((at + BLOCK - origin) % SUM_BLOCK == 0 || at + BLOCK >= end) {")
        for r, node in enumerate(self.program.reductions):
            lines += [
                "  for (int h = LANES / 2; h; h /= 2)",
                f"    for (int l = 0; l < h; l++) a{r}[l] = {node.op}_tree_join(a{r}[l], a{r}[l + h]);",
                f"  out[{r} * T->blocks] = a{r}[0];",
                f"  for (int l = 0; l < LANES; l++) a{r}[l] = {_JOIN[node.op][1]};",
            ]
        return [*lines, "  out++;", "}"]

    def _accumulate_columns(self) -> list[str]:
        """Add a stretch of a line to the columns' partial results."""
        lines = []
        for r, node in enumerate(self.program.reductions):
            join = _JOIN[node.op][0].replace("a", "column[i]").replace("b", "v")
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


def source(programs: Sequence[Program], codecs: Mapping[str, Codec], compute: torch.dtype) -> str:
    """The C text of a graph's programs for streams stored by these codecs."""
    return Writer(programs, codecs, compute).text()
