"""Prodigy over all tensors, in float64 NumPy, from Mishchenko and Defazio 2023, Algorithm 4."""

import numpy as np


class Prodigy:
    """All parameters at once, since d is one number for all of them."""

    def __init__(
        self, params, lr=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0, d0=1e-6,
        d_coef=1.0, growth_rate=np.inf, use_bias_correction=False, safeguard_warmup=False,
    ):  # fmt: skip
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.start = [p.copy() for p in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.s = [np.zeros_like(p) for p in self.params]
        self.t = [0] * len(self.params)
        self.lr, self.betas, self.eps, self.decay = lr, betas, eps, weight_decay
        self.beta3 = np.sqrt(betas[1]) if beta3 is None else beta3
        self.d = self.best = self.d0 = d0
        self.r = 0.0
        self.coef, self.growth = d_coef, growth_rate
        self.corrected, self.safe = use_bias_correction, safeguard_warmup

    def step(self, grads, lr=None):
        """One step; a gradient that is None leaves its parameter out."""
        b1, b2 = self.betas
        d, lr = self.d, self.lr if lr is None else lr
        moved = size = 0.0
        for i, g in enumerate(grads):
            if g is None:
                continue
            g = np.asarray(g, dtype=np.float64)
            self.t[i] += 1
            k = np.sqrt(1 - b2 ** self.t[i]) / (1 - b1 ** self.t[i]) if self.corrected else 1.0
            rate = d * lr * k
            moved += (d / self.d0) * rate * np.sum(g * (self.start[i] - self.params[i]))
            self.m[i] = b1 * self.m[i] + (1 - b1) * d * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * (d * g) ** 2
            self.s[i] = self.beta3 * self.s[i] + d / self.d0 * (d if self.safe else rate) * g
            size += np.abs(self.s[i]).sum()
            kept = self.params[i] * (1 - d * lr * self.decay)
            self.params[i] = kept - rate * self.m[i] / (np.sqrt(self.v[i]) + d * self.eps)
        self.r = self.beta3 * self.r + moved
        if size > 0:
            estimate = self.coef * self.r / size
            self.best = max(self.best, estimate)
            start = max(d, estimate) if d == self.d0 else d
            self.d = min(self.best, start * self.growth)
