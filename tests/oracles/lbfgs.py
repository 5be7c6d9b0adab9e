"""L-BFGS over one NumPy vector, with steps of fixed length."""

import numpy as np


def lbfgs(gradient, x, lr=1.0, iterations=20, history=100):
    """Return every iterate: Liu and Nocedal 1989; pairs of little curvature are left out, as in torch."""
    pairs, path = [], []
    g = gradient(x)
    d, t = -g, min(1.0, 1.0 / np.abs(g).sum()) * lr
    for _ in range(iterations):
        before = g
        x = x + t * d
        path.append(x)
        g = gradient(x)
        s, y = t * d, g - before
        if y @ s > 1e-10:
            pairs = [*pairs, (s, y)][-history:]
        d, t = -_inverse_hessian_times(g, pairs), lr
    return path


def _inverse_hessian_times(g, pairs):
    """Nocedal and Wright 2006, Algorithm 7.4, written as the BFGS product it stands for."""
    n = len(g)
    s, y = pairs[-1]
    h = np.eye(n) * (s @ y) / (y @ y)
    for s, y in pairs:
        v = np.eye(n) - np.outer(y, s) / (y @ s)
        h = v.T @ h @ v + np.outer(s, s) / (y @ s)
    return h @ g
