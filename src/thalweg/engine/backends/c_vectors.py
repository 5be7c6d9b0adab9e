"""C text for numbers per row, matrix, line and column: the scalar lane's vectors, fused and in float64.

Before a pass, one function makes the numbers that it reads; after the last, one writes the slots that hold
such numbers. Both compute what `scalars.DeviceScalars` computes vector by vector, to the bit, but number by
number: a matrix's numbers stay in the first cache, and nothing is allocated. With 3x3 convolutions there
are two such numbers for every three weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from thalweg.engine.backends.c_body import literal
from thalweg.engine.codecs import Codec
from thalweg.engine.graph import VECTORS, Graph, Lane, Node, down_to, topological
from thalweg.engine.ops import FOLDS, OPS, REDUCTIONS
from thalweg.engine.passes import Program

HEAD = """\
typedef struct {{
  i64 units, threads;
  const i64 *unit_tensor, *unit_begin, *unit_end; /* matrices */
  const i64 *rows, *lines, *columns; /* of a tensor; of each of its matrices */
  const i64 *row_base, *matrix_base, *line_base, *column_base;
  const double *numbers;
  real *row_values, *matrix_values, *line_values, *column_values;
  const double *sums[{sums}];
  void *const *slots[{slots}];
}} Vectors;
#undef R
#define R(name) name
"""
_REDUCED_BY = {fold: op for op, fold in FOLDS.items()}
_PARALLEL = (
    "#pragma omp parallel for schedule(dynamic, 1) num_threads((int)T->threads) if(T->threads > 1)"
)


@dataclass(frozen=True, eq=False)
class Work:
    """What one function makes.

    Args:
        values: What a pass reads: by lane, the numbers that stand side by side in that lane's array.
        written: What slots become, by name, of `lanes`.
        lanes: The lane of each slot.
    """

    values: Mapping[Lane, tuple[Node, ...]]
    written: Mapping[str, Node]
    lanes: Mapping[str, Lane]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make."""
        return not self.values and not self.written

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All that is computed or read, operands first; scalars are values that come from outside."""
        roots = [n for nodes in self.values.values() for n in nodes] + [*self.written.values()]
        return down_to(roots, lambda n: n.is_scalar)

    @cached_property
    def numbers(self) -> tuple[Node, ...]:
        """Scalars that it reads, a number per tensor."""
        return tuple(n for n in self.nodes if n.is_scalar and n.op != "const")

    @cached_property
    def sums(self) -> tuple[Node, ...]:
        """Reductions that it reads."""
        return tuple(n for n in self.nodes if n.op in REDUCTIONS and not n.is_scalar)

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Slots that it reads or writes."""
        read = [n.attr[1] for n in self.nodes if n.op == "input" and not n.is_scalar]
        return tuple(dict.fromkeys((*read, *self.written)))


def works(graph: Graph, programs: Sequence[Program]) -> tuple[Work, ...]:
    """One for each pass, and the one that writes; what an earlier pass read too is there already."""
    found: list[Work] = []
    made: set[tuple[Lane, tuple[Node, ...]]] = set()
    for program in programs:
        along = {lane: program.along(lane) for lane in VECTORS}
        new = {lane: n for lane, n in along.items() if n and (lane, n) not in made}
        made.update(new.items())
        found.append(Work(new, {}, {}))
    return (*found, Work({}, graph.kept, graph.vectors))


def most(all_works: Sequence[Work]) -> dict[str, int]:
    """How many sums and slots the struct has room for."""
    return {
        "sums": max(1, *(len(w.sums) for w in all_works)),
        "slots": max(1, *(len(w.slots) for w in all_works)),
    }


class VectorWriter:
    """Writes the function of one work.

    Args:
        work: What it makes.
        codecs: How each slot is stored.
    """

    def __init__(self, work: Work, codecs: Mapping[str, Codec]) -> None:
        self.work, self.codecs = work, codecs
        self.names = {id(n): f"n{i}" for i, n in enumerate(work.nodes)}

    def text(self, name: str) -> str:
        """The function: tensor by tensor, and in it matrix by matrix."""
        numbers = [
            f"    const double {self.names[id(n)]} = T->numbers[{len(self.work.numbers)} * t + {i}];"
            for i, n in enumerate(self.work.numbers)
        ]
        return "\n".join([
            f"void {name}(const Vectors *T) {{",
            _PARALLEL,
            "  for (i64 u = 0; u < T->units; u++) {",
            "    const i64 t = T->unit_tensor[u], lines = T->lines[t], columns = T->columns[t];",
            "    (void)lines; (void)columns;",
            *numbers,
            *(f"    {line}" for line in self._slots()),
            "    for (i64 k = T->unit_begin[u]; k < T->unit_end[u]; k++) {",
            *(f"      {line}" for line in self._matrix()),
            "    }",
            "    if (T->unit_begin[u] == 0) {",
            *(f"      {line}" for line in self._loop(Lane.ROW, "T->rows[t]")),
            "    }",
            "  }",
            "}\n",
        ])  # fmt: skip

    def _slots(self) -> list[str]:
        lines = []
        for i, name in enumerate(self.work.slots):
            word = self.codecs[name].c_type
            lines.append(f"{word} *restrict w_{i} = ({word} *)T->slots[{i}][t];")
        return lines

    def _matrix(self) -> list[str]:
        """One matrix: what is folded, what there is one of, then what there are many of."""
        lines = []
        for node in self._of(Lane.MATRIX):
            if node.op in _REDUCED_BY:
                lines += self._fold(node)
            else:
                lines.append(self._operation(node))
        lines += self._stores(Lane.MATRIX, "k")
        lines += self._loop(Lane.LINE, "lines")
        return lines + self._loop(Lane.COLUMN, "columns")

    def _fold(self, node: Node) -> list[str]:
        """A matrix's numbers, as a tree of neighbours."""
        (arg,) = node.args
        name, tree = self.names[id(node)], f"{_REDUCED_BY[node.op]}_tree"
        length = "lines" if arg.lane == Lane.LINE else "columns"
        return [
            f"double {name};",
            "{",
            "  double tree[64];",
            "  int top = 0;",
            f"  for (i64 i = 0; i < {length}; i++) {{",
            *(f"    {line}" for line in self._inner(arg.lane, [arg])),
            f"    top = {tree}_push(tree, top, i, {self._operand(arg)});",
            "  }",
            f"  {name} = {tree}_end(tree, top);",
            "}",
        ]

    def _loop(self, lane: Lane, length: str) -> list[str]:
        """All numbers of a lane that are kept."""
        roots = [*self.work.values.get(lane, ()), *self._written(lane).values()]
        if not roots:
            return []
        return [
            f"for (i64 i = 0; i < {length}; i++) {{",
            *(f"  {line}" for line in self._inner(lane, roots)),
            *(f"  {line}" for line in self._stores(lane, self._place(lane))),
            "}",
        ]

    def _inner(self, lane: Lane, roots: Iterable[Node]) -> list[str]:
        """What these roots need, within a loop over the lane."""
        lines = []
        below = {id(n) for n in topological(roots, reductions_are_leaves=True)}
        for node in self._of(lane):
            if id(node) not in below:
                continue
            if node.op == "input" or node.op in REDUCTIONS:
                text = self._input(node, self._place(lane))
                lines.append(f"const double {self.names[id(node)]} = {text};")
            else:
                lines.append(self._operation(node))
        return lines

    def _of(self, lane: Lane) -> list[Node]:
        return [n for n in self.work.nodes if n.lane == lane and n.op != "const"]

    @staticmethod
    def _place(lane: Lane) -> str:
        """Where in its tensor's numbers the one of the loop stands."""
        return {Lane.LINE: "k * lines + i", Lane.COLUMN: "k * columns + i"}.get(lane, "i")

    def _operation(self, node: Node) -> str:
        text = OPS[node.op].c.format(*map(self._operand, node.args))
        return f"const {'int' if node.boolean else 'double'} {self.names[id(node)]} = {text};"

    def _operand(self, node: Node) -> str:
        if node.op == "const":
            return literal(node.attr, "double")
        name = self.names[id(node)]
        return f"({name} != 0)" if node.boolean and node.is_scalar else name

    def _input(self, node: Node, place: str) -> str:
        if node.op in REDUCTIONS:
            lane = node.lane.name.lower()
            return f"T->sums[{self.work.sums.index(node)}][T->{lane}_base[t] + {place}]"
        i, codec = self.work.slots.index(node.attr[1]), self.codecs[node.attr[1]]
        return f"(double){(codec.c_decode or '{0}').format(f'w_{i}[{place}]')}"

    def _written(self, lane: Lane) -> dict[str, Node]:
        return {name: n for name, n in self.work.written.items() if self.work.lanes[name] == lane}

    def _stores(self, lane: Lane, place: str) -> list[str]:
        kept = self.work.values.get(lane, ())
        low = lane.name.lower()
        lines = [
            f"T->{low}_values[(T->{low}_base[t] + {place}) * {len(kept)} + {i}] = (real){self._operand(n)};"
            for i, n in enumerate(kept)
        ]
        for name, node in self._written(lane).items():
            i, codec = self.work.slots.index(name), self.codecs[name]
            x = self._operand(node)
            word = codec.c_encode.format(f"(float){x}") if codec.c_encode else x
            lines.append(f"w_{i}[{place}] = ({codec.c_type}){word};")
        return lines
