"""NAdam."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.ops import as_stored, lerp, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Scalar, rule
from thalweg.optim.numbers import BETAS, EPS, MOMENTS


@rule(
    slots=MOMENTS,
    scalars=(Scalar("mu_product", 1.0),),
    hypers=(*BETAS, EPS, Hyper("momentum_decay", 4e-3, low=0.0)),
    paper="Dozat 2016, ICLR workshop, Algorithm 2",
    refuses_sparse="NAdam does not support sparse gradients",
    decay="l2",
)
def nadam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, momentum_decay, mu_product, t):
    """Adam with the momentum that the next step would have."""
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * momentum_decay))
    mu_product = as_stored(mu_product * as_stored(mu, mu_product), mu_product)
    exp_avg = lerp(exp_avg, g, 1.0 - beta1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    now = (1.0 - mu) / (1.0 - mu_product)
    ahead = mu_next / (1.0 - mu_product * mu_next)
    root = sqrt(exp_avg_sq / (1.0 - beta2**t)) + eps
    return (g * now + exp_avg * ahead) / root, exp_avg, exp_avg_sq, mu_product


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's momentum, which looks one step ahead, warmed up by a schedule of its own.

    The momentum grows from beta1 / 2 to beta1 over some 1 / momentum_decay hundred steps, whatever lr
    does. The product of all momenta so far is kept per parameter as `mu_product`.

    Formula:
        mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2);  M_t = mu_1 * ... * mu_t
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
        u = (1 - mu_t) / (1 - M_t) * g + mu_(t+1) / (1 - M_(t+1)) * m
        p = p - lr * u / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0; a number or a tensor of one element.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0; an L2 penalty unless `decoupled_weight_decay` or a Decay option says otherwise.
        momentum_decay: How fast the momentum reaches beta1, >= 0.
        decoupled_weight_decay: Decay as AdamW does (NAdamW).
        foreach, maximize, capturable, differentiable: As in torch.
        fused: As in torch's other classes: torch's NAdam has no fused form, ours has.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Dozat 2016, "Incorporating Nesterov Momentum into Adam", ICLR workshop, Algorithm 2; the schedule of
        mu is its section 2.

    Differs:
        As torch: the mean decays by beta1, where Algorithm 2 has mu_t; mu_product is a number in torch's
        precision for such (float32 under the default dtype), and computed with as stored.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.NAdam([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[w])
        ['exp_avg', 'exp_avg_sq', 'mu_product', 'step']
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=nadam))
