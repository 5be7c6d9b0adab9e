"""SparseAdam: Adam on the rows that a sparse gradient has, and on no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed
from thalweg.engine.ops import lerp, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import rule
from thalweg.errors import ArgumentError
from thalweg.optim.numbers import BETAS, MOMENTS, epsilon


@rule(
    slots=MOMENTS,
    hypers=(*BETAS, epsilon(1e-8, above=0.0)),
    paper="Kingma and Ba 2014, arXiv:1412.6980, section 2's form, on the rows with gradient",
    sparse="rows",
    refuses=dict.fromkeys(
        ("centralize", "lookahead", "average", "schedule_free"),
        "it works on whole tensors, and this rule on the rows with gradient",
    ),
    refuses_dense="SparseAdam does not support dense gradients, please consider Adam instead",
)
def sparse_adam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, t):
    """Adam, with eps added to the root before its correction."""
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    rate = sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
    return rate * (exp_avg / (sqrt(exp_avg_sq) + eps)), exp_avg, exp_avg_sq


class SparseAdam(Optimizer):
    """Adam for embeddings with sparse gradients: rows without gradient keep their moments as they are.

    The means of a row decay only in steps that touch it, while the step count is the tensor's: this is
    not Adam with zeros for the missing rows.

    Formula:
        for rows with gradient: m and v as Adam's
            p = p - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)

    Args:
        params: Dense parameters, named parameters, or groups, whose gradients are sparse.
        lr: Learning rate, > 0.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the uncorrected root, > 0.
        maximize: Climb instead of descend.
        options: What to compose around it; it sees the touched rows alone.

    Raises:
        ValueError: A number out of range, a sparse or complex parameter.
        RuntimeError: A dense gradient, when stepping.

    Reference:
        Kingma and Ba 2014, arXiv:1412.6980.

    Differs:
        As torch: moments of rows without gradient do not decay.

    Example:
        >>> import torch, thalweg
        >>> table = torch.nn.Embedding(10, 2, sparse=True)
        >>> optimizer = thalweg.SparseAdam(table.parameters(), lr=0.1)
        >>> before = table.weight.detach().clone()
        >>> table(torch.tensor([3, 7])).sum().backward()
        >>> optimizer.step()
        >>> (table.weight != before).any(1).nonzero().flatten().tolist()
        [3, 7]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        *,
        options: Sequence[Option] = (),
    ) -> None:
        if not isinstance(lr, Tensor) and lr == 0:
            raise ArgumentError(f"Invalid learning rate: {lr}. SparseAdam needs (0, inf).")
        super().__init__(**passed(locals(), rule=sparse_adam))
        for kind, words, found in (
            ("Sparse", "requires dense parameter tensors", _indices(self, lambda p: p.is_sparse)),
            ("Complex", "does not support complex parameters", _indices(self, Tensor.is_complex)),
        ):
            if found:
                raise ArgumentError(f"{kind} params at indices {found}: SparseAdam {words}")


def _indices(optimizer: Optimizer, is_so: Callable[[Tensor], bool]) -> list[list[int]]:
    """Which parameters are so, as torch counts them: (group, place)."""
    groups = enumerate(optimizer.param_groups)
    return [[i, j] for i, group in groups for j, p in enumerate(group["params"]) if is_so(p)]
