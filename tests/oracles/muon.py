"""Muon, and Muon beside AdamW, from the post, from the paper on its scale, and as torch takes both.

Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein 2024, https://kellerjordan.github.io/posts/muon/;
Liu et al. 2025, arXiv:2502.16982, section 2.2. As in torch.optim.Muon the momentum is a mean, and the norm
is not allowed below eps (the post adds eps to it).
"""

import numpy as np

from oracles.rules import Adam


def newton_schulz(g, coefficients, steps, eps):
    """The post's iteration: X <- a X + (b A + c A A) X with A = X X^T, on the shorter side."""
    a, b, c = coefficients
    x = g / max(np.linalg.norm(g), eps)
    if x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon:
    """A matrix is a tensor's first dimension by all others."""

    def __init__(self):
        self.m = 0.0
        self.doubt = False

    def direction(
        self,
        g,
        momentum=0.95,
        nesterov=True,
        ns_coefficients=(3.4445, -4.7750, 2.0315),
        eps=1e-7,
        ns_steps=5,
        adjust_lr_fn=None,
    ):
        self.m = momentum * self.m + (1 - momentum) * g
        mean = momentum * self.m + (1 - momentum) * g if nesterov else self.m
        rows, columns = len(g), g[0].size
        u = newton_schulz(mean.reshape(rows, columns), ns_coefficients, ns_steps, eps)
        if adjust_lr_fn == "match_rms_adamw":
            scale = 0.2 * np.sqrt(max(rows, columns))  # Liu et al. 2025, equation 4
        else:
            scale = np.sqrt(max(1, rows / columns))  # the post's code
        return scale * u.reshape(g.shape)


class MuonAdamW:
    """Muon for what has two dimensions or more, Adam for the rest, as the post advises."""

    def __init__(self):
        self.inner = None
        self.doubt = False

    def direction(
        self, g, betas=(0.9, 0.999), adamw_eps=1e-8, adjust_lr_fn="match_rms_adamw", **numbers
    ):
        if self.inner is None:
            self.inner = Muon() if g.ndim >= 2 else Adam()
        if g.ndim >= 2:
            return self.inner.direction(g, adjust_lr_fn=adjust_lr_fn, **numbers)
        return self.inner.direction(g, betas=betas, eps=adamw_eps)
