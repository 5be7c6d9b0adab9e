"""L-BFGS: torch's own, with what is broken around it mended. An optimizer without a rule."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine import inspection
from thalweg.engine.arguments import LR, Strict, saying_what_a_model_has
from thalweg.engine.backends.toolchain import keeping_threads, on_threads
from thalweg.engine.matching import by_name
from thalweg.engine.rule import Hyper, Switch
from thalweg.errors import BackendError, CheckpointError

_Torchs = torch.optim.LBFGS  # kept: somebody may put ours where torch's is looked up


class LBFGS(Strict, _Torchs):
    """L-BFGS: a quasi-Newton step from the last gradients and steps, several evaluations of the loss each.

    For small smooth problems with exact gradients (fits, physics-informed losses, style transfer); with
    minibatches its curvature is noise. `step` needs a closure that clears the gradients, evaluates the
    loss and calls backward. One group only; options do not apply, as there is no rule to compose. Use
    line_search_fn="strong_wolfe" unless each evaluation is precious.

    Formula:
        y_i = g_(i+1) - g_i;  s_i = p_(i+1) - p_i;  r_i = 1 / (y_i . s_i)
        d = -H g, H by the two-loop recursion over the last history_size pairs, from (s . y / y . y) I
        p = p + t d, t = lr, or from the line search; t = min(1, 1 / |g|_1) * lr at first

    Args:
        params: Parameters or named parameters, in one group.
        lr: Step length, >= 0; where a line search begins.
        max_iter: Iterations per step.
        max_eval: Evaluations per step; max_iter * 5 / 4 by default.
        tolerance_grad: Stop where no gradient is larger.
        tolerance_change: Stop where loss and parameters change less.
        history_size: Pairs kept, >= 1: 2 * history_size + 2 tensors of the size of all parameters.
        line_search_fn: "strong_wolfe" or None.

    Raises:
        ValueError: A number out of range, or more than one group.
        RuntimeError: An unknown line search.

    Reference:
        Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization",
        Mathematical Programming 45; strong Wolfe search: Nocedal and Wright 2006, Algorithms 3.5 and 3.6.

    Differs:
        From torch, whose numbers on one thread it has to the bit: its own arithmetic (not the closure's)
        runs on one thread, for torch splits sums by thread, so that a resume on other cores would go on
        otherwise, and a forked process would hang. A copy or unpickled optimizer can step, loading copies
        the checkpoint instead of sharing it, gradients may have any layout, and what torch finds out in
        the first step (an unknown line search, an empty history) is refused at construction.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = thalweg.LBFGS([w], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = ((w - torch.tensor([1.0, 2.0])) ** 2).sum()
        ...     loss.backward()
        ...     return loss
        >>> round(optimizer.step(closure).item(), 4)
        20.0
        >>> [round(x, 4) for x in w.tolist()]
        [1.0, 2.0]
    """

    numbers = (
        LR,
        Hyper("max_iter", 20, low=0, integer=True),
        Hyper("max_eval", 25, low=0, integer=True),
        Hyper("tolerance_grad", 1e-7),
        Hyper("tolerance_change", 1e-9),
        Hyper("history_size", 100, low=1, integer=True),
    )
    choices = (Switch("line_search_fn", None, choices=(None, "strong_wolfe")),)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if line_search_fn not in self.choices[0].choices:
            raise BackendError(
                f"only 'strong_wolfe' is supported; got line_search_fn={line_search_fn!r} (None: no search)"
            )
        with saying_what_a_model_has(params):
            super().__init__(
                params,
                lr,
                max_iter,
                max_eval,
                tolerance_grad,
                tolerance_change,
                history_size,
                line_search_fn,
            )

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Take one step: up to `max_iter` iterations.

        Args:
            closure: Clears the gradients, evaluates the loss, calls backward and returns the loss; called
                up to `max_eval` times, with gradients enabled and on as many threads as elsewhere.

        Returns:
            The loss of the closure's first call.
        """
        evaluate = keeping_threads(closure)
        with on_threads(1):
            return _torchs_step()(self, evaluate)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch, and find the parameters again, which torch leaves out of copies and pickles."""
        super().__setstate__(state)
        self._params = self.param_groups[0]["params"]
        self._numel_cache = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of torch's; everything is copied.

        Args:
            state_dict: What `state_dict()` returned.

        Raises:
            ValueError: It has other groups, or names other parameters or in another order: the history is
                one vector over all of them.
        """
        if "state" in state_dict and "param_groups" in state_dict:
            matched = by_name(self.param_groups, state_dict, strict=True)["param_groups"]
            if [g["params"] for g in matched] != [g["params"] for g in state_dict["param_groups"]]:
                raise CheckpointError(
                    "the checkpoint's parameters stand in another order, and LBFGS keeps one vector over "
                    "all of them: make the optimizer with them in the checkpoint's order, "
                    f"{', '.join(map(repr, state_dict['param_groups'][0]['param_names'][:8]))}"
                )
        for entries in state_dict.get("state", {}).values():
            if entries and "func_evals" not in entries:
                raise CheckpointError(
                    f"the checkpoint has {', '.join(map(repr, entries))}, which is another optimizer's: it "
                    "has no 'func_evals'"
                )
        if "state" in state_dict:  # torch would write into the caller's tensors in the next step
            state_dict = {**state_dict, "state": copy.deepcopy(state_dict["state"])}
        super().load_state_dict(state_dict)

    def summary(self) -> str:
        """The defaults, the group, and what the state holds, with bytes."""
        return inspection.summary(self)

    def _gather_flat_grad(self) -> Tensor:
        """All gradients as one vector of numbers; torch's takes contiguous ones alone."""
        flat = []
        for p in self._params:
            g = torch.zeros_like(p) if p.grad is None else p.grad
            g = g.to_dense() if g.layout != torch.strided else g
            flat.append((torch.view_as_real(g) if g.is_complex() else g).reshape(-1))
        return torch.cat(flat)


def _torchs_step() -> Any:
    """Return torch's step without the hooks that stand around it once one of torch's was made."""
    return inspect.unwrap(_Torchs.step, stop=lambda f: not getattr(f, "hooked", False))
