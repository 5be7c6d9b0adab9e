"""C text from programs: one file per graph and storage, one function per pass.

A function sweeps (tensor, chunk) units in one OpenMP region. Within a unit it goes block by block: decode
into local arrays, compute, encode. What is stored as it is computed is read and written in place.
Scalars come from a table with a row per tensor's row index; the host computed them. Numbers per row, matrix,
line or column come from vectors over the whole bucket, and are spread into local arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from thalweg.engine.backends.c_body import BLOCK, FAR, JOIN, RANGE, BodyWriter
from thalweg.engine.backends.c_vectors import HEAD, VectorWriter, Work, most
from thalweg.engine.codecs import Codec
from thalweg.engine.graph import Lane
from thalweg.engine.passes import Branch, Program, Tree
from thalweg.engine.sums import COLUMN_BLOCK, LANES, SUM_BLOCK

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
static inline int {name}_push(double *tree, int top, i64 i, double x) {{ /* the i-th one */
  for (i64 k = i; k & 1; k >>= 1) x = {name}_join(tree[--top], x);
  tree[top] = x;
  return top + 1;
}}
static inline double {name}_end(const double *tree, int top) {{
  if (!top) return {start};
  double x = tree[--top];
  while (top) x = {name}_join(tree[--top], x);
  return x;
}}
static inline double {name}_of(const double *x, i64 n) {{
  double tree[64];
  int top = 0;
  for (i64 i = 0; i < n; i++) top = {name}_push(tree, top, i, x[i]);
  return {name}_end(tree, top);
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
_STRETCH = """
/* A stretch of at most BLOCK, in lanes; it fills `width` of them, and the others hold nothing. */
static inline double {name}_stretch(const real *x, int n, const int width) {{
  double a[LANES];
  int i = 0;
  for (int l = 0; l < width; l++) a[l] = {start};
  for (; i + width <= n; i += width)
    for (int l = 0; l < width; l++) a[l] = {name}_join(a[l], x[i + l]);
  for (int l = 0; l < n - i; l++) a[l] = {name}_join(a[l], x[i + l]);
  for (int h = width / 2; h; h /= 2)
    for (int l = 0; l < h; l++) a[l] = {name}_join(a[l], a[l + h]);
  return a[0];
}}
"""
_PARALLEL = """\
#pragma omp parallel for schedule(dynamic, (int)T->grain) num_threads((int)T->threads) if(T->threads > 1)"""
_SHORT = """\
/* Where whole rows, or lines, fit into a block, many are added up in one call; so are small matrices. */
static inline int is_short(i64 n) { return n <= BLOCK; }
static inline int is_small(i64 lines, i64 n) { return lines <= COLUMN_BLOCK && lines * n <= BLOCK; }
"""


class Writer:
    """Writes the passes of one graph."""

    def __init__(
        self,
        programs: Sequence[Program],
        codecs: Mapping[str, Codec],
        compute: torch.dtype,
        works: Sequence[Work],
        vectors: Mapping[str, Codec],
    ) -> None:
        self.programs = programs
        self.codecs = codecs
        self.compute = compute
        self.works, self.vectors = works, vectors
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
            _TREE.format(name=f"{k}_tree", join=JOIN[k][0], start=JOIN[k][1]) for k in kinds
        )
        for helper, sweeps in ((_COLUMNS, [Lane.COLUMN]), (_STRETCH, [Lane.ROW, Lane.LINE])):
            found = (n.op for p in self.programs for n in p.reductions if p.sweep in sweeps)
            trees += "".join(
                helper.format(name=f"{k}_tree", start=JOIN[k][1]) for k in dict.fromkeys(found)
            )
        if any(p.sweep != Lane.ELEMENT for p in self.programs):
            trees += _SHORT
        stored = (*self.codecs.values(), *self.vectors.values())
        bf16 = _BF16 if any(c.name == "bf16" for c in stored) else ""
        passes = [self._pass(i, p) for i, p in enumerate(self.programs)]
        far = _FAR if any("put_far" in text for text in passes) else ""
        return "\n".join([head + bf16 + trees + far, *passes, *self._vectors()])

    def _vectors(self) -> list[str]:
        """The functions that make numbers per row, matrix, line and column."""
        busy = {i: w for i, w in enumerate(self.works) if not w.is_empty}
        if not busy:
            return []
        functions = (VectorWriter(w, self.vectors).text(f"vectors_{i}") for i, w in busy.items())
        return [HEAD.format(**most(self.works)), *functions]

    def _pass(self, index: int, program: Program) -> str:
        bodies: list[str] = []
        whole = (False,) if program.sweep == Lane.ELEMENT else (False, True)
        parts = {
            f"{'parts' if many else 'part'}_{index}": self._tree(
                program, program.tree, index, bodies, "  ", many
            )
            for many in whole
        }
        sweeps = {Lane.ELEMENT: self._sweep, Lane.COLUMN: self._sweep_columns}
        sweep = sweeps.get(program.sweep, self._sweep_rows)(program, index)
        columns = len(program.columns)
        return "\n".join([
            *bodies,
            *(
                line
                for name, tree in parts.items()
                for line in (
                    f"static inline void {name}({RANGE}, double *out) {{",
                    f"  const real *s = T->scalars + {columns} * T->scalar_row[t];",
                    "  (void)s; (void)out; (void)n;",
                    tree,
                    "}",
                )
            ),
            sweep,
        ])  # fmt: skip

    def _tree(
        self, program: Program, tree: Tree, index: int, bodies: list[str], indent: str, many: bool
    ) -> str:
        if isinstance(tree, Branch):
            yes = self._tree(program, tree.yes, index, bodies, indent + "  ", many)
            no = self._tree(program, tree.no, index, bodies, indent + "  ", many)
            column = program.columns.index(tree.condition)
            return f"{indent}if (s[{column}] != 0) {{\n{yes}\n{indent}}} else {{\n{no}\n{indent}}}"
        if tree.is_empty:
            return f"{indent}return;"
        name = f"body_{index}_{len(bodies)}"
        write = partial(BodyWriter, program, tree, self.codecs, self.compute)
        near = write(many=many)
        bodies.append(near.text(name))
        call = "(T, t, n, begin, end, s, out);"
        if program.sweep != Lane.ELEMENT or not near.unread:
            return f"{indent}{name}{call}"
        bodies.append(write(far=True).text(f"{name}_far"))
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
            "    const i64 begin = T->unit_begin[u], end = T->unit_end[u];",
            "    if (is_short(n)) {",
            f"      parts_{index}(T, t, n, begin * n, end * n, T->sums + T->{lane}_base[t] + begin);",
            "      continue;",
            "    }",
            "    const i64 blocks = (n + SUM_BLOCK - 1) / SUM_BLOCK;",
            "    for (i64 row = begin; row < end; row++) {",
            "      double *out = T->partials + T->block_base[t] + row * blocks;",
            f"      part_{index}(T, t, n, row * n, row * n + n, out);",
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
            "    if (is_small(lines, n)) {",
            "      const i64 all = lines * n, first = T->unit_begin[u];",
            "      double *out = T->sums + T->column_base[t] + first * n;",
            f"      parts_{index}(T, t, n, first * all, T->unit_end[u] * all, out);",
            "      continue;",
            "    }",
            "    const i64 blocks = (lines + COLUMN_BLOCK - 1) / COLUMN_BLOCK;",
            "    for (i64 b = T->unit_begin[u]; b < T->unit_end[u]; b++) {",
            "      double *out = T->partials + T->block_base[t] + b * n;",
            *(
                f"      for (i64 i = 0; i < n; i++) out[{r} * T->blocks + i] = {JOIN[node.op][1]};"
                for r, node in reductions
            ),
            "      const i64 first = b / blocks * lines, begin = b % blocks * COLUMN_BLOCK;",
            "      const i64 end = lines - begin < COLUMN_BLOCK ? lines : begin + COLUMN_BLOCK;",
            "      for (i64 line = first + begin; line < first + end; line++)",
            f"        part_{index}(T, t, n, line * n, line * n + n, out);",
            "    }",
            "  }",
            _PARALLEL,
            "  for (i64 t = 0; t < T->tensors; t++) {",
            "    const i64 n = T->line_size[t], lines = T->column_size[t];",
            "    if (lines && is_small(lines, n)) continue;",
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


def source(
    programs: Sequence[Program],
    codecs: Mapping[str, Codec],
    compute: torch.dtype,
    works: Sequence[Work],
    vectors: Mapping[str, Codec],
) -> str:
    """The C text of a graph's programs and works, for streams and slots stored by these codecs."""
    return Writer(programs, codecs, compute, works, vectors).text()
