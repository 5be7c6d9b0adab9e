"""Lookahead and SAM around momentum SGD, for all parameters together, from their papers."""

import numpy as np


class Momentum:
    """Heavy ball as in torch: the first buffer is the gradient."""

    def __init__(self, lr, momentum):
        self.lr, self.momentum = lr, momentum
        self.buffer = None

    def step(self, w, g):
        self.buffer = g if self.buffer is None else self.momentum * self.buffer + g
        return w - self.lr * self.buffer


def lookahead(w, gradient, steps, lr, beta, k, alpha, momentum):
    """Zhang et al. 2019, Algorithm 1; the inner state after appendix D.1."""
    inner, slow, slow_buffer = Momentum(lr, beta), w, np.zeros_like(w)
    path = []
    for t in range(1, steps + 1):
        w = inner.step(w, gradient(w, t))
        if t % k == 0:
            slow = slow + alpha * (w - slow)
            w = slow
            if momentum == "reset":
                inner.buffer = np.zeros_like(w)
            elif momentum == "pullback":
                slow_buffer = slow_buffer + alpha * (inner.buffer - slow_buffer)
                inner.buffer = slow_buffer
        path.append((w, slow))
    return path


def sam(ws, gradient, steps, lr, beta, rhos, eta=None):
    """Foret et al. 2020, Algorithm 1; with eta Kwon et al. 2021, Algorithm 1. Lists of tensors."""
    inner = [Momentum(lr, beta) for _ in ws]
    path = []
    for t in range(1, steps + 1):
        gs = gradient(ws, t)
        ts = [np.ones_like(w) if eta is None else np.abs(w) + eta for w in ws]
        norm = np.sqrt(sum(((s * g) ** 2).sum() for s, g in zip(ts, gs, strict=True)))
        climbed = [
            w + rho * s * s * g / norm for w, s, g, rho in zip(ws, ts, gs, rhos, strict=True)
        ]
        gs = gradient(climbed, t)
        ws = [i.step(w, g) for i, w, g in zip(inner, ws, gs, strict=True)]
        path.append(ws)
    return path
