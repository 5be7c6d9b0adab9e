"""Sharpness-aware minimization around any optimizer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine.backends.toolchain import step_threads
from thalweg.engine.rule import Group, Hyper
from thalweg.errors import ArgumentTypeError, StepError
from thalweg.wrappers.protocol import needs_closure
from thalweg.wrappers.wrapper import Closure, Wrapper, batches, elementwise

BEYOND = 2.0**100


class SAM(Wrapper):
    """Step with the gradient at the worst point nearby, so that minima are flat ones.

    Every step needs two gradients and so costs two evaluations: one here, one after a climb of length
    rho. Give `step` a closure that clears the gradients, evaluates and returns the loss (called twice),
    or call `first_step(zero_grad=True)` after the first backward and `second_step()`, or `step()`, after
    the second. Batch-norm statistics see both evaluations; what clips or logs in the closure does too.
    Between the two the parameters stand at the climb, and copies and checkpoints are refused.

    With a `GradScaler`, take the two phases: `first_step` on scaled gradients (the climb does not depend
    on their scale, so that `unscale_` comes after the second backward, if at all), then
    `scaler.step(optimizer)`. An overflow brings the weights back, and nothing steps.

    Formula:
        e = rho * g / norm(g)                      over all parameters together
        adaptive: e = rho * T^2 g / norm(T g),     T = abs(p) + eta
        g = gradient at p + e;  the wrapped optimizer's step of p with g

    Args:
        optimizer: Any `torch.optim.Optimizer` whose step needs no closure of its own.
        rho: Length of the climb, >= 0; `sam_rho` in every group. Adaptive wants about ten times as much.
        adaptive: Scale the climb by the weights, so that rescaling a layer changes nothing (ASAM).
        eta: Added to abs(p) where adaptive, >= 0; weights near zero climb too.

    Raises:
        TypeError: What is wrapped is no optimizer, lacks what one needs, or needs a closure itself.
        ValueError: A number out of range, or SAM around SAM.
        StepError: `step` without a closure and without `first_step`, or the phases out of order.

    Reference:
        Foret, Kleiner, Mobahi, Neyshabur 2020, arXiv:2010.01412, Algorithm 1, p = 2; adaptive: Kwon, Kim,
        Park, Choi 2021, arXiv:2102.11600, Algorithm 1.

    Differs:
        Adaptive scales every parameter by its elements, biases too. With zero or non-finite gradients
        there is no climb. Where a group maximizes, the climb goes down.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = thalweg.SAM(torch.optim.SGD([w], lr=0.5), rho=5.0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (w**2).sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()
        12.5
        >>> w.tolist()
        [0.0, 0.0]
    """

    label = "sam"
    hypers = (Hyper("rho", 0.05, low=0.0), Hyper("eta", 0.01, low=0.0))
    choices: ClassVar = {"adaptive": (False, True)}
    wrappable = False

    _climbed: bool = False
    _unscaled: bool = False
    """Whether a scaler has unscaled the gradients at the climb."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        eta: float = 0.01,
    ) -> None:
        super().__init__(optimizer, rho=rho, adaptive=adaptive, eta=eta)
        self._weights: dict[Tensor, Tensor] = {}

    def _check_nesting(self, optimizer: torch.optim.Optimizer) -> None:
        super()._check_nesting(optimizer)
        if needs_closure(optimizer):
            raise ArgumentTypeError(
                f"SAM steps with gradients that are there, and {type(optimizer).__name__}.step() needs a "
                "closure: wrap an optimizer that does not"
            )

    @property
    def _step_supports_amp_scaling(self) -> bool:  # type: ignore[override]
        # The scaler leaves out step() after an overflow, which would leave the weights at the climb: it
        # is told that step() looks after the overflow.
        return self._climbed

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's groups, whichever list that is now."""
        # A scaler tells in step() that it has unscaled, not whether it was these gradients or the first.
        if self._climbed and sys._getframe(1).f_code.co_name == "_unscale_grads_":
            self._unscaled = True
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    # The two phases ---------------------------------------------------------------------------------

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Climb: keep the weights aside and go rho along the gradients that are there.

        Args:
            zero_grad: Clear the gradients afterwards, for the second evaluation.
        """
        self._refuse_between("first_step()")
        self._refuse_averages("first_step()")
        self._follow()
        with step_threads():
            norm, climb = self._directions()
            weights = {p: p.detach().clone() for params, _, _ in climb for p in params}
            self._weights, self._climbed, self._unscaled = weights, True, False
            for params, direction, rho in climb:
                alpha = rho / norm
                if abs(alpha) > BEYOND:  # float32 ends at 3e38
                    direction, alpha = torch._foreach_mul(direction, BEYOND), alpha / BEYOND
                torch._foreach_add_(params, direction, alpha=alpha)
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """Go back to the weights, and step with the gradients from the climb: `step()` after `first_step()`.

        Args:
            zero_grad: Clear the gradients afterwards.
        """
        if not self._climbed:
            raise StepError(
                "second_step() without first_step(): call that after the first backward"
            )
        self.step()
        if zero_grad:
            self.zero_grad()

    def _advance(self, closure: Closure | None) -> Any:
        if closure is None:
            return self._second() if self._climbed else self._without_climb()
        self._refuse_between("step(closure)")
        with torch.enable_grad():
            loss = closure()
        try:
            self.first_step(zero_grad=True)
            with torch.enable_grad():
                closure()
        finally:
            self._go_back()
        self.base_optimizer.step()
        return loss

    def _second(self) -> None:
        self._go_back()
        found_inf, scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")
        if found_inf is not None and scale is None and not self._unscaled:
            for key in (
                "found_inf",
                "grad_scale",
            ):  # which the scaler takes back where a step returns
                self.__dict__.pop(key, None)
            raise StepError(
                "unscale_() before first_step(): the scaler takes the second gradients for unscaled too, and "
                "they are not. The weights are back and nothing stepped; leave unscale_() out (the climb "
                "does not depend on the scale), or call it after the second backward"
            )
        if found_inf is not None and found_inf.item():
            return
        if scale is not None:
            with torch.no_grad():
                grads = [
                    p.grad for g in self.param_groups for p in g["params"] if p.grad is not None
                ]
                for batch in batches({id(g): g for g in grads}.values()):
                    torch._foreach_div_(batch, float(scale))
        self.base_optimizer.step()

    def _without_climb(self) -> Any:
        """Where all gradients are zero there is nowhere to climb, and the second ones are the first."""
        with torch.no_grad():
            norm, _ = self._directions()
        if norm != 0:
            raise StepError(
                "SAM.step() needs a closure that clears the gradients, evaluates the model and returns "
                "the loss, as in step(closure); or call first_step(zero_grad=True) after the first "
                "backward, and step() after the second"
            )
        return self.base_optimizer.step()

    @torch.no_grad()
    def _go_back(self) -> None:
        for params, weights in elementwise(self._weights.items()):
            torch._foreach_copy_(params, weights)
        self._weights, self._climbed = {}, False

    def _refuse_between(self, what: str) -> None:
        super()._refuse_between(what)
        if self._climbed:
            raise StepError(
                f"{what} after first_step(): the parameters stand at the climb; evaluate there, then call "
                "second_step() or step()"
            )

    # The climb --------------------------------------------------------------------------------------

    def _directions(self) -> tuple[float, list[tuple[list[Tensor], Any, float]]]:
        """The norm over all gradients, and where to go: parameters, directions and signed rho.

        One number goes to the host: it is known there whether there is a climb at all, and no tensor of
        the size of the weights is made for it.
        """
        norms: list[float] = []
        climb: list[tuple[list[Tensor], Any, float]] = []
        for group, params, grads in self._batches():
            rho = float(self._setting(group, "rho")) * (-1.0 if group.get("maximize") else 1.0)
            if self._setting(group, "adaptive"):
                scale = torch._foreach_abs(params)
                torch._foreach_add_(scale, float(self._setting(group, "eta")))
                scaled = torch._foreach_mul(grads, scale)
                norms.append(_norm(scaled))
                climb.append((params, torch._foreach_mul(scaled, scale), rho))
            else:
                norms.append(_norm(grads))
                climb.append((params, grads, rho))
        norm = math.hypot(*norms)
        return norm, climb if norm > 0 and math.isfinite(norm) else []

    def _batches(self) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
        seen: set[Tensor] = set()
        for group in self.param_groups:
            params = [
                p for p in dict.fromkeys(group["params"]) if p.grad is not None and p not in seen
            ]
            seen.update(params)
            if any(p.grad.is_sparse for p in params):
                raise StepError(
                    "SAM does not support sparse gradients: make the embedding with sparse=False"
                )
            for batch in batches(params):
                yield group, batch, [p.grad for p in batch if p.grad is not None]


def _norm(tensors: Any) -> float:
    """The 2-norm over tensors, summed in float64: squares of float32 leave its range at 1e-23 and 1e19."""
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    norms = torch._foreach_norm(tensors, 2, dtype=wide)
    norm = torch.linalg.vector_norm(torch.stack(list(norms)))
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
