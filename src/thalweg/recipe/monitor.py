"""What steps do to weights: measured in a few of them, free in all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.errors import ArgumentError
from thalweg.recipe.made import held_back
from thalweg.recipe.numbers import whole
from thalweg.recipe.writers import Writer, learning_rates

RATIO, GRADIENT, EFFECTIVE = "update/weight", "gradient norm", "effective lr"


class Monitor:
    """Measure how far each group or layer moves in a step, every so many steps.

    `update/weight` near 1e-3 is healthy in most networks: 1e-1 breaks, 1e-6 does not train. `effective
    lr` is the length of the step over that of the gradient, which is lr for plain SGD and what an adaptive
    rule makes of it otherwise. It hangs on the optimizer's own step hooks, so that it works in any trainer.
    Steps that a GradScaler or `SkipNonFinite` left out do not count, in fused optimizers neither; in `steps`
    they are seen when it is read or a measurement is due. A measured step holds a second copy of the weights
    and waits for the device once; any other step costs a counter.

    Formula:
        update/weight = |p_new - p_old| / |p_old|
        gradient norm = |p.grad|, as it stands after the step
        effective lr = |p_new - p_old| / |p.grad|

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        every: Steps from one measured step to the next, >= 1; the first step is measured.
        by: "group" (its tag or its position), or "layer" (a parameter's name without its last part).
        writers: Where the numbers go, with `x/lr0`, `x/lr1`, ...; `latest` has them too.
        names: Name of each parameter, for `by="layer"`, as from `model.named_parameters()`; not needed
            where the optimizer was given named parameters.

    Raises:
        ArgumentError: A number out of range, or layers without names.

    Example:
        >>> import torch
        >>> from thalweg.recipe import Monitor
        >>> w = torch.nn.Parameter(torch.full((4,), 2.0))
        >>> optimizer = torch.optim.SGD([w], lr=0.5)
        >>> monitor = Monitor(optimizer, every=10)
        >>> w.grad = torch.ones(4)
        >>> optimizer.step()
        >>> monitor.latest["update/weight/group0"], monitor.latest["effective lr/group0"]
        (0.25, 0.5)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 100,
        *,
        by: Literal["group", "layer"] = "group",
        writers: Sequence[Writer] = (),
        names: Sequence[tuple[str, Tensor]] = (),
    ) -> None:
        whole("Monitor", "every", every, 1)
        if by not in ("group", "layer"):
            raise ArgumentError(f"unknown by={by!r}; known: 'group', 'layer'")
        self.optimizer, self.every, self.by, self.writers = optimizer, int(every), by, writers
        self._names = {id(p): name for name, p in names}
        if by == "layer":
            self._labels()
        self._passed = 0  # steps that were begun, less those known to be left out
        self._overflows: dict[torch.device, Tensor] = {}  # what scalers found in fused optimizers
        self._held_back = held_back(optimizer)
        self.latest: dict[str, float] = {}
        self._before: list[tuple[str, Tensor, Tensor]] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._begin),
            optimizer.register_step_post_hook(self._end),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @property
    def steps(self) -> int:
        """Steps that were taken; set it to those of the training after resuming."""
        left_out = sum(round(float(x)) for x in self._overflows.values())
        self._overflows.clear()
        now = held_back(self.optimizer)
        self._passed -= left_out + now - self._held_back
        self._held_back = now
        return self._passed

    @steps.setter
    def steps(self, value: int) -> None:
        self._overflows.clear()
        self._passed, self._held_back = value, held_back(self.optimizer)

    def _begin(self, *_: Any) -> None:
        if self._passed % self.every == 0 and self.steps % self.every == 0:
            self._before = [
                (label, p, p.detach().clone()) for label, p in self._labels() if p.requires_grad
            ]

    def _end(self, *_: Any) -> None:
        self._passed += 1
        found = getattr(self.optimizer, "found_inf", None)  # a scaler's, while a fused one steps
        if isinstance(found, Tensor):
            known = self._overflows.get(found.device)
            self._overflows[found.device] = found.clone() if known is None else known + found
        before, self._before = self._before, None
        if before is None:
            return
        begun = self._passed
        if self.steps == begun:
            self._measure(before)

    def _labels(self) -> list[tuple[str, Tensor]]:
        """Each parameter with the label that it counts under."""
        if self.by == "group":
            return [
                (_title(i, group), p)
                for i, group in enumerate(self.optimizer.param_groups)
                for p in group["params"]
            ]
        found = []
        for i, group in enumerate(self.optimizer.param_groups):
            known = group.get("param_names") or [self._names.get(id(p)) for p in group["params"]]
            for j, (name, p) in enumerate(zip(known, group["params"], strict=True)):
                if name is None:
                    raise ArgumentError(
                        f"Monitor(by='layer') knows no name of parameter {j} of group {i}: pass "
                        "names=list(model.named_parameters())"
                    )
                found.append((name.rpartition(".")[0] or name, p))
        return found

    @torch.no_grad()
    def _measure(self, before: list[tuple[str, Tensor, Tensor]]) -> None:
        """Lengths of weights, steps and gradients per label; the device is asked once."""
        moved = [(label, p, old) for label, p, old in before if p.grad is not None]
        old = [x for _, _, x in moved]
        grads = [_dense(p.grad) for _, p, _ in moved if p.grad is not None]
        norms = _norms(old) + _norms(grads)
        if moved:
            torch._foreach_sub_(old, [p.detach() for _, p, _ in moved])
        read, n = _read(norms + _norms(old)), len(moved)
        lengths, sizes, steps = read[:n], read[n : 2 * n], read[2 * n :]
        squares: dict[str, list[float]] = {}
        for (label, _, _), *three in zip(moved, lengths, steps, sizes, strict=True):
            sums = squares.setdefault(label, [0.0, 0.0, 0.0])
            for i, x in enumerate(three):
                sums[i] += x * x
        numbers: dict[str, float] = {}
        for label, sums in squares.items():
            length, step, grad = (x**0.5 for x in sums)
            numbers[f"{RATIO}/{label}"] = _over(step, length)
            numbers[f"{GRADIENT}/{label}"] = grad
            numbers[f"{EFFECTIVE}/{label}"] = _over(step, grad)
        self.latest = {**numbers, **learning_rates(self.optimizer)}
        for writer in self.writers:
            writer.write(self.latest, self._passed)


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Euclidean norms; low precision is summed in float32."""
    wide = [x.float() if x.element_size() < 4 else x for x in tensors]
    return list(torch._foreach_norm(wide)) if wide else []


def _read(norms: list[Tensor]) -> list[float]:
    """Their values, all at once."""
    if len({(x.device, x.dtype) for x in norms}) > 1:
        norms = [x.to(norms[0].device, torch.float64) for x in norms]
    values: list[float] = torch.stack(norms).tolist() if norms else []
    return values


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad


def _over(a: float, b: float) -> float:
    return a / b if b else float("inf") if a else 0.0


def _title(index: int, group: dict[str, Any]) -> str:
    return str(group.get("param_group", f"group{index}"))
