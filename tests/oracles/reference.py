"""The options around a rule, in their one fixed order, one parameter at a time."""

from dataclasses import dataclass

import numpy as np

from oracles.rules import near_zero


@dataclass(frozen=True)
class Options:
    """What is switched on; every default leaves the bare rule with ``lr * direction`` applied."""

    decay: str = "l2"  # or "decoupled", "independent", "direction", "proximal", "own" (the rule's)
    cautious_decay: bool = False
    maximize: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None
    centralize: bool = False
    cautious: str | None = None  # or "plain", "rescaled"
    trust_ratio: bool = False
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
        u = self._direction(name, g, group)  # the step itself where the rule takes lr
        step = u if "lr" in self._taken(name) else group["lr"] * u
        p = self._decayed(name, p, u, group) - step
        if o.decay == "proximal":
            p = p / (1 + group["lr"] * group["weight_decay"])

        if o.lookahead is not None and self.t[name] % o.lookahead[0] == 0:
            self.slow[name] = self.slow[name] + o.lookahead[1] * (p - self.slow[name])
            p = self.slow[name].copy()
        if o.average is not None:
            self.ema[name] = self.ema[name] + (1 - o.average) * (p - self.ema[name])
        self.w[name] = p
        if hasattr(self.rules[name], "after"):
            self.rules[name].after(p)

    def _taken(self, name):
        return getattr(self.rules[name], "takes", ())

    def _direction(self, name, g, group):
        known = ("names", "lr", "initial_lr", "weight_decay", "maximize")
        hypers = {**self.hypers, **{k: v for k, v in group.items() if k not in known}}
        rule, p, o = self.rules[name], self.w[name], self.options
        if self._taken(name):
            hypers |= {"lr": group["lr"], "p": p}
        outside = {
            "p": p,
            "base_lr": group["initial_lr"],
            "weight_decay": group["weight_decay"] if o.decay == "own" else 0.0,
        }
        hypers |= {key: outside[key] for key in getattr(rule, "wants", ())}
        u = rule.direction(g, **hypers)
        if o.decay == "direction":
            u = u + group["weight_decay"] * p
        self.doubt[name] |= self.rules[name].doubt
        if o.cautious is not None:
            self.doubt[name] |= near_zero(u, np.abs(u).max(initial=0.0))
            self.doubt[name] |= near_zero(g, np.abs(g).max(initial=0.0))
            agrees = u * g > 0
            u = np.where(agrees, u, 0.0)
            if o.cautious == "rescaled":
                u = u * (u.size / (agrees.sum() + 1))
        size, length = np.linalg.norm(p), np.linalg.norm(u)
        if o.trust_ratio and u.ndim >= 2 and size > 0 and length > 0:
            u = u * (size / length)
        return u

    def _decayed(self, name, p, u, group):
        if self.options.decay not in ("decoupled", "independent") or group["weight_decay"] == 0:
            return p
        rate = group["weight_decay"] * group["lr"]
        if self.options.decay == "independent":
            rate /= group["initial_lr"]
        if not self.options.cautious_decay:
            return p * (1 - rate)
        self.doubt[name] |= near_zero(u, np.abs(u).max(initial=0.0))
        return np.where(u * p >= 0, p * (1 - rate), p)
