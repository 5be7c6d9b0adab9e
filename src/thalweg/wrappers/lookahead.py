"""Lookahead around any optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from thalweg.engine.averages import holding
from thalweg.errors import StepError
from thalweg.options.lookahead import lookahead as option
from thalweg.wrappers.protocol import check_accepts_closure
from thalweg.wrappers.wrapper import Closure, Wrapper, elementwise

MOMENTA = ("momentum_buffer", "exp_avg")
"""What optimizers call the mean of the gradients in their state."""
SLOW, COUNT = "lookahead_slow", "lookahead_step"
_NOTHING: dict[str, Any] = {}


class _Sync(NamedTuple):
    """Parameters that the coming step ends a cycle of, with their group's numbers."""

    params: list[Tensor]
    alpha: float
    momentum: str


class _Coming(NamedTuple):
    """What the coming step will do: slow weights and steps so far, whose first one it is, syncs."""

    slow: dict[Tensor, tuple[Tensor, int]]
    begun: list[Tensor]
    syncs: list[_Sync]


class Lookahead(Wrapper):
    """Every k steps of any optimizer, go back to `alpha` of the way from where the slow weights stood.

    It steadies a fast optimizer and forgives a high lr. For Thalweg's own optimizers the option
    `thalweg.options.Lookahead` gives the same numbers inside the step's kernel; this wrapper is for every
    other optimizer, and for the momentum modes. The slow weights are taken at a parameter's first step,
    so that weights loaded before it count; each parameter has its own count of steps. Between syncs the
    model holds the fast weights: `with optimizer.averaged():` evaluates the slow ones.

    Formula:
        fast = optimizer's step of fast
        if t % k == 0:  slow = slow + alpha * (fast - slow);  fast = slow

    Args:
        optimizer: Any `torch.optim.Optimizer`; it stays usable, and shares its groups with the wrapper.
        k: Steps between syncs, >= 1; `lookahead_k` in every group.
        alpha: Share of the way, in [0, 1]; `lookahead_alpha` in every group.
        momentum: What happens at a sync to the mean of gradients (`momentum_buffer`, `exp_avg`): "keep"
            it, "reset" it to zero, or "pullback", the same interpolation as the weights', from the
            value at the last sync (zero at first).

    Raises:
        TypeError: What is wrapped is no optimizer, or lacks what one needs.
        ValueError: A number out of range, an unknown momentum, or Lookahead around Lookahead.
        StepError: The optimizer keeps no momentum, and `momentum` is not "keep".

    Reference:
        Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610, Algorithm 1; momentum: appendix D.1.

    Differs:
        A parameter without a gradient is not counted and not synced, as it does not move.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = thalweg.Lookahead(torch.optim.SGD([w], lr=0.25), k=2, alpha=0.5)
        >>> for _ in range(2):
        ...     w.grad = torch.ones(1)
        ...     optimizer.step()
        >>> w.tolist()
        [0.75]
    """

    label = "lookahead"
    hypers = option.hypers
    choices: ClassVar = {"momentum": ("keep", "reset", "pullback")}

    _averaging: bool = False

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        k: int = 6,
        alpha: float = 0.5,
        momentum: Literal["keep", "reset", "pullback"] = "keep",
    ) -> None:
        super().__init__(optimizer, k=k, alpha=alpha, momentum=momentum)

    def _advance(self, closure: Closure | None) -> Any:
        self._refuse_between("step()")
        if closure is None:
            coming = self._coming()
            loss = self.base_optimizer.step()
        else:
            check_accepts_closure(self.base_optimizer)
            found: list[_Coming] = []

            def evaluate() -> Any:
                """Look at the weights and gradients where the first call leaves them."""
                with torch.enable_grad():
                    value = closure()
                if not found:
                    found.append(self._coming())
                return value

            loss = self.base_optimizer.step(evaluate)
            if not found:
                raise StepError(
                    f"{type(self.base_optimizer).__name__}.step(closure) never called the closure; call "
                    "it yourself and step() without one"
                )
            coming = found[0]
        with torch.no_grad():
            self._count(coming)
            for sync in coming.syncs:
                self._sync(sync)
        return loss

    @torch.no_grad()
    def _coming(self) -> _Coming:
        """Everything that can fail, before anything moves."""
        slow: dict[Tensor, tuple[Tensor, int]] = {}
        begun, syncs, state = [], [], self.state
        for group in self.param_groups:
            k, due = int(self._setting(group, "k")), []
            for p in group["params"]:
                if p.grad is None or p in slow:  # each once, also where it stands twice in a group
                    continue
                entry = state.get(p, _NOTHING)
                if SLOW in entry:
                    # Without a count: a checkpoint of the option, which has the rule's.
                    done = int(entry.get(COUNT, entry.get("step", 0)))
                    kept = entry[SLOW]
                else:
                    begun.append(p)
                    kept, done = p.detach().clone(), 0
                if (done + 1) % k == 0:
                    due.append(p)
                    kept = self._fitted(p, kept)
                slow[p] = kept, done
            if due:
                alpha = float(self._setting(group, "alpha"))
                syncs.append(_Sync(due, alpha, self._setting(group, "momentum")))
        return _Coming(slow, begun, syncs)

    @staticmethod
    def _fitted(p: Tensor, slow: Tensor) -> Tensor:
        """Follow a parameter that was moved to another device or dtype since."""
        if slow.shape != p.shape:
            raise StepError(
                f"a parameter has shape {tuple(p.shape)} now and its {SLOW!r} has {tuple(slow.shape)}: "
                "clear the optimizer's state after replacing weights"
            )
        return slow.to(device=p.device, dtype=p.dtype)

    def _count(self, coming: _Coming) -> None:
        """Write what is the wrapper's, also where the wrapped one has cleared its state in the step."""
        for p, (slow, done) in coming.slow.items():
            self.state.setdefault(p, {}).update({SLOW: slow, COUNT: done + 1})
        if coming.begun:
            self._begin_momenta(coming.begun)

    def _begin_momenta(self, params: Iterable[Tensor]) -> None:
        """Look for the momentum when state has just been made, and begin its slow copy at zero."""
        modes = {p: self._setting(g, "momentum") for g in self.param_groups for p in g["params"]}
        for p in params:
            if modes[p] == "keep":
                continue
            momenta = self._momenta(p)
            if not momenta:
                del self.state[p][SLOW], self.state[p][COUNT]
                found = ", ".join(map(repr, self.state[p])) or "nothing"
                raise StepError(
                    f"Lookahead(momentum={modes[p]!r}) needs one of {', '.join(map(repr, MOMENTA))} in "
                    f"the state of {type(self.base_optimizer).__name__}, which has {found}: use "
                    "momentum='keep'"
                )
            if modes[p] == "pullback":
                for key, value in momenta.items():
                    self.state[p][f"lookahead_{key}"] = torch.zeros_like(value)

    def _momenta(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state.get(p, {})
        found = {key: state.get(key) for key in MOMENTA}
        return {
            key: value
            for key, value in found.items()
            if isinstance(value, Tensor)
            and value.shape == p.shape
            and (value.is_floating_point() or value.is_complex())
        }

    def _sync(self, sync: _Sync) -> None:
        _pull(((self.state[p][SLOW], p) for p in sync.params), sync.alpha)
        if sync.momentum == "keep":
            return
        fast = [(p, key, m) for p in sync.params for key, m in self._momenta(p).items()]
        if sync.momentum == "reset":
            for momenta, _ in elementwise((m, m) for _, _, m in fast):
                torch._foreach_zero_(momenta)
        else:
            slow = [(self._slow_momentum(p, f"lookahead_{key}", m), m) for p, key, m in fast]
            _pull(slow, sync.alpha)

    def _slow_momentum(self, p: Tensor, key: str, like: Tensor) -> Tensor:
        state = self.state[p]
        state[key] = state[key].to(like) if key in state else torch.zeros_like(like)
        return cast(Tensor, state[key])

    def _refuse_between(self, what: str) -> None:
        super()._refuse_between(what)
        if self._averaging:
            raise StepError(
                f"{what} inside averaged(): the parameters hold the slow weights; leave the with block "
                "first"
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters hold the slow weights: values are copied, never pointers.

        The fast weights are put back bit for bit; a parameter that never stepped is left as it is.

        Raises:
            StepError: It is already in such a block.
        """
        self._refuse_between("averaged()")
        self._follow()
        params = [p for group in self.param_groups for p in group["params"]]
        states = {p: self.state.get(p, {}) for p in params}
        slow = {p: state[SLOW] for p, state in states.items() if SLOW in state}
        self._averaging = True
        try:
            with holding(slow):
                yield
        finally:
            self._averaging = False


def _pull(pairs: Iterable[tuple[Tensor, Tensor]], alpha: float) -> None:
    """Move what is slow towards what is fast, and then what is fast there."""
    for slow, fast in elementwise(pairs):
        torch._foreach_lerp_(slow, fast, alpha)
        torch._foreach_copy_(fast, slow)
