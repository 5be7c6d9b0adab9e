"""The algorithms of 2017 to 2024, as `rules` has the classical ones: one class, one parameter each.

A rule that names something in ``wants`` is told it: the weights ``p``, the ``weight_decay`` that it
places itself, ``base_lr``, the learning rate that the run began with.
"""

import numpy as np

from oracles.rules import near_zero


class Signum:
    """Bernstein et al. 2018, arXiv:1802.04434, Algorithms 1 (no momentum) and 2."""

    def __init__(self):
        self.m = 0.0
        self.doubt = False

    def direction(self, g, momentum=0.0):
        old, new = momentum * self.m, (1 - momentum) * g
        self.m = old + new
        self.doubt = near_zero(self.m, np.abs(old) + np.abs(new))
        return np.sign(self.m)


class AdaBound:
    """Luo et al. 2019, arXiv:1902.09843, Algorithms 2 and 3; constants as in the authors' code.

    All of the authors' step is a multiple of lr, which is left out here: the direction.
    """

    wants = ("base_lr",)

    def __init__(self):
        self.t = 0
        self.m = self.v = self.v_max = 0.0
        self.doubt = False

    def direction(
        self, g, base_lr, betas=(0.9, 0.999), final_lr=0.1, gamma=1e-3, eps=1e-8, amsbound=False
    ):
        beta1, beta2 = betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        self.v_max = np.maximum(self.v_max, self.v)
        root = np.sqrt(self.v_max if amsbound else self.v)
        rate = np.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) / (root + eps)
        lower = final_lr / base_lr * (1 - 1 / (gamma * self.t + 1))
        upper = final_lr / base_lr * (1 + 1 / (gamma * self.t))
        return np.clip(rate, lower, upper) * self.m


class Adan:
    """Xie et al. 2022, arXiv:2208.06677, Algorithm 1; betas and bias correction as in their code."""

    def __init__(self):
        self.t = 0
        self.m = self.v = self.n = 0.0
        self.g = None
        self.doubt = False

    def direction(self, g, betas=(0.98, 0.92, 0.99), eps=1e-8):
        b1, b2, b3 = betas
        self.t += 1
        difference = np.zeros_like(g) if self.g is None else g - self.g
        self.g = g
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * difference
        self.n = b3 * self.n + (1 - b3) * (g + b2 * difference) ** 2
        m_hat, v_hat, n_hat = (
            x / (1 - b**self.t) for x, b in ((self.m, b1), (self.v, b2), (self.n, b3))
        )
        return (m_hat + b2 * v_hat) / (np.sqrt(n_hat) + eps)


class AdaBelief:
    """Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2."""

    def __init__(self):
        self.t = 0
        self.m = self.s = self.s_max = 0.0
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.999), eps=1e-16, amsgrad=False):
        beta1, beta2 = betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.s = beta2 * self.s + (1 - beta2) * (g - self.m) ** 2 + eps
        self.s_max = np.maximum(self.s_max, self.s)
        m_hat = self.m / (1 - beta1**self.t)
        s_hat = (self.s_max if amsgrad else self.s) / (1 - beta2**self.t)
        return m_hat / (np.sqrt(s_hat) + eps)


class Adopt:
    """Taniguchi et al. 2024, arXiv:2411.02853, Algorithm 2; the first gradient is its g_0."""

    def __init__(self):
        self.t = -1
        self.m = 0.0
        self.v = None
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.9999), eps=1e-6, clip_exp=0.25):
        beta1, beta2 = betas
        self.t += 1
        if self.t == 0:
            self.v = g**2
            return np.zeros_like(g)
        c = self.t**clip_exp
        scaled = np.clip(g / np.maximum(np.sqrt(self.v), eps), -c, c)
        self.m = beta1 * self.m + (1 - beta1) * scaled
        self.v = beta2 * self.v + (1 - beta2) * g**2
        return self.m


class AdEMAMix:
    """Pagliardini et al. 2024, arXiv:2409.03137, Algorithm 1 with its schedulers."""

    def __init__(self):
        self.t = 0
        self.fast = self.slow = self.v = 0.0
        self.doubt = False

    def direction(
        self, g, betas=(0.9, 0.999, 0.9999), alpha=2.0, beta3_warmup=0, alpha_warmup=0, eps=1e-8
    ):
        beta1, beta2, beta3 = betas
        self.t += 1
        if self.t < alpha_warmup:
            alpha = alpha * self.t / alpha_warmup
        if self.t < beta3_warmup:
            way, start, end = self.t / beta3_warmup, np.log(beta1), np.log(beta3)
            beta3 = min(np.exp(start * end / ((1 - way) * end + way * start)), beta3)
        self.fast = beta1 * self.fast + (1 - beta1) * g
        self.slow = beta3 * self.slow + (1 - beta3) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        v_hat = self.v / (1 - beta2**self.t)
        return (self.fast / (1 - beta1**self.t) + alpha * self.slow) / (np.sqrt(v_hat) + eps)


class StableAdamW:
    """Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2."""

    wants = ("p", "weight_decay")

    def __init__(self):
        self.t = 0
        self.v = self.u = 0.0  # the paper's names: v is the mean, u the mean square
        self.doubt = False

    def direction(self, g, p, weight_decay, betas=(0.9, 0.99), eps=1e-8, clip_thresh=1.0):
        self.t += 1
        beta1, beta2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in betas)
        self.v = beta1 * self.v + (1 - beta1) * g
        self.u = beta2 * self.u + (1 - beta2) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(self.u, eps**2)))
        share = 1 / max(1, rms / clip_thresh)
        return share * weight_decay * p + share * self.v / (np.sqrt(self.u) + eps)


class NovoGrad:
    """Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1."""

    wants = ("p", "weight_decay")

    def __init__(self):
        self.m = 0.0
        self.v = None
        self.doubt = False

    def direction(self, g, p, weight_decay, betas=(0.95, 0.98), eps=1e-8, grad_averaging=False):
        beta1, beta2 = betas
        square = float((g**2).sum())
        self.v = square if self.v is None else beta2 * self.v + (1 - beta2) * square
        added = g / (np.sqrt(self.v) + eps) + weight_decay * p
        self.m = beta1 * self.m + (1 - beta1 if grad_averaging else 1) * added
        return self.m


class Lars:
    """You et al. 2017, arXiv:1708.03888, Algorithm 1; lr outside the buffer, vectors left out."""

    wants = ("p", "weight_decay")

    def __init__(self):
        self.v = 0.0
        self.doubt = False

    def direction(self, g, p, weight_decay, momentum=0.9, eeta=1e-3, epsilon=0.0):
        size, length = np.linalg.norm(p), np.linalg.norm(g)
        local_lr = 1.0
        if g.ndim >= 2 and size > 0 and length > 0:
            local_lr = eeta * size / (length + weight_decay * size + epsilon)
        self.v = momentum * self.v + local_lr * (g + weight_decay * p)
        return self.v
