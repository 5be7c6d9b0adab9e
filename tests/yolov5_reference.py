"""YOLOv5's training loop as its document describes it, with torch alone: the recipe's oracle."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def interpolate(x: float, end: float, first: float, last: float) -> float:
    return last if x >= end else first + (last - first) / end * x


class Ema:
    """The average of everything floating in the state_dict, on a copy of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.updates = copy.deepcopy(model), 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        d = 0.9999 * (1 - math.exp(-self.updates / 2000))
        now = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.dtype.is_floating_point:
                value *= d
                value += (1 - d) * now[name]


def train(
    model: nn.Module,
    batch: Callable[[int], torch.Tensor],
    *,
    adam: bool,
    linear: bool,
    batch_size: int,
    epochs: int,
    batches: int,
    hyp: dict[str, float],
    overflow: int,
    scaler: torch.amp.GradScaler | None,
    note: Callable[[int, torch.optim.Optimizer, nn.Module, nn.Module], None],
) -> Ema:
    """Train; `batch(i)` is the loss of batch i, made infinite at batch `overflow`."""
    nominal = 64
    accumulate = max(round(nominal / batch_size), 1)
    decay = hyp["weight_decay"] * batch_size * accumulate / nominal
    biases, weights, norms = [], [], []
    for module in model.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            biases.append(module.bias)
        if isinstance(module, NORMS):
            norms.append(module.weight)
        elif isinstance(getattr(module, "weight", None), nn.Parameter):
            weights.append(module.weight)
    if adam:
        optimizer = torch.optim.Adam(biases, lr=hyp["lr0"], betas=(hyp["momentum"], 0.999))
    else:
        optimizer = torch.optim.SGD(biases, lr=hyp["lr0"], momentum=hyp["momentum"], nesterov=True)
    optimizer.add_param_group({"params": weights, "weight_decay": decay})
    optimizer.add_param_group({"params": norms, "weight_decay": 0.0})

    def curve(epoch: int) -> float:
        if linear:
            return (1 - epoch / epochs) * (1.0 - hyp["lrf"]) + hyp["lrf"]
        return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (hyp["lrf"] - 1) + 1

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=curve)
    ema = Ema(model)
    warmup = max(round(hyp["warmup_epochs"] * batches), 100)
    last_step = -1
    for epoch in range(epochs):
        for i in range(batches):
            ni = i + batches * epoch
            if ni <= warmup:
                accumulate = max(1, round(interpolate(ni, warmup, 1, nominal / batch_size)))
                for j, group in enumerate(optimizer.param_groups):
                    first = hyp["warmup_bias_lr"] if j == 0 else 0.0
                    group["lr"] = interpolate(ni, warmup, first, group["initial_lr"] * curve(epoch))
                    if "momentum" in group:
                        group["momentum"] = interpolate(
                            ni, warmup, hyp["warmup_momentum"], hyp["momentum"]
                        )
            loss = batch(ni) * (math.inf if ni == overflow else 1.0)
            (loss if scaler is None else scaler.scale(loss)).backward()
            if ni - last_step >= accumulate:
                before = 0.0 if scaler is None else scaler.get_scale()
                if scaler is not None:
                    scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
                optimizer.zero_grad()
                if scaler is None or scaler.get_scale() >= before:
                    ema.update(model)
                last_step = ni
            note(ni, optimizer, model, ema.model)
        scheduler.step()
    return ema
