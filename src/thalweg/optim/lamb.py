"""LAMB: Adam's rule with decay inside the direction and a trust ratio."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, passed
from thalweg.engine.optimizer import Optimizer
from thalweg.optim.adam import adam
from thalweg.options import Decay, TrustRatio


class LAMB(Optimizer):
    """Adam whose steps are scaled, tensor by tensor, to the size of the weights.

    For large batches (BERT in 76 minutes): a step changes each matrix by lr of its norm, so that one lr
    fits all layers. It is a composition: the Adam rule with the options Decay("direction") and TrustRatio.
    Tensors of one dimension (biases, norm weights) take Adam's steps; the authors give them no decay, which
    is a group's business.

    Formula:
        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p, with Adam's m_hat and v_hat
        p = p - lr * |p| / |u| * u, for vectors and where |p| or |u| is 0: p = p - lr * u

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of the two means, each in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, inside the direction unless a Decay option says otherwise.
        foreach, maximize, capturable, differentiable, fused: As in torch's classes.
        options: What else to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh 2020, arXiv:1904.00962,
        Algorithm 2, with phi(z) = z.

    Differs:
        Vectors keep their direction's length, as in the authors' code (its exclude_from_layer_adaptation);
        the paper scales every layer. Arguments as torch names them; the authors have TensorFlow's.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = thalweg.LAMB([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in w[0].tolist()]
        [0.9, 0.9]
    """

    advice = (
        "for large batches: lr grows with the root of the batch (6.25e-4 at 512, 5e-3 at 32768 for BERT) "
        "and the epochs of warm-up with the batch: You et al. 2019, arXiv:1904.00962, section 4"
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=adam, parts=(Decay("direction"), TrustRatio())))
