"""The vocabulary: every operation that a rule may use, one row each, with its spelling per backend.

A row tells how an operation is computed on one tensor (`eager`), on Python floats (`scalar`, IEEE: no
exception on 1/0), in C and in Triton, and how far the C and Triton spellings may be from the eager one
(`ulps`; 0 means the same bits). The functions below (`sqrt`, `where`, `lerp`, ...) are what a rule
imports: on traced values they record, on tensors and numbers they compute, so that a rule can be tried
by hand.

Plain torch is avoided where it does not round as IEEE arithmetic does: its CPU `sqrt` is up to an ulp
off, and `lerp`, `addcmul` and `add(alpha=)` contract to FMA.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from thalweg.errors import TraceError

Over = Literal["row", "tensor", "all", -1, -2]
OVERS: tuple[Over, ...] = ("row", "tensor", "all", -1, -2)
"""What a sum may run over. "row": all dimensions but the first, a number per index of the first. -1, -2: that
one dimension, as torch counts them, which keeps a size of one; a dimension that is not there has size one."""


@dataclass(frozen=True, slots=True)
class Op:
    """One row of the vocabulary.

    Args:
        name: What graphs print.
        arity: How many operands.
        eager: The operation on tensors (0-dim ones for scalars), every result IEEE-rounded.
        scalar: The operation on Python floats, never raising.
        c: C text, empty for what only scalars have; `{0}` is the first operand, `R(name)` a function of the
            real type (sqrtf or sqrt).
        triton: Triton text, likewise.
        foreach: Name of the `torch._foreach_*` function on lists, or None to go tensor by tensor.
        boolean: Whether the result is a truth value.
        ulps: Distance allowed between a kernel's result and eager's, in units in the last place.
    """

    name: str
    arity: int
    eager: Callable[..., Tensor]
    scalar: Callable[..., float]
    c: str
    triton: str
    foreach: str | None = None
    boolean: bool = False
    ulps: float = 0.0


def _sqrt(x: Tensor) -> Tensor:
    return x.sqrt() if x.dtype == torch.float64 else x.double().sqrt().to(x.dtype)


def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b != b, b, torch.where(a < b, b, a))


def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b != b, b, torch.where(a > b, b, a))


def _divide(a: float, b: float) -> float:
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.inf if a > 0 or b % 2 == 0 else -math.inf
    except ValueError:  # 0 to a negative power, or a root of a negative number
        return math.inf if a == 0.0 else math.nan


def _quiet(
    function: Callable[[float], float], below: float, outside: float
) -> Callable[[float], float]:
    """A math function with an IEEE result where `math` raises: `below` at overflow or a pole."""

    def call(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return below
        except ValueError:
            return below if x == 0.0 else outside

    return call


def _remainder(a: float, b: float) -> float:
    return a % b if b != 0.0 and math.isfinite(a) else math.nan


def _scalar_maximum(a: float, b: float) -> float:
    return b if b != b or a < b else a


def _scalar_minimum(a: float, b: float) -> float:
    return b if b != b or a > b else a


def _scalar_floor(x: float) -> float:
    return float(math.floor(x)) if math.isfinite(x) else x


_ROWS = (
    Op("add", 2, torch.add, lambda a, b: a + b, "({0} + {1})", "({0} + {1})", "_foreach_add"),
    Op("sub", 2, torch.sub, lambda a, b: a - b, "({0} - {1})", "({0} - {1})", "_foreach_sub"),
    Op("mul", 2, torch.mul, lambda a, b: a * b, "({0} * {1})", "({0} * {1})", "_foreach_mul"),
    Op("div", 2, torch.div, _divide, "({0} / {1})", "div({0}, {1})", "_foreach_div"),
    Op("neg", 1, torch.neg, lambda a: -a, "(-{0})", "({0} * -1.0)", "_foreach_neg"),
    Op("abs", 1, torch.abs, abs, "R(fabs)({0})", "tl.abs({0})", "_foreach_abs"),
    Op("sqrt", 1, _sqrt, _quiet(math.sqrt, math.nan, math.nan), "R(sqrt)({0})", "root({0})", "_foreach_sqrt"),
    Op(
        "exp", 1, torch.exp, _quiet(math.exp, math.inf, math.nan),
        "R(exp)({0})", "tl.exp({0}.to(tl.float64)).to({0}.dtype)", "_foreach_exp", ulps=2,
    ),
    Op(
        "log", 1, torch.log, _quiet(math.log, -math.inf, math.nan),
        "R(log)({0})", "tl.log({0}.to(tl.float64)).to({0}.dtype)", "_foreach_log", ulps=2,
    ),
    Op(
        "atan2", 2, torch.atan2, math.atan2,
        "R(atan2)({0}, {1})", "angle({0}, {1})", ulps=2,
    ),
    Op("floor", 1, torch.floor, _scalar_floor, "R(floor)({0})", "tl.floor({0})", "_foreach_floor"),
    Op(
        "sign", 1, torch.sign, lambda a: float((a > 0) - (a < 0)),
        "(real)(({0} > 0) - ({0} < 0))",
        "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0)).to({0}.dtype)", "_foreach_sign",
    ),
    Op(
        "maximum", 2, _maximum, _scalar_maximum,
        "({1} != {1} ? {1} : ({0} < {1} ? {1} : {0}))",
        "tl.where({1} != {1}, {1}, tl.where({0} < {1}, {1}, {0}))",
    ),
    Op(
        "minimum", 2, _minimum, _scalar_minimum,
        "({1} != {1} ? {1} : ({0} > {1} ? {1} : {0}))",
        "tl.where({1} != {1}, {1}, tl.where({0} > {1}, {1}, {0}))",
    ),
    Op("pow", 2, torch.pow, _power, "", ""),
    Op("mod", 2, torch.remainder, _remainder, "", ""),
    Op("stored", 2, lambda a, like: a.to(like.dtype).to(a.dtype), lambda a, _: a, "", ""),
    Op("lt", 2, torch.lt, lambda a, b: a < b, "({0} < {1})", "({0} < {1})", boolean=True),
    Op("le", 2, torch.le, lambda a, b: a <= b, "({0} <= {1})", "({0} <= {1})", boolean=True),
    Op("gt", 2, torch.gt, lambda a, b: a > b, "({0} > {1})", "({0} > {1})", boolean=True),
    Op("ge", 2, torch.ge, lambda a, b: a >= b, "({0} >= {1})", "({0} >= {1})", boolean=True),
    Op("eq", 2, torch.eq, lambda a, b: a == b, "({0} == {1})", "({0} == {1})", boolean=True),
    Op("ne", 2, torch.ne, lambda a, b: a != b, "({0} != {1})", "({0} != {1})", boolean=True),
    Op("and", 2, torch.logical_and, lambda a, b: bool(a and b), "({0} & {1})", "({0} & {1})", boolean=True),
    Op("or", 2, torch.logical_or, lambda a, b: bool(a or b), "({0} | {1})", "({0} | {1})", boolean=True),
    Op("not", 1, torch.logical_not, lambda a: not a, "(!{0})", "({0} == 0)", boolean=True),
    Op(
        "isfinite", 1, torch.isfinite, lambda a: math.isfinite(a),
        "(({0} - {0}) == 0)", "(({0} - {0}) == 0)", boolean=True,
    ),
    # `where` is a branch if its condition is a scalar; `select` never is.
    Op(
        "where", 3, torch.where, lambda c, a, b: a if c else b,
        "({0} ? {1} : {2})", "tl.where({0}, {1}, {2})",
    ),
    Op(
        "select", 3, torch.where, lambda c, a, b: a if c else b,
        "({0} ? {1} : {2})", "tl.where({0}, {1}, {2})",
    ),
)  # fmt: skip

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
"""The vocabulary by name. `input`, `const`, reductions and folds are nodes of a graph that are no rows."""

REDUCTIONS = ("sum", "max")
"""Of elements: what a pass adds up."""
FOLDS = {"sum": "fold_sum", "max": "fold_max"}
"""Of numbers per line or column, by the reduction that a rule asked for: the scalar lane adds these up."""


@dataclass(frozen=True, slots=True)
class MatrixCall:
    """A function of whole matrices with its constants.

    Args:
        function: (stack of n matrices, shape (n, rows, columns), **constants) -> a stack of that shape.
        constants: Its keywords.
        dtype: Of the stack it gets.
    """

    function: Callable[..., Tensor]
    constants: tuple[tuple[str, Any], ...]
    dtype: torch.dtype

    def __call__(self, stack: Tensor) -> Tensor:
        return self.function(stack, **dict(self.constants))

    def __repr__(self) -> str:
        constants = ", ".join(f"{k}={v!r}" for k, v in self.constants)
        # Two functions of one name are two: a notebook declares the same one again and again.
        return f"{self.function.__name__}<{id(self.function):x}, {self.dtype}>({constants})"


class Traced(ABC):
    """A number or tensor that is not there yet: operators on it are recorded."""

    __slots__ = ()
    __hash__ = object.__hash__

    @abstractmethod
    def _record(self, op: str, *operands: Any) -> Any:
        """Record one operation, of which this value is an operand."""

    def __add__(self, other: Any) -> Any:
        return self._record("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._record("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._record("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._record("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._record("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._record("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._record("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._record("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._record("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._record("pow", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._record("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._record("mod", other, self)

    def __neg__(self) -> Any:
        return self._record("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._record("abs", self)

    def __lt__(self, other: Any) -> Any:
        return self._record("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self._record("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._record("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self._record("ge", self, other)

    def __eq__(self, other: Any) -> Any:
        return self._record("eq", self, other)

    def __ne__(self, other: Any) -> Any:
        return self._record("ne", self, other)

    def __and__(self, other: Any) -> Any:
        return self._record("and", self, other)

    def __or__(self, other: Any) -> Any:
        return self._record("or", self, other)

    def __invert__(self) -> Any:
        return self._record("not", self)

    def __bool__(self) -> bool:
        raise TraceError(
            "a traced value has no truth value while the rule is traced: use where(condition, a, b), "
            "or declare a Switch, which is a Python value and may be tested with `if`"
        )

    def __float__(self) -> float:
        raise TraceError(
            "a traced value cannot become a Python number: use the operations of thalweg.ops "
            f"({', '.join(VOCABULARY)})"
        )

    __int__ = __index__ = __float__

    def __getattr__(self, name: str) -> Any:
        raise TraceError(
            f"a traced value has no attribute {name!r}: a rule is arithmetic on values; allowed are the "
            f"operators and {', '.join(VOCABULARY)} of thalweg.ops"
        )


T = TypeVar("T")


def apply(name: str, *operands: Any) -> Any:
    """One operation on whatever the operands are: recorded, or computed on tensors or numbers."""
    for operand in operands:
        if isinstance(operand, Traced):
            return operand._record(name, *operands)
    row = OPS[name]
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if not tensors:
        return row.scalar(*operands)
    numbers = [x for x in tensors if x.dtype != torch.bool]
    like = (numbers or tensors)[-1]
    return row.eager(
        *(
            x
            if isinstance(x, Tensor)
            else torch.as_tensor(
                x,
                dtype=None if isinstance(x, bool) or like.dtype == torch.bool else like.dtype,
                device=like.device,
            )
            for x in operands
        )
    )


def sqrt(x: T) -> T:
    """The square root, correctly rounded."""
    return apply("sqrt", x)  # type: ignore[no-any-return]


def exp(x: T) -> T:
    """The exponential, within 2 ulps."""
    return apply("exp", x)  # type: ignore[no-any-return]


def log(x: T) -> T:
    """The natural logarithm, within 2 ulps."""
    return apply("log", x)  # type: ignore[no-any-return]


def atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y), from -pi to pi, within 2 ulps: y / x that is bounded, and 0 where both are 0."""
    return apply("atan2", y, x)


def floor(x: T) -> T:
    """The largest integer not above x."""
    return apply("floor", x)  # type: ignore[no-any-return]


def abs(x: T) -> T:
    """The magnitude."""
    return apply("abs", x)  # type: ignore[no-any-return]


def sign(x: T) -> T:
    """-1, 0 or 1; 0 for 0 and, as in torch, for NaN."""
    return apply("sign", x)  # type: ignore[no-any-return]


def maximum(a: Any, b: Any) -> Any:
    """The larger; NaN if either is."""
    return apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; NaN if either is."""
    return apply("minimum", a, b)


def isfinite(x: Any) -> Any:
    """Whether x is neither infinite nor NaN."""
    return apply("isfinite", x)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`.

    A scalar condition (one that depends on no element) is a branch: the side not taken is neither
    loaded nor computed, and an output that comes out as its own input is not stored.
    """
    return apply("where", condition, a, b)


def lerp(a: Any, b: Any, weight: Any) -> Any:
    """The point `weight` of the way from a to b: exactly a at 0 and b at 1, and a if a = b.

    As torch.lerp it counts from the nearer end, so that a weight of 1 does not lose a small b
    beside a large a.
    """
    near = apply("lt", weight, 0.5)
    start = apply("select", near, a, b)
    share = apply("select", near, weight, weight - 1.0)
    return start + share * (b - a)


def as_stored(x: Any, scalar: Any) -> Any:
    """A number x in the precision that `scalar`, a number of the state, is stored in.

    What a step computes on top of a number that it will keep is then what it would be had the number
    come out of a checkpoint; torch computes such numbers in float32.
    """
    return apply("stored", x, scalar)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """X, but not below `low` nor above `high`; NaN stays NaN."""
    return minimum(maximum(x, low), high)


def sum(x: Any, over: Over = "tensor") -> Any:
    """The sum over the rows (all dimensions but the first), the tensor, or all tensors of the optimizer.

    `over=-1` and `over=-2` sum over the last and the last but one dimension alone, as torch's
    `dim=..., keepdim=True`: a number per line, or per column, of the matrices that the last two dimensions
    make. What such a sum leaves may itself be summed over the other of the two: a number per matrix.

    One order at any thread count, stated in `engine/sums.py`.
    """
    return _reduce("sum", x, over)


def max(x: Any, over: Over = "tensor") -> Any:
    """The largest element over what `sum` sums over; NaN if any is."""
    return _reduce("max", x, over)


def norm(x: Any, over: Over = "tensor") -> Any:
    """The Euclidean norm over what `sum` sums over."""
    return sqrt(sum(x * x, over))


def mean(x: Any, over: Over = "tensor") -> Any:
    """The mean over what `sum` sums over."""
    return sum(x, over) / count(x, over)


def count(x: Any, over: Over = "tensor") -> Any:
    """How many elements of a tensor `sum` adds up: those of a row, the tensor, all, a dimension."""
    if isinstance(x, Traced):
        return x._record("count", x, over)
    return math.prod(x.shape[d] for d in _dimensions(x, over))


def _dimensions(x: Tensor, over: Over) -> tuple[int, ...]:
    if over == -1 or over == -2:
        return (x.ndim + over,) if x.ndim >= -over else ()
    return tuple(range(1 if over == "row" else 0, x.ndim))


def matrix(
    function: Callable[..., Tensor],
    x: Any,
    *,
    dtype: torch.dtype = torch.float32,
    **constants: Any,
) -> Any:
    """A function of the whole matrix x; tensors of more dimensions are (first, all others) matrices.

    It is not traced: it is called with stacks of same-shaped matrices in plain torch, between two passes.

    Args:
        function: (stack of shape (n, rows, columns), **constants) -> a stack of that shape. It must not care
            for the order of columns, which is that of storage, and treat each matrix by itself.
        x: A value per element, of two or more dimensions.
        dtype: What x is rounded to for it.
        **constants: Python values; a change of one traces anew, and compiles nothing.
    """
    call = MatrixCall(function, tuple(sorted(constants.items())), dtype)
    if isinstance(x, Traced):
        return x._record("matrix", x, call)
    return call(x.reshape(1, x.shape[0], -1).to(dtype)).reshape(x.shape).to(x.dtype)


def _reduce(op: str, x: Any, over: Over) -> Any:
    if over not in OVERS:
        raise TraceError(f"{op}(x, over={over!r}): over is one of {', '.join(map(repr, OVERS))}")
    if isinstance(x, Traced):
        return x._record(op, x, over)
    dims, values = _dimensions(x, over), x.double()
    if not dims:
        return values
    kept = over not in ("tensor", "all")
    return values.sum(dims, keepdim=kept) if op == "sum" else values.amax(dims, keepdim=kept)


VOCABULARY = (
    "sqrt", "exp", "log", "atan2", "floor", "abs", "sign", "maximum", "minimum", "isfinite", "where", "lerp",
    "as_stored", "clamp", "sum", "max", "norm", "mean", "count", "matrix",
)  # fmt: skip
