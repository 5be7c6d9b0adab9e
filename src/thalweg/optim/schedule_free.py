"""Schedule-free SGD, AdamW and RAdam: rules without momentum, composed with the ScheduleFree option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import passed, several
from thalweg.engine.ops import lerp, sqrt, where
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.option import Option
from thalweg.engine.rule import Hyper, Scalar, rule
from thalweg.optim.numbers import EPS, SQUARE
from thalweg.optim.radam import rectified
from thalweg.options import ScheduleFree

AVERAGING = ("warmup_steps", "r", "weight_lr_power", "free", "dropped")
"""What the classes below have for the option, and their rules have not."""
BETA2 = Hyper("beta2", 0.999, low=0.0, high=1.0)
AVERAGE_AND_BETA2 = (
    Hyper("beta1", 0.9, above=0.0, high=1.0, closed=True, at="betas[0]"),
    Hyper("beta2", 0.999, low=0.0, high=1.0, at="betas[1]"),
)
"""What `betas` holds: the option's beta, and the rule's."""


@rule(
    slots=(SQUARE,),
    hypers=(BETA2, EPS),
    paper="Kingma and Ba 2014, arXiv:1412.6980, Algorithm 1 with beta1 = 0",
    advice="AdamW's lr times 1 to 10, with warm-up (warmup_steps), without a schedule; beta1 up to 0.98 in "
    "long runs; eval() before weights are judged or saved: Defazio et al. 2024, arXiv:2405.15682, and "
    "github.com/facebookresearch/schedule_free",
    refuses_sparse="a mean square of all elements does not support sparse gradients",
)
def root_mean_square(g, exp_avg_sq, *, beta2, eps, t):
    """The gradient over the root of its mean square."""
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    return g / (sqrt(exp_avg_sq / (1.0 - beta2**t)) + eps), exp_avg_sq


@rule(
    slots=(SQUARE,),
    scalars=(
        Scalar("steps", scope="group"),
        Scalar("rectification", "sgd_rate", scope="group"),
    ),
    hypers=(BETA2, EPS, Hyper("sgd_rate", 0.0, low=0.0)),
    paper="Liu, Jiang, He, Chen, Liu, Gao, Han 2019, arXiv:1908.03265, Algorithm 2 with beta1 = 0",
    advice="AdamW's lr times 1 to 10, without a schedule; RAdam's rectification is the warm-up; eval() "
    "before weights are judged or saved: Defazio et al. 2024, arXiv:2405.15682, and "
    "github.com/facebookresearch/schedule_free",
    refuses_sparse="a mean square of all elements does not support sparse gradients",
    lr_scale="rectification",
)
def rectified_root_mean_square(g, exp_avg_sq, *, beta2, eps, sgd_rate, steps, t):
    """The gradient over the root of its mean square, once that is trusted; lr follows how far it is.

    The rectification that is returned is the next step's: this one's was known before it.
    """
    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)
    adapted = g / (sqrt(exp_avg_sq / (1.0 - beta2**t)) + eps)
    length, _ = rectified(beta2, steps + 1.0)
    next_length, variance = rectified(beta2, steps + 2.0)
    following = where(next_length > 4.0, sqrt(variance), sgd_rate)
    return where(length > 4.0, adapted, g), exp_avg_sq, steps + 1.0, following


@rule(
    decay="decoupled",
    refuses_sparse="schedule-free SGD does not support sparse gradients",
    advice="10 to 50 times the lr of an SGD with a schedule, with warm-up (warmup_steps), without a "
    "schedule; eval() before weights are judged or saved: Defazio et al. 2024, arXiv:2405.15682, and "
    "github.com/facebookresearch/schedule_free",
)
def gradient(g):
    """The gradient as it is."""
    return g


class _ScheduleFree(Optimizer):
    """An optimizer whose groups may have the arguments of its constructor, the option's among them."""

    composes = (ScheduleFree,)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with any of the constructor's arguments."""
        if isinstance(param_group, dict):
            param_group = self._own_words(dict(param_group))
        super().add_param_group(param_group)

    def _own_words(self, group: dict[str, Any]) -> dict[str, Any]:
        if "betas" in group:
            both = several(type(self).__name__, "betas", group.pop("betas"), AVERAGE_AND_BETA2)
            group["schedule_free_beta"], group["beta2"] = both
        if "momentum" in group:
            group["schedule_free_beta"] = group.pop("momentum")
        if "silent_sgd_phase" in group:
            group["sgd_rate"] = 0.0 if group.pop("silent_sgd_phase") else 1.0
        for key in ("warmup_steps", "r", "weight_lr_power"):
            if key in group:
                group[f"schedule_free_{key}"] = group.pop(key)
        return group


class SGDScheduleFree(_ScheduleFree):
    """SGD that needs no schedule: the weights that are evaluated are an average of those that step.

    Call `optimizer.train()` before training and `optimizer.eval()` before evaluating or saving the model.
    The learning rate is larger than SGD's with momentum, often 10 times or more.

    Formula:
        u = g, with the ScheduleFree option

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        momentum: ScheduleFree's beta, in (0, 1].
        weight_decay: >= 0, decoupled.
        warmup_steps: Steps in which lr ramps up, >= 0.
        r: Power of the step in the average's weights.
        weight_lr_power: Power of the largest lr in them, >= 0.
        foreach, maximize, capturable, differentiable, fused: As in torch.
        options: What else to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky 2024, arXiv:2405.15682.

    Differs:
        Training mode is the first one: `train()` need not be called before the first step.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.SGDScheduleFree([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> with optimizer.averaged():
        ...     [round(x, 4) for x in w.tolist()]
        [0.8, 0.8]
    """

    numbers = (Hyper("momentum", 0.9, above=0.0, high=1.0, closed=True),)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        free = [*options, ScheduleFree(momentum, warmup_steps, r, weight_lr_power)]
        super().__init__(**passed(locals(), *AVERAGING, "momentum", rule=gradient, options=free))


class AdamWScheduleFree(_ScheduleFree):
    """AdamW that needs no schedule: the weights that are evaluated are an average of those that step.

    Call `optimizer.train()` before training and `optimizer.eval()` before evaluating or saving the model.
    The learning rate is 1 to 10 times that of AdamW with a schedule.

    Formula:
        u = g / (sqrt(v_hat) + eps), with the ScheduleFree option

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: ScheduleFree's beta, in (0, 1], and the decay rate of the mean square, in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, decoupled.
        warmup_steps: Steps in which lr ramps up, >= 0.
        r: Power of the step in the average's weights.
        weight_lr_power: Power of the largest lr in them, >= 0.
        foreach, maximize, capturable, differentiable, fused: As in torch.
        options: What else to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky 2024, arXiv:2405.15682.

    Differs:
        Training mode is the first one: `train()` need not be called before the first step.
        The mean square's bias is corrected by each parameter's own count of steps, the authors' by the
        group's.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.AdamWScheduleFree([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> optimizer.eval()
        >>> [round(x, 4) for x in w.tolist()]
        [0.9, 0.9]
    """

    numbers = AVERAGE_AND_BETA2

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        free = [*options, ScheduleFree(betas[0], warmup_steps, r, weight_lr_power)]
        numbers = passed(locals(), *AVERAGING, "betas", rule=root_mean_square, options=free)
        super().__init__(**numbers, beta2=betas[1])


class RAdamScheduleFree(_ScheduleFree):
    """AdamWScheduleFree without a warm-up: the mean square is not used before it can be trusted.

    Call `optimizer.train()` before training and `optimizer.eval()` before evaluating or saving the model.

    Formula:
        r_t > 4: u = g / (sqrt(v_hat) + eps), and lr times RAdam's rectification
        else:    u = g, and lr times 0 (silent) or 1
        with the ScheduleFree option

    Args:
        params: Parameters, named parameters, or groups.
        lr: Learning rate, >= 0.
        betas: ScheduleFree's beta, in (0, 1], and the decay rate of the mean square, in [0, 1).
        eps: Added to the root, >= 0.
        weight_decay: >= 0, decoupled.
        r: Power of the step in the average's weights.
        weight_lr_power: Power of the largest lr in them, >= 0.
        foreach: As in torch.
        silent_sgd_phase: Do nothing in the first steps, instead of SGD.
        maximize, capturable, differentiable, fused: As in torch.
        options: What else to compose around it.

    Raises:
        ValueError: A number out of range.

    Reference:
        Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky 2024, arXiv:2405.15682; Liu et al. 2019,
        arXiv:1908.03265.

    Differs:
        Training mode is the first one: `train()` need not be called before the first step.
        The mean square's bias is corrected by each parameter's own count of steps, the authors' by the
        group's.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = thalweg.RAdamScheduleFree([w], lr=0.1)
        >>> (w**2).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [1.0, 1.0]
    """

    numbers = AVERAGE_AND_BETA2

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = None,
        silent_sgd_phase: bool = True,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        options: Sequence[Option] = (),
    ) -> None:
        free = [*options, ScheduleFree(betas[0], r=r, weight_lr_power=weight_lr_power)]
        dropped = (*AVERAGING, "betas", "silent_sgd_phase")
        numbers = passed(locals(), *dropped, rule=rectified_root_mean_square, options=free)
        super().__init__(**numbers, beta2=betas[1], sgd_rate=0.0 if silent_sgd_phase else 1.0)
