"""The options around a rule, in their one fixed order, one parameter at a time."""

from dataclasses import dataclass

import numpy as np

from oracles.rules import near_zero


@dataclass(frozen=True)
class Options:
    """What is switched on; every default leaves the bare rule with ``lr * direction`` applied."""

    decay: str = "l2"  # or "decoupled", "independent"
    cautious_decay: bool = False
    maximize: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None
    centralize: bool = False
    cautious: str | None = None  # or "plain", "rescaled"
    lookahead: tuple[int, float] | None = None  # (k, alpha)
    average: float | None = None  # decay of the moving average
    skip_non_finite: bool = False


class Reference:
    """A whole optimizer over named float64 arrays.

    ``groups`` are dicts with "names", "lr", "weight_decay", perhaps "maximize", and anything that
    the rule's ``direction`` takes; ``hypers`` are the rule's numbers for all groups.
    """

    def __init__(self, rule, weights, groups, options=None, **hypers):
        self.options = options or Options()
        self.w = {name: np.array(w, dtype=np.float64) for name, w in weights.items()}
        self.groups = [{"initial_lr": g["lr"], **g} for g in groups]
        self.hypers = hypers
        self.group_of = {name: g for g in self.groups for name in g["names"]}
        self.rules = {name: rule() for name in self.w}
        self.t = dict.fromkeys(self.w, 0)
        self.slow, self.ema = {}, {}
        self.doubt = {name: np.zeros(w.shape, dtype=bool) for name, w in self.w.items()}
        self.skipped = 0

    def step(self, grads):
        """Take one step; a parameter whose gradient is None or missing stays as it is."""
        live = {n: np.array(g, dtype=np.float64) for n, g in grads.items() if g is not None}
        if self.options.skip_non_finite and not all(np.isfinite(g).all() for g in live.values()):
            self.skipped += 1
            return
        live = {n: self._signed_and_clamped(n, g) for n, g in live.items()}
        factor = self._norm_factor(live)
        for name, g in live.items():
            self._update(name, g * factor)

    def _signed_and_clamped(self, name, g):
        if self.options.maximize or self.group_of[name].get("maximize", False):
            g = -g
        if self.options.clip_value is not None:
            g = np.clip(g, -self.options.clip_value, self.options.clip_value)
        return g

    def _norm_factor(self, live):
        if self.options.clip_norm is None:
            return 1.0
        norm = np.sqrt(sum(float((g * g).sum()) for g in live.values()))
        return min(1.0, self.options.clip_norm / (norm + 1e-6))

    def _update(self, name, g):
        group, o, p = self.group_of[name], self.options, self.w[name]
        if self.t[name] == 0:
            self.slow[name], self.ema[name] = p.copy(), p.copy()
        self.t[name] += 1

        if o.centralize and g.ndim >= 2:
            g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
        if o.decay == "l2":
            g = g + group["weight_decay"] * p
        u = self._direction(name, g, group)
        step = u if hasattr(self.rules[name], "returns_step") else group["lr"] * u
        p = self._decayed(name, p, u, group) - step

        if o.lookahead is not None and self.t[name] % o.lookahead[0] == 0:
            self.slow[name] = self.slow[name] + o.lookahead[1] * (p - self.slow[name])
            p = self.slow[name].copy()
        if o.average is not None:
            self.ema[name] = self.ema[name] + (1 - o.average) * (p - self.ema[name])
        self.w[name] = p

    def _direction(self, name, g, group):
        known = ("names", "lr", "initial_lr", "weight_decay", "maximize")
        hypers = {**self.hypers, **{k: v for k, v in group.items() if k not in known}}
        if hasattr(self.rules[name], "returns_step"):
            hypers |= {"p": self.w[name], "lr": group["lr"]}
        u = self.rules[name].direction(g, **hypers)
        self.doubt[name] |= self.rules[name].doubt
        if self.options.cautious is not None:
            self.doubt[name] |= near_zero(u, np.abs(u).max(initial=0.0))
            self.doubt[name] |= near_zero(g, np.abs(g).max(initial=0.0))
            agrees = u * g > 0
            u = np.where(agrees, u, 0.0)
            if self.options.cautious == "rescaled":
                u = u * (u.size / (agrees.sum() + 1))
        return u

    def _decayed(self, name, p, u, group):
        if self.options.decay == "l2" or group["weight_decay"] == 0:
            return p
        rate = group["weight_decay"] * group["lr"]
        if self.options.decay == "independent":
            rate /= group["initial_lr"]
        if not self.options.cautious_decay:
            return p * (1 - rate)
        self.doubt[name] |= near_zero(u, np.abs(u).max(initial=0.0))
        return np.where(u * p >= 0, p * (1 - rate), p)
