"""The other algorithms, each against the libraries that have it; what those do besides is turned off."""

from __future__ import annotations

from typing import Any

from .peers import COMPARISONS, Comparison, Options, Row, ours, peer, torch_rows

TWO, ONE, REDUCING = "two or more slots", "one slot", "reductions"
FUSED = "one slot that torch fuses too"
KINDS: dict[str, str] = {
    "adagrad": FUSED, "adadelta": TWO, "rmsprop": ONE, "adamax": TWO, "nadam": TWO, "asgd": ONE, "rprop": TWO,
    "adabound": TWO, "adan": TWO, "adabelief": TWO, "adopt": TWO, "ademamix": TWO, "signum": ONE,
    "sgdschedulefree": ONE, "adamwschedulefree": TWO, "radamschedulefree": TWO,
    "adafactor": REDUCING, "lamb": REDUCING, "lars": REDUCING, "novograd": REDUCING, "prodigy": REDUCING,
    "stableadamw": REDUCING,
}  # fmt: skip
"""What each is, for the bar that it is held against."""
SLOTS = {
    "adagrad": 1, "rmsprop": 1, "asgd": 1, "signum": 1, "lars": 1, "novograd": 1, "sgdschedulefree": 1,
    "adafactor": 1, "adan": 4, "ademamix": 3, "prodigy": 4,
}  # fmt: skip


def _torch(cls: str, **given: Any) -> Comparison:
    name = cls.lower()
    rows = [*ours(cls, **given)[:1], *torch_rows(cls, fused=cls == "Adagrad", **given)]
    return Comparison(name, tuple(rows), "torch foreach", SLOTS.get(name, 2))


def _others(cls: str, given: Options, *rows: list[Row], **mine: Any) -> Comparison:
    name = cls.lower()
    every = [*ours(cls, **given, **mine)[:1], *(row for found in rows for row in found)]
    return Comparison(name, tuple(every), "thalweg fused", SLOTS.get(name, 2), warmup=6)


def _po(cls: str, given: Options, **more: Any) -> list[Row]:
    return peer("pytorch_optimizer", "pytorch_optimizer", cls, False, True, **given, **more)


def _timm(cls: str, given: Options, *modes: bool, **more: Any) -> list[Row]:
    return peer("timm", "timm.optim", cls, *modes, **given, **more)


def _optimi(cls: str, given: Options, **more: Any) -> list[Row]:
    return peer("optimi", "optimi", cls, False, True, **given, **more)


def _free(cls: str, given: Options) -> list[Row]:
    return peer("schedulefree", "schedulefree", cls, False, True, **given)


LR: Options = {"lr": 1e-3}
FAMILIES = (
    _torch("Adagrad", lr=1e-3),
    _torch("Adadelta", lr=1e-3),
    _torch("RMSprop", lr=1e-3),
    _torch("Adamax", lr=1e-3),
    _torch("NAdam", lr=1e-3),
    _torch("ASGD", lr=1e-3),
    _torch("Rprop", lr=1e-3),
    _torch("Adafactor", lr=1e-3),
    _others("AdaBound", LR, _po("AdaBound", LR)),
    _others("Adan", LR, _po("Adan", LR), _optimi("Adan", LR), _timm("Adan", LR, True)),
    _others("AdaBelief", LR, _po("AdaBelief", LR, rectify=False), _timm("AdaBelief", LR, rectify=False)),
    _others("ADOPT", LR, _po("ADOPT", LR), _timm("Adopt", LR, True)),
    _others("AdEMAMix", LR, _po("AdEMAMix", LR)),
    _others("Signum", LR, _po("SignSGD", LR)),
    _others("StableAdamW", LR, _po("StableAdamW", LR, kahan_sum=False), _optimi("StableAdamW", LR)),
    _others("NovoGrad", LR, _po("NovoGrad", LR), _timm("NvNovoGrad", LR)),
    # Without decay timm's computes no ratio unless it is told to: that would be SGD.
    _others("LARS", LR, _po("LARS", LR), _timm("Lars", LR, momentum=0.9, always_adapt=True)),
    _others("LAMB", LR, _po("Lamb", LR, max_grad_norm=0.0), _timm("Lamb", LR, max_grad_norm=None)),
    _others("Prodigy", {}, _po("Prodigy", {}), peer("prodigyopt", "prodigyopt", "Prodigy")),
    _others("SGDScheduleFree", LR, _free("SGDScheduleFree", LR), _po("ScheduleFreeSGD", LR)),
    _others("AdamWScheduleFree", LR, _free("AdamWScheduleFree", LR), _po("ScheduleFreeAdamW", LR)),
    _others("RAdamScheduleFree", LR, _free("RAdamScheduleFree", LR), _po("ScheduleFreeRAdam", LR)),
    Comparison(
        "muonadamw",
        (
            Row("thalweg fused", "thalweg", "MuonAdamW", {"lr": 1e-3, "adjust_lr_fn": "original"}),
            Row("torch", "torch.optim", "Muon", {"lr": 1e-3}),
        ),
        "torch",
        1,
    ),
)  # fmt: skip

ALL = {**COMPARISONS, **{comparison.name: comparison for comparison in FAMILIES}}
