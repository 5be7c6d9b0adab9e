"""The older algorithms, one class per algorithm, as in ``rules``.

One whose ``takes`` names lr gives the step itself. Numbers that live across steps are kept in float32,
as torch keeps them; everything else is float64.
"""

import numpy as np

from oracles.rules import near_zero


class Adagrad:
    """Duchi, Hazan, Singer 2011, JMLR 12; lr_decay and eps beside the root as torch documents them."""

    def __init__(self):
        self.t = 0
        self.sum = None
        self.doubt = False

    def direction(self, g, lr_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
        if self.sum is None:
            self.sum = np.full(g.shape, float(initial_accumulator_value))
        self.sum = self.sum + g**2
        rate = 1 / (1 + self.t * lr_decay)  # t: steps before this one
        self.t += 1
        return rate * g / (np.sqrt(self.sum) + eps)


class Adadelta:
    """Zeiler 2012, arXiv:1212.5701, Algorithm 1."""

    def __init__(self):
        self.squares = self.deltas = 0.0
        self.doubt = False

    def direction(self, g, rho=0.9, eps=1e-6):
        self.squares = rho * self.squares + (1 - rho) * g**2
        delta = np.sqrt(self.deltas + eps) / np.sqrt(self.squares + eps) * g
        self.deltas = rho * self.deltas + (1 - rho) * delta**2
        return delta


class RMSprop:
    """Tieleman and Hinton 2012; centered: Graves 2013, arXiv:1308.0850; eps beside the root."""

    def __init__(self):
        self.squares = self.mean = self.buffer = 0.0
        self.doubt = False

    def direction(self, g, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
        self.squares = alpha * self.squares + (1 - alpha) * g**2
        variance = self.squares
        if centered:
            self.mean = alpha * self.mean + (1 - alpha) * g
            variance = variance - self.mean**2
        self.buffer = momentum * self.buffer + g / (np.sqrt(variance) + eps)
        return self.buffer


class Adamax:
    """Kingma and Ba 2014, arXiv:1412.6980, Algorithm 2, with eps beside the magnitude."""

    def __init__(self):
        self.t = 0
        self.m = self.largest = 0.0
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.999), eps=1e-8):
        self.t += 1
        self.m = betas[0] * self.m + (1 - betas[0]) * g
        self.largest = np.maximum(betas[1] * self.largest, np.abs(g) + eps)
        return self.m / (1 - betas[0] ** self.t) / self.largest


class NAdam:
    """Dozat 2016, ICLR workshop, Algorithm 2 with its schedule of mu; the mean decays by beta1."""

    def __init__(self):
        self.t = 0
        self.m = self.v = 0.0
        self.product = np.float32(1.0)
        self.doubt = False

    def direction(self, g, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3):
        beta1, beta2 = betas
        self.t += 1
        mu, next_mu = (
            beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (self.t, self.t + 1)
        )
        self.product = np.float32(self.product * np.float32(mu))
        product = float(self.product)
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat = next_mu * self.m / (1 - product * next_mu) + (1 - mu) * g / (1 - product)
        return m_hat / (np.sqrt(self.v / (1 - beta2**self.t)) + eps)


class Asgd:
    """Polyak and Juditsky 1992 with the schedule of Xu 2011, arXiv:1107.2490, as torch documents it."""

    takes = ("lr", "p")

    def __init__(self):
        self.t = 0
        self.eta = None
        self.mu = np.float32(1.0)
        self.average = 0.0
        self.doubt = False

    def direction(self, g, lr, p, lambd=1e-4, alpha=0.75, t0=1e6):
        self.t += 1
        eta = float(np.float32(lr) if self.eta is None else self.eta)
        self.share = float(self.mu)
        self.eta = np.float32(lr / (1 + lambd * lr * self.t) ** alpha)
        self.mu = np.float32(1 / max(1, self.t - t0))
        return eta * (g + lambd * p)

    def after(self, p):
        """Average the new parameter."""
        self.average = self.average + self.share * (p - self.average)


class Rprop:
    """Riedmiller and Braun 1993, as iRprop- of Igel and Huesken 2000."""

    takes = ("lr", "p")

    def __init__(self):
        self.before = self.sizes = None
        self.doubt = False

    def direction(self, g, lr, p, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0)):
        if self.before is None:
            self.before, self.sizes = np.zeros(p.shape), np.full(p.shape, float(lr))
        agreement = self.before * g
        self.doubt = near_zero(g, np.abs(g).max(initial=0.0))
        factor = np.where(agreement > 0, etas[1], np.where(agreement < 0, etas[0], 1.0))
        self.sizes = np.clip(self.sizes * factor, *step_sizes)
        self.before = np.where(agreement < 0, 0.0, g)
        return np.sign(self.before) * self.sizes
