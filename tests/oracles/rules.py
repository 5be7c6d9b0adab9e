"""One class per algorithm: the state of ONE parameter, and the direction that a gradient gives.

Each holds its own step count ``t``, so a parameter without a gradient falls behind alone. ``doubt``
marks the elements whose last direction hung on a comparison that float32 could decide otherwise.
"""

import numpy as np

NEAR = 1e-6  # relative distance from a switch below which float32 may fall on the other side


def near_zero(value, scale):
    """Return where ``value`` is not zero but close to it, compared with ``scale``."""
    return (value != 0) & (np.abs(value) < NEAR * scale)


class Sgd:
    """Polyak 1964, Nesterov 1983; dampening and the undamped first buffer as in torch."""

    def __init__(self):
        self.buffer = None
        self.doubt = False

    def direction(self, g, momentum=0.0, dampening=0.0, nesterov=False):
        if momentum == 0:
            return g
        if self.buffer is None:
            self.buffer = g.copy()
        else:
            self.buffer = momentum * self.buffer + (1 - dampening) * g
        return g + momentum * self.buffer if nesterov else self.buffer


class Adam:
    """Kingma and Ba 2014, arXiv:1412.6980, Algorithm 1; amsgrad: Reddi et al. 2018, 1904.09237."""

    def __init__(self):
        self.t = 0
        self.m = self.v = self.v_max = 0.0
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.999), eps=1e-8, amsgrad=False):
        beta1, beta2 = betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        self.v_max = np.maximum(self.v_max, self.v)  # of the raw moment, as torch has it
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = (self.v_max if amsgrad else self.v) / (1 - beta2**self.t)
        return m_hat / (np.sqrt(v_hat) + eps)


class RAdam:
    """Liu et al. 2019, arXiv:1908.03265, Algorithm 2; eps beside the raw root, as in torch."""

    def __init__(self):
        self.t = 0
        self.m = self.v = 0.0
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.999), eps=1e-8, n_sma_threshold=5):
        beta1, beta2 = betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat = self.m / (1 - beta1**self.t)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * self.t * beta2**self.t / (1 - beta2**self.t)
        if rho <= n_sma_threshold:
            return m_hat
        above = (rho - 4) * (rho - 2) * rho_inf
        rectification = np.sqrt(above / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return rectification * m_hat * np.sqrt(1 - beta2**self.t) / (np.sqrt(self.v) + eps)


class Lion:
    """Chen et al. 2023, arXiv:2302.06675, Algorithm 2 (the decay is the composition's)."""

    def __init__(self):
        self.m = 0.0
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.99)):
        beta1, beta2 = betas
        c = beta1 * self.m + (1 - beta1) * g
        self.doubt = near_zero(c, np.abs(beta1 * self.m) + np.abs((1 - beta1) * g))
        self.m = beta2 * self.m + (1 - beta2) * g
        return np.sign(c)


class Adafactor:
    """Shazeer and Stern 2018, arXiv:1804.04235, Algorithms 4 and 5 with relative steps (section 8).

    As in torch: means for the paper's sums, eps1 a lower bound of the root instead of added to g^2, lr for
    the paper's 1e-2, and the last two dimensions factored.
    """

    takes = ("lr", "p")

    def __init__(self):
        self.t = 0
        self.r = self.c = self.v = 0.0
        self.doubt = False

    def direction(self, g, p, lr, beta2_decay=-0.8, eps=(2.0**-52, 1e-3), d=1.0):
        self.t += 1
        new = self.t**beta2_decay  # the weight of what is new: 1 - beta2_t
        if g.ndim >= 2:
            self.r = (1 - new) * self.r + new * (g**2).mean(axis=-1)
            self.c = (1 - new) * self.c + new * (g**2).mean(axis=-2)
            whole = np.maximum(self.r.mean(axis=-1), eps[0])[..., None, None]
            v = self.r[..., :, None] * self.c[..., None, :] / whole
        else:
            v = self.v = (1 - new) * self.v + new * g**2
        u = g / np.maximum(np.sqrt(v), eps[0])
        u = u / max(1.0, rms(u) / d)
        return max(eps[1], rms(p)) * min(lr, 1 / np.sqrt(self.t)) * u


def rms(x):
    return np.sqrt((x**2).mean())
