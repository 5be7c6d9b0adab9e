"""Muon: momentum whose singular values are all brought to about one; and AdamW for what is no matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.engine.arguments import Flags, Unpack, check_spelling, passed
from thalweg.engine.ops import count, lerp, matrix, maximum, sqrt
from thalweg.engine.optimizer import Optimizer
from thalweg.engine.rule import Hyper, Slot, Switch, rule
from thalweg.errors import ArgumentError
from thalweg.optim.adam import adam
from thalweg.optim.numbers import BETAS

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic x -> a x + b x^3 + c x^5 that Jordan 2024 chose for its slope at zero."""
ADJUSTMENTS = (None, "original", "match_rms_adamw")
ITERATED_IN = torch.bfloat16
"""As the post and torch do: the iteration is stable in it, and matrix products are fastest."""


LARGE = 512
"""Rows and columns from which a matrix keeps all threads busy by itself."""


def newton_schulz(
    x: Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Bring the singular values of every matrix of a stack to about one, its singular vectors kept.

    Args:
        x: Stack of shape (n, rows, columns).
        coefficients: a, b, c of the quintic.
        steps: How often it is applied.
        eps: The least norm to divide by.
    """
    if len(x) > 1 and min(x.shape[1:]) >= LARGE:
        numbers: dict[str, Any] = {"coefficients": coefficients, "steps": steps, "eps": eps}
        return torch.stack([newton_schulz(one[None], **numbers)[0] for one in x])
    a, b, c = coefficients
    wide = x.mT if x.shape[1] > x.shape[2] else x
    wide = wide / torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp(min=eps)
    plus: Callable[..., Tensor] = torch.baddbmm
    if len(x) == 1:
        wide, plus = wide[0], torch.addmm
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = plus(wide, plus(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    wide = wide.mT if x.shape[1] > x.shape[2] else wide
    return wide.reshape(x.shape)


def _check(group: Mapping[str, Any]) -> str | None:
    if isinstance(group["ns_steps"], (int, float)) and group["ns_steps"] >= 100:
        return "Number of steps must be less than 100 for computational efficiency"
    if (
        not isinstance(group["ns_coefficients"], (tuple, list))
        or len(group["ns_coefficients"]) != 3
    ):
        return "Coefficients must be a tuple of exactly 3 values"
    if group["adjust_lr_fn"] not in ADJUSTMENTS:
        return f"Adjust learning rate function {group['adjust_lr_fn']} is not supported"
    return None


@rule(
    slots=(Slot("momentum_buffer"),),
    hypers=(Hyper("momentum", 0.95, low=0.0, says="momentum should be >= 0 but is"),),
    switches=(
        Switch("nesterov", True),
        Switch("ns_coefficients", COEFFICIENTS),
        Switch("eps", 1e-7, low=0.0),
        Switch("ns_steps", 5, low=0, high=100, integer=True),
        Switch("adjust_lr_fn", None, choices=ADJUSTMENTS),
    ),
    paper="Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein 2024, kellerjordan.github.io/posts/muon",
    refuses_sparse="Muon does not support sparse gradients",
    refuses_complex="Muon does not support complex parameters",
    advice='with adjust_lr_fn="match_rms_adamw", lr and weight_decay as for AdamW: Liu et al. 2025, '
    "arXiv:2502.16982, section 2.2",
    check=_check,
    says={
        "lr": "Learning rate should be >= 0 but is",
        "weight_decay": "weight decay should be >= 0 but is",
    },
)
def muon(g, momentum_buffer, *, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn):
    """The momentum, orthogonalized."""
    momentum_buffer = lerp(momentum_buffer, g, 1.0 - momentum)
    mean = lerp(g, momentum_buffer, momentum) if nesterov else momentum_buffer
    u = matrix(
        newton_schulz,
        mean,
        dtype=ITERATED_IN,
        coefficients=tuple(ns_coefficients),
        steps=ns_steps,
        eps=eps,
    )
    columns = count(g, over="row")
    rows = count(g) / columns
    if adjust_lr_fn == "match_rms_adamw":
        return u * (0.2 * sqrt(maximum(rows, columns))), momentum_buffer
    return u * sqrt(maximum(1.0, rows / columns)), momentum_buffer


class Muon(Optimizer):
    """Momentum, orthogonalized: every direction that a matrix acts in gets a step of the same size.

    For the matrices of hidden layers. Embeddings, heads, biases and norms want another optimizer:
    `MuonAdamW` does both. Equal shapes are iterated together, as stacks.

    Formula:
        m = m + (1 - momentum) (g - m)
        u = nesterov: g + momentum (m - g), else m
        X = u / |u|;  ns_steps times: A = X X^T, X = a X + (b A + c A^2) X      (in bfloat16)
        p = p (1 - lr * weight_decay) - lr * r * X
        r = sqrt(max(1, rows / columns)), or with "match_rms_adamw" 0.2 sqrt(max(rows, columns))

    Args:
        params: Parameters of two dimensions, named parameters, or groups.
        lr: Learning rate, >= 0.
        weight_decay: >= 0, decoupled.
        momentum: Decay rate of the mean, >= 0.
        nesterov: Look ahead by one step of the momentum.
        ns_coefficients: a, b, c of the quintic.
        eps: The least norm to divide by.
        ns_steps: How often the quintic is applied, below 100.
        adjust_lr_fn: "original" (None), or "match_rms_adamw", with which AdamW's lr and decay can be kept
            (Liu et al. 2025, arXiv:2502.16982).
        foreach, maximize, capturable, differentiable, fused: As in torch's other classes; torch's Muon has
            none of them. With `fused` the passes before and after the iteration are kernels.
        options: What to compose around it.

    Raises:
        ValueError: A number out of range, or a parameter that has not two dimensions.

    Reference:
        Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein 2024, "Muon: An optimizer for hidden layers in
        neural networks".

    Differs:
        As torch: the momentum is a mean (the post adds g to momentum * m), which the norm takes out again.

    Example:
        >>> import torch, thalweg
        >>> w = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = thalweg.Muon([w], lr=0.1)
        >>> w.grad = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
        >>> optimizer.step()
        >>> (w.diagonal() < -0.05).all().item()
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **flags: Unpack[Flags],
    ) -> None:
        super().__init__(**passed(locals(), rule=muon))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim != 2:
                self.param_groups.pop()
                raise ArgumentError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {p.size()}; "
                    "thalweg.MuonAdamW takes all of a model's"
                )


class MuonAdamW(Optimizer):
    """Muon for the matrices of hidden layers and AdamW for all else, in one optimizer.

    A group may say which it is with `use_muon`; one that does not is split into tensors of two or more
    dimensions (of which the first are rows and all others columns, as convolutions are usually taken) and
    the rest. Embeddings and the last layer are better named `use_muon=False`.

    Formula:
        groups of matrices: as Muon; all others: as AdamW

    Args:
        params: Parameters, named parameters, or groups; a group may have `use_muon`.
        lr: Learning rate of both, >= 0; groups may have their own.
        weight_decay: >= 0, decoupled, of both.
        momentum, nesterov, ns_coefficients, eps, ns_steps: As in Muon.
        adjust_lr_fn: As in Muon; by default "match_rms_adamw", so that one lr serves both.
        betas: AdamW's decay rates, each in [0, 1).
        adamw_eps: AdamW's eps, >= 0.
        foreach, maximize, capturable, differentiable, fused: As in torch.
        options: What to compose around both.

    Raises:
        ValueError: A number out of range, or a vector in a group with `use_muon=True`.

    Reference:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025,
        arXiv:2502.16982; Loshchilov and Hutter 2017, arXiv:1711.05101.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 2))
        >>> optimizer = thalweg.MuonAdamW(model.parameters(), lr=1e-3)
        >>> [(g["rule"], len(g["params"])) for g in optimizer.param_groups]
        [('muon', 2), ('adam', 2)]
    """

    numbers = (*BETAS, Hyper("adamw_eps", 1e-8, low=0.0, says="Invalid epsilon value"))

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        **flags: Unpack[Flags],
    ) -> None:
        own = {"betas": tuple(betas), "adamw_eps": adamw_eps}
        super().__init__(**passed(locals(), "betas", "adamw_eps", rule=muon))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, or two where it holds both kinds and has no `use_muon`.

        Args:
            param_group: As in torch, with any of the constructor's arguments.
        """
        before = len(self.param_groups)
        try:
            for part in self._parts(param_group):
                super().add_param_group(part)
        except Exception:
            del self.param_groups[before:]
            raise

    def _parts(self, param_group: Any) -> list[Any]:
        """Muon's part of a group and AdamW's; what is no group goes on to be refused."""
        params = param_group.get("params") if isinstance(param_group, dict) else None
        if isinstance(params, Tensor):
            params = [params]
        if not isinstance(params, (list, tuple)) and not hasattr(params, "__next__"):
            return [param_group]
        group = {k: v for k, v in param_group.items() if k != "params"}
        check_spelling("MuonAdamW", group, {*self.defaults, "use_muon", "param_names"})
        listed: list[Any] = list(params)  # type: ignore[arg-type]
        if "param_names" in group:
            listed = list(zip(group.pop("param_names"), listed, strict=True))
        wanted = group.pop("use_muon", None)
        chosen = [_is_matrix(x) if wanted is None else bool(wanted) for x in listed]
        matrices = [x for x, of_muon in zip(listed, chosen, strict=True) if of_muon]
        others = [x for x, of_muon in zip(listed, chosen, strict=True) if not of_muon]
        for x in matrices:
            if not _is_matrix(x):
                raise ArgumentError(
                    f"use_muon=True, and a parameter with size {tuple(_tensor(x).shape)} is no matrix; "
                    "put it into a group of its own with use_muon=False"
                )
        style = self.defaults.get("decay_style") or "decoupled"
        full = {**self.defaults, **group}
        adamw = {"rule": adam, "decay_style": style, "betas": full["betas"]}
        others_group = {**group, **adamw, "eps": full["adamw_eps"], "params": others}
        return [{**group, "params": matrices}] * bool(matrices or not others) + [
            others_group
        ] * bool(others)


def _is_matrix(x: Any) -> bool:
    return getattr(_tensor(x), "ndim", 0) >= 2


def _tensor(x: Any) -> Tensor:
    return x[1] if isinstance(x, tuple) else x  # type: ignore[no-any-return]
